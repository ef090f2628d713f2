"""The simulation of the nights on a few spans, and that it would see a judge that alarms too easily."""

import numpy as np
import pytest

from bench.nightly import judge
from tests.validation.nights import NOISES, judged, live, section


def test_a_span_counts_false_alarms_and_finds_the_loss():
    span = live(NOISES[0], np.random.default_rng(1), twice=True)
    assert (span.alarms, span.found) == (0, True)


def test_a_level_that_allows_for_nothing_alarms_in_every_span(monkeypatch):
    monkeypatch.setattr(judge, "level", lambda comparisons: 0.05)
    assert live(NOISES[0], np.random.default_rng(1), twice=False).alarms > 30


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
def test_noise_has_the_variance_of_a_cells_spread(noise):
    rng = np.random.default_rng(2)
    nights = noise.of_night(rng, 200, 100)
    drawn = nights + np.array([noise.of_measurement(rng, 100) for _ in range(200)])
    assert drawn.std() == pytest.approx(1, abs=0.05)


def test_a_second_measurement_overrules_the_first():
    history = [list(1000 * np.exp(np.random.default_rng(3).normal(0, 0.003, 28))) for _ in range(2)]
    tonight = np.array([930.0, 1000.0])
    assert judged(tonight, history) == {0}
    assert judged(tonight, history, {0: 1000.0}) == set()
    assert judged(tonight, history, {0: 935.0}) == {0}


def test_a_row_a_noise():
    span = live(NOISES[0], np.random.default_rng(1), twice=True)
    assert "| normal | yes | 0 of 1 | 0 of 60 |" in section(1, [("normal", True, [span])])
