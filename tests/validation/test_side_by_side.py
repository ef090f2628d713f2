"""What a process makes of the windows of its sides; the windows themselves are timed nowhere in the tests."""

import numpy as np
import pytest

from tests.validation.control_plan import BASE
from tests.validation.side_by_side import midmean, paired, paired_rates


def test_the_ratio_of_two_sides_is_that_of_their_rounds():
    noise = np.random.default_rng(2)
    # The host drifts by half, and has spells of three times the time: every round has both sides in it.
    rounds = np.linspace(12.0, 18.0, 80) * np.where(noise.random(80) < 0.1, 3.0, 1.0)
    slower = rounds * 1.01 * np.exp(noise.normal(0, 0.001, 80))
    rates = paired_rates({BASE: list(rounds), "launch 1 %": list(slower)}, batch_size=1)
    assert rates["launch 1 %"] / rates[BASE] == pytest.approx(1 / 1.01, abs=3e-4)
    # The medians of each side do not show it.
    assert 12.0 < 1e6 / rates[BASE] < 18.0


def test_the_difference_of_two_sides_is_that_of_their_rounds():
    noise = np.random.default_rng(3)
    rounds = np.linspace(50.0, 90.0, 60) * np.where(noise.random(60) < 0.1, 3.0, 1.0)
    found = paired({BASE: list(rounds), "kernel 1 %": list(rounds + 0.5), "same": list(rounds)})
    assert found["kernel 1 %"] - found[BASE] == pytest.approx(0.5) and found["same"] == found[BASE]


def test_a_spell_in_one_side_only_does_not_move_the_ratio():
    base = [10.0] * 40
    struck = [10.2] * 32 + [25.0] * 8
    rates = paired_rates({BASE: base, "x": struck}, batch_size=4)
    assert rates[BASE] == pytest.approx(4e5)
    assert rates[BASE] / rates["x"] == pytest.approx(1.02)


def test_the_midmean_resolves_more_than_a_median_of_ticks():
    ticks = [3.296] * 60 + [3.328] * 40
    assert midmean(ticks) == pytest.approx(3.296 + 0.032 * 15 / 50)
    assert midmean([5.0]) == 5.0 and midmean([1.0, 2.0, 300.0, 2.0]) == 2.0
