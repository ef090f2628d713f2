from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bench.nightly.judge import CONFIRMED_AT, FEWEST_NIGHTS, Tonight, judge_cells, level, power, spread, tail_df
from bench.records.nightly import NightlyVerdict
from bench.records.results import NoiseClass
from bench.records.run import Outcome


def nights(sd=0.003, count=28, seed=1):
    return tuple(1000 * np.exp(np.random.default_rng(seed).normal(0, sd, count)))


def cell(samples_s=1000.0, before=None, **more):
    outcome = Outcome.OK if samples_s else Outcome.CRASHED
    known = {"name": "a", "outcome": outcome, "reason": "", "noise_class": NoiseClass.DEVICE_BOUND}
    return Tonight(**known | more, samples_s=samples_s, before=dated(nights() if before is None else before))


def dated(values):
    return {f"night {number}": value for number, value in enumerate(values, 1)}


def judge(*cells):
    return judge_cells(cells)


def test_the_test_is_the_prediction_of_one_more_night():
    """Against the formula, where nothing is pooled: t = ln(x / median) / (sd sqrt(1 + pi / 2n)), one-sided."""
    # So wide that SAME does not come first.
    wide = nights(sd=0.02)
    sd, scale = np.std(np.log(wide), ddof=1), np.sqrt(1 + np.pi / 2 / 28)
    limit = np.median(wide) * np.exp(-stats.t.isf(level(1), 27) * sd * scale)
    assert [judge(cell(limit * factor, wide))[0].verdict for factor in (0.999, 1.001)] == ["SLOWER", "UNDECIDED"]


def test_the_level_keeps_60_nights_of_48_cells_at_5_percent():
    assert level(48) == pytest.approx(1.736e-5, rel=1e-3)
    assert 1 - (1 - level(48)) ** (60 * 48) < 0.05


@pytest.mark.parametrize(("samples_s", "verdict"), [(950.0, "SLOWER"), (1000.0, "SAME"), (1050.0, "FASTER")])
def test_a_change_of_5_percent_is_found_if_the_nights_are_quiet(samples_s, verdict):
    (judged,) = judge(cell(samples_s))
    assert judged.verdict == verdict
    assert judged.effect == pytest.approx(samples_s / np.median(nights()) - 1, abs=1e-6)
    assert judged.guarded and not judged.too_noisy
    assert judged.margin == 0.02


def test_the_interval_contains_the_effect_and_excludes_zero():
    (judged,) = judge(cell(950.0))
    low, high = judged.interval
    assert low < judged.effect < high < 0


@pytest.mark.parametrize(("sd", "noisy"), [(0.007, False), (0.012, True)])
def test_a_cell_whose_nights_spread_too_much_is_marked(sd, noisy):
    judged = judge(cell(before=nights(sd)))[0]
    assert judged.nightly_spread == pytest.approx(np.std(np.log(nights(sd)), ddof=1))
    assert judged.too_noisy is noisy and judged.guarded is not noisy


@pytest.mark.parametrize(
    ("sd", "count", "guarded", "noisy"),
    [(0.0075, 28, True, False), (0.0075, 6, False, False), (0.0005, 6, True, False), (0.01, 28, False, True)],
)
def test_a_cell_is_guarded_where_a_loss_would_be_found(sd, count, guarded, noisy):
    exact = np.exp(sd * np.resize([1, -1], count) * np.sqrt((count - 1) / count))
    (judged,) = judge(cell(1000.0, tuple(1000 * exact)))
    assert judged.nightly_spread == pytest.approx(sd)
    assert (judged.guarded, judged.too_noisy) == (guarded, noisy)
    assert ("guard" in judged.text) is not guarded


def test_the_power_is_that_of_the_test():
    """Of losses drawn with the spread at its bound, both tests find this share."""
    rng, sd, df, scale, alpha = np.random.default_rng(4), 0.006, 20, 1.05, 1e-4
    bound = sd * np.sqrt(df / stats.chi2.ppf(0.2, df))
    drawn = -np.log(0.95) + rng.normal(0, bound * np.sqrt(scale), (2, 100_000))
    limits = stats.t.isf([alpha, CONFIRMED_AT], df) * sd * np.sqrt(scale)
    found = (drawn > limits[:, None]).all(axis=0).mean()
    assert power(0.05, sd, df, scale, alpha) == pytest.approx(found, abs=0.005)


def test_heavy_tails_of_the_nights_raise_the_limit():
    rng = np.random.default_rng(5)
    for draw, low, high in ((rng.normal, 25, np.inf), (lambda size: rng.standard_t(5, size), 5, 15)):
        many = [tuple(1000 * np.exp(0.004 * draw(size=28))) for _ in range(48)]
        assert low < tail_df([dated(one) for one in many]) <= high
    heavy = [cell(1000.0, before, name=str(at)) for at, before in enumerate(many)]
    lossy = cell(1000.0 * np.exp(-6.5 * np.std(np.log(nights()))), name="lossy")
    normal = [replace(one, before=dated(nights(seed=at))) for at, one in enumerate(heavy)]
    assert judge(lossy, *normal)[0].verdict == "SLOWER"
    assert judge(lossy, *heavy)[0].verdict != "SLOWER"
    assert tail_df([]) == tail_df([dated([1.0] * 6)]) == np.inf


def test_tails_of_cells_that_share_their_nights_count_once():
    """Of normal nights that all cells share every fourth host would else seem to have heavy tails."""
    rng = np.random.default_rng(6)
    hosts = [0.004 * rng.normal(size=(28, 1)) + 0.001 * rng.normal(size=(28, 24)) for _ in range(60)]
    recognised = [tail_df([dated(cell) for cell in np.exp(host).T]) < np.inf for host in hosts]
    assert np.mean(recognised) < 0.1
    # The same values in unlike nights, as if nothing were shared.
    apart = [[rng.permutation(cell) for cell in np.exp(host).T] for host in hosts]
    assert np.mean([tail_df([dated(cell) for cell in host]) < np.inf for host in apart]) > 0.15
    # Heavy tails of the cells' own are seen beside what they share; two cells that mirror each other share nothing.
    heavy = 0.004 * rng.normal(size=(28, 1)) + 0.004 * rng.standard_t(4, (28, 48))
    assert 4 < tail_df([dated(cell) for cell in np.exp(heavy).T]) < 12
    mirrored = 0.004 * rng.normal(size=28)
    assert tail_df([dated(np.exp(mirrored)), dated(np.exp(-mirrored))]) == np.inf


def test_nights_that_only_some_cells_have_do_not_confuse_tails():
    rng = np.random.default_rng(7)
    cells = [dated(np.exp(0.004 * rng.normal(size=28))) for _ in range(6)]
    for at, one in enumerate(cells):
        del one[f"night {at + 3}"]
    cells.append({"another night": 1.0, **dated(np.exp(0.004 * rng.normal(size=5)))})
    assert tail_df(cells) == np.inf


def test_cells_that_are_slower_together_wait_for_the_next_night():
    three = [cell(950.0, nights(seed=seed), name=str(seed)) for seed in range(3)]
    pending = judge(*three)
    assert {one.verdict for one in pending} == {NightlyVerdict.PENDING}
    assert not any(one.unconfirmed for one in pending) and "next night" in pending[0].text
    again = judge(*(replace(one, pending_before=True) for one in three))
    assert {one.verdict for one in again} == {NightlyVerdict.SLOWER}
    assert not any(one.unconfirmed for one in again)
    # One of three is a cell, and is measured again.
    (alone, *_) = judge(three[0], *(replace(one, samples_s=1000.0) for one in three[1:]))
    assert (alone.verdict, alone.unconfirmed) == (NightlyVerdict.SLOWER, True)


def test_single_cell_waits_for_the_next_night_if_asked():
    lossy = cell(950.0, nights(sd=0.004), second_samples_s=952.0)
    (first,) = judge_cells([replace(lossy, second_samples_s=None)], confirm_next_night=True)
    assert (first.verdict, first.unconfirmed) == (NightlyVerdict.SLOWER, True)
    (pending,) = judge_cells([lossy], confirm_next_night=True)
    assert (pending.verdict, pending.unconfirmed) == (NightlyVerdict.PENDING, False)
    (slower,) = judge_cells([replace(lossy, pending_before=True)], confirm_next_night=True)
    assert slower.verdict is NightlyVerdict.SLOWER
    (refuted,) = judge_cells([replace(lossy, second_samples_s=1000.0, pending_before=True)], confirm_next_night=True)
    assert refuted.verdict is NightlyVerdict.UNDECIDED


def test_fewer_cells_are_guarded_where_two_nights_must_agree():
    exact = np.exp(0.009 * np.resize([1, -1], 28) * np.sqrt(27 / 28))
    one = cell(1000.0, tuple(1000 * exact))
    assert [judge_cells([one], both)[0].guarded for both in (False, True)] == [True, False]


def test_a_loss_that_creeps_is_found_against_the_first_nights():
    before = nights(count=130, sd=0.005) * np.exp(np.log(0.95) * np.clip(np.arange(130) - 28, 0, 100) / 100)
    (judged,) = judge(cell(950.0, tuple(before[-28:]), every=tuple(before), first_night="2026-01-01"))
    assert (judged.verdict, judged.creeping, judged.unconfirmed) == (NightlyVerdict.SLOWER, True, False)
    assert judged.reference_effect == pytest.approx(-0.05, abs=0.01)
    assert "little by little" in judged.text and "2026-01-01" in judged.text
    # The rolling median has followed it.
    (rolling,) = judge(cell(950.0, tuple(before[-28:])))
    assert rolling.verdict is not NightlyVerdict.SLOWER


@pytest.mark.parametrize("count", range(FEWEST_NIGHTS))
def test_too_few_nights_give_no_verdict(count):
    (judged,) = judge(cell(500.0, nights(count=count)))
    assert (judged.verdict, judged.effect, judged.nights) == (None, None, count)


@pytest.mark.parametrize(
    ("outcome", "expected", "verdict"),
    [
        ("crashed", False, NightlyVerdict.FAILED),
        ("oom", True, NightlyVerdict.FAILED),
        ("not_runnable", True, NightlyVerdict.NOT_MEASURED),
        ("missing", True, NightlyVerdict.NOT_MEASURED),
        ("not_runnable", False, None),
    ],
)
def test_cells_without_a_throughput(outcome, expected, verdict):
    judged = judge(cell(None, outcome=Outcome(outcome), reason="why", expected=expected), cell(950.0))
    assert (judged[0].verdict, judged[0].outcome, judged[0].reason) == (verdict, outcome, "why")
    assert judged[1].verdict == "SLOWER"


def test_a_pinned_run_replaces_the_median_and_keeps_the_spread():
    (judged,) = judge(cell(1000.0, pinned=1060.0))
    assert (judged.verdict, judged.baseline_samples_s, judged.pinned) == ("SLOWER", 1060.0, True)


def test_one_night_that_went_wrong_does_not_move_the_baseline():
    before = (*nights()[:-1], 500.0)
    assert judge(cell(1000.0, before))[0].baseline_samples_s == pytest.approx(1000, rel=0.002)


def test_nothing_to_judge():
    assert judge_cells([]) == []
    assert spread([1.0]) is None


@pytest.mark.parametrize(
    ("second", "verdict", "effects"),
    [
        (952.0, NightlyVerdict.SLOWER, (-0.050, -0.048)),
        (1000.0, NightlyVerdict.UNDECIDED, (-0.050, 0.0)),
        (None, NightlyVerdict.SLOWER, (None, None)),
    ],
)
def test_slower_needs_a_second_measurement_that_agrees(second, verdict, effects):
    (judged,) = judge(cell(950.0, nights(sd=0.004), second_samples_s=second))
    assert (judged.verdict, judged.second_samples_s) == (verdict, second)
    assert (judged.first_effect, judged.second_effect) == pytest.approx(effects, abs=1e-3)


def test_the_effect_of_two_measurements_is_their_mean():
    (judged,) = judge(cell(950.0, second_samples_s=970.0))
    assert judged.effect == pytest.approx(np.sqrt(950 * 970) / np.median(nights()) - 1)
    low, high = judged.interval
    assert low < judged.effect < high < 0


def test_a_second_measurement_counts_only_after_a_slower_first():
    (first,), (both,) = judge(cell(1000.0)), judge(cell(1000.0, second_samples_s=900.0))
    assert first == both
