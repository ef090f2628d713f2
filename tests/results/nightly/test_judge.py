import numpy as np
import pytest
from scipy import stats

from bench.nightly.judge import FAILED, FEWEST_NIGHTS, NOT_MEASURED, NightCell, judge_cells, level, spread


def nights(sd=0.003, count=28, seed=1):
    return tuple(1000 * np.exp(np.random.default_rng(seed).normal(0, sd, count)))


def cell(samples_s=1000.0, before=None, **more):
    outcome = "ok" if samples_s else "crashed"
    known = {"name": "a", "outcome": outcome, "reason": "", "noise_class": "rest"}
    return NightCell(**known | more, samples_s=samples_s, before=nights() if before is None else before)


def judge(*cells):
    return judge_cells(cells)


def test_the_test_is_the_prediction_of_one_more_night():
    """Against the formula, where nothing is pooled: t = ln(x / median) / (sd sqrt(1 + pi / 2n)), one-sided."""
    # So wide that no verdict of SAME comes first.
    wide = nights(sd=0.02)
    sd, scale = np.std(np.log(wide), ddof=1), np.sqrt(1 + np.pi / 2 / 28)
    limit = np.median(wide) * np.exp(-stats.t.isf(level(1), 27) * sd * scale)
    assert [judge(cell(limit * factor, wide))[0].verdict for factor in (0.999, 1.001)] == ["SLOWER", "UNDECIDED"]


def test_the_level_keeps_60_nights_of_48_cells_at_5_percent():
    assert level(48) == pytest.approx(1.736e-5, rel=1e-3)
    assert 1 - (1 - level(48)) ** (60 * 48) < 0.05


@pytest.mark.parametrize(("samples_s", "verdict"), [(950.0, "SLOWER"), (1000.0, "SAME"), (1050.0, "FASTER")])
def test_a_change_of_5_percent_is_seen_where_the_nights_are_quiet(samples_s, verdict):
    (told,) = judge(cell(samples_s))
    assert told.verdict == verdict
    assert told.effect == pytest.approx(samples_s / np.median(nights()) - 1, abs=1e-6)
    assert told.guarded and not told.too_noisy


def test_the_interval_holds_the_effect_and_tells_slower_below_zero():
    (told,) = judge(cell(950.0))
    low, high = told.interval
    assert low < told.effect < high < 0


@pytest.mark.parametrize(("sd", "noisy"), [(0.007, False), (0.012, True)])
def test_a_cell_whose_nights_spread_too_much_is_named(sd, noisy):
    told = judge(cell(before=nights(sd)))[0]
    assert told.nightly_spread == pytest.approx(np.std(np.log(nights(sd)), ddof=1))
    assert told.too_noisy is noisy and told.guarded is not noisy
    assert ("too noisy to guard at 5 %" in told.text) is noisy


@pytest.mark.parametrize("count", range(FEWEST_NIGHTS))
def test_too_few_nights_give_no_verdict(count):
    (told,) = judge(cell(500.0, nights(count=count)))
    assert told.verdict is None
    assert f"{count} night" in told.text


@pytest.mark.parametrize(
    ("outcome", "expected", "verdict"),
    [
        ("crashed", False, FAILED),
        ("oom", True, FAILED),
        ("not_runnable", True, NOT_MEASURED),
        ("missing", True, NOT_MEASURED),
        ("not_runnable", False, None),
    ],
)
def test_cells_without_a_figure(outcome, expected, verdict):
    told = judge(cell(None, outcome=outcome, reason="why", expected=expected), cell(950.0))
    assert told[0].verdict == verdict
    assert "why" in told[0].text
    assert told[1].verdict == "SLOWER"


def test_a_pinned_run_takes_the_place_of_the_median_and_the_nights_give_the_spread():
    (told,) = judge(cell(1000.0, pinned=1060.0))
    assert (told.verdict, told.baseline_samples_s) == ("SLOWER", 1060.0)
    assert "than the pinned run" in told.text


def test_one_night_that_went_wrong_does_not_move_the_baseline():
    before = (*nights()[:-1], 500.0)
    assert judge(cell(1000.0, before))[0].baseline_samples_s == pytest.approx(1000, rel=0.002)


def test_nothing_to_judge():
    assert judge_cells([]) == []
    assert spread([1.0]) is None


@pytest.mark.parametrize(
    ("again", "verdict", "said"),
    [
        (952.0, "SLOWER", "4.9 % slower over two measurements of this night (5.0 % slower, 4.8 % slower): confirmed"),
        (1000.0, "UNDECIDED", "not confirmed: measured twice this night (5.0 % slower"),
        (None, "SLOWER", "more than the spread of the nights"),
    ],
)
def test_slower_is_said_only_if_a_second_measurement_says_so_too(again, verdict, said):
    (told,) = judge(cell(950.0, nights(sd=0.004), again_samples_s=again))
    assert told.verdict == verdict and said in told.text
    assert told.again_samples_s == again


def test_what_is_told_of_two_measurements_is_their_mean():
    (told,) = judge(cell(950.0, again_samples_s=970.0))
    assert told.effect == pytest.approx(np.sqrt(950 * 970) / np.median(nights()) - 1)
    low, high = told.interval
    assert low < told.effect < high < 0


def test_a_second_measurement_changes_nothing_where_the_first_was_not_slower():
    first, both = judge(cell(1000.0)), judge(cell(1000.0, again_samples_s=900.0))
    assert (first[0].verdict, first[0].effect) == (both[0].verdict, both[0].effect) and both[0].again_samples_s is None
