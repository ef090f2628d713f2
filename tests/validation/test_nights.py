"""The simulation of the nights on a few, and that it would see a judge that alarms too easily."""

import numpy as np
import pytest

from bench.nightly import judge as real
from tests.validation.nights import (
    NOISES,
    from_now_on,
    live,
    lost_little_by_little,
    one_night,
    student,
    young_history,
)


def test_nights_without_a_loss_have_no_alarm():
    lived = live(NOISES[0], np.random.default_rng(1), 40, 12)
    assert (lived.false, lived.reported) == ([], [])


def test_a_loss_of_a_night_is_found_in_that_night():
    lived = live(NOISES[0], np.random.default_rng(1), 31, 12, one_night)
    assert (lived.false, lived.reported, lived.guarded) == ([], [30], True)


def test_lasting_loss_is_found_in_the_second_night_if_asked():
    lived = live(NOISES[0], np.random.default_rng(1), 32, 12, from_now_on, next_night=True)
    assert (lived.false, lived.reported, lived.guarded) == ([], [31, 32], True)


def test_a_level_that_allows_for_nothing_alarms(monkeypatch):
    monkeypatch.setattr(real, "level", lambda *comparisons: 0.05)
    monkeypatch.setattr(real, "CONFIRMED_AT", 0.3)
    assert len(live(NOISES[0], np.random.default_rng(1), 40, 12).false) > 3


def test_slow_processes_are_measured_again_and_raise_no_alarm():
    (slow,) = (noise for noise in NOISES if noise.slow)
    lived = live(slow, np.random.default_rng(2), 60, 12)
    assert lived.false == [] and lived.again > 5


def test_a_creeping_loss_is_reported():
    (figure,) = lost_little_by_little(0, 2, 3)
    assert figure.value == 1 and figure.ok


def test_guarded_cells_of_young_histories_are_found():
    guarded, found = young_history(8, 20, 3)
    assert guarded.value > 0.5 and found.value >= 0.9


@pytest.mark.parametrize("noise", [NOISES[0], NOISES[3], NOISES[6], NOISES[7]], ids=lambda noise: noise.name)
def test_noise_of_nights_has_the_variance_of_a_cells_spread(noise):
    drawn = noise.of_night(np.random.default_rng(2), 4000, 30)
    assert drawn.std() == pytest.approx(1, abs=0.15)
    assert student(np.random.default_rng(2), 10, 3).shape == (10, 3)
