"""The promises of docs/validity.md on fewer studies, and that a broken method would be caught."""

import numpy as np
import pytest

from bench.records.results import NoiseClass
from tests.estimates import estimate_pairs
from tests.validation import goals
from tests.validation.goals import PLANS, at_least, at_most, drift_bias, power_at_mde, same_above_margin, study
from tests.validation.simulated import (
    Plan,
    comparisons,
    fixed_times,
    linear,
    noise,
    real_noise,
    simulate,
    times,
    true_sd,
)
from tests.validation.validate import table, write_page


def test_false_verdicts_stay_below_five_percent():
    figures = list(goals.false_verdicts(30))
    assert len(figures) == 2 * len(PLANS)
    assert all(figure.ok for figure in figures), figures
    assert any(figure.value > 0 for figure in figures)


def test_intervals_cover_and_are_not_too_wide():
    plan = PLANS["resampled"]
    for n in (3, 6, 10):
        estimates = [study(plan, n, seed) for seed in range(60)]
        assert np.mean([goals.covers(one, 0.0) for one in estimates]) >= 0.94
        ideal = 2 * 1.96 * true_sd(plan) / np.sqrt(n)
        # Three pairs: Student's factor of 4.3.
        assert n == 3 or np.mean([goals.width(one) for one in estimates], axis=0).mean() / ideal.mean() <= 1.3


def test_effects_at_the_stated_minimum_are_found():
    assert all(figure.ok for figure in power_at_mde(25))


def test_no_same_verdict_above_the_margin():
    assert all(figure.ok for figure in same_above_margin(40))


def test_pairs_remove_the_drift_that_a_fixed_order_shows():
    figures = {(figure.promise, figure.case): figure for figure in drift_bias(20)}
    assert all(figure.ok is not False for figure in figures.values())
    fixed = figures["the same drift in fixed order", "linear of 3 % over 2 h"]
    assert fixed.value > 0.014


def test_intervals_that_are_too_narrow_are_caught(monkeypatch):
    def narrow(plan, repeats, seed):
        logs = simulate(plan, repeats, np.random.default_rng(seed))
        return estimate_pairs(comparisons(plan, logs), confidence=0.8)

    monkeypatch.setattr(goals, "study", narrow)
    assert not all(figure.ok for figure in goals.coverage(30))


def test_noise_is_that_of_the_committed_runs():
    assert sorted(map(len, real_noise().values())) == [3, 5]
    for series in real_noise()[NoiseClass.DEVICE_BOUND]:
        assert 0.001 < series.std() < 0.003
    assert max(series.std() for series in real_noise()[NoiseClass.LAUNCH_BOUND]) > 0.1


@pytest.mark.parametrize("kind", ["resampled", "outliers", "t3", "normal"])
def test_the_true_spread_is_that_of_the_noise(kind):
    plan = Plan(rest=5, launch_bound=3, kind=kind)
    drawn = noise(plan, 20_000, np.random.default_rng(5))
    # Heavy tails: the sample variance settles slowly, that of t3 (infinite fourth moment) very slowly.
    near = {"t3": 0.2, "outliers": 0.1}.get(kind, 0.03)
    assert (drawn[:, 1] - drawn[:, 0]).std(axis=1) == pytest.approx(true_sd(plan), rel=near)


def test_effects_and_drift_are_where_they_belong():
    plan = Plan(rest=2, launch_bound=0, effects=(0.1, 0.0), drift=linear)
    rng = np.random.default_rng(0)
    plain = simulate(Plan(rest=2, launch_bound=0), 4, np.random.default_rng(0))
    moved = simulate(plan, 4, rng) - plain
    assert moved[0, 1] - moved[0, 0] == pytest.approx(0.1, abs=0.03 / 10)
    assert moved[1, 0] == pytest.approx(linear(times(2, 4, 0)[1, 0]))


def test_times_are_one_for_each_run():
    for at in (times(5, 6, 3), fixed_times(5, 6)):
        assert sorted(at.ravel()) == pytest.approx(np.linspace(0, 1, 60))


def test_goals_allow_for_the_error_of_the_simulation():
    assert at_most(0.05).holds(0.06, 0.006) and not at_most(0.05).holds(0.06, 0.004)
    assert not at_most(1.3).holds(1.31, 0.5)
    assert not at_least(0.93).holds(0.929, 1.0)


def test_the_page_keeps_what_people_wrote(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- nights: begin -->\nold\n<!-- nights: end -->\nafter\n")
    write_page(page, table([], "7 simulated studies"), "nights")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "7 simulated studies" in text
