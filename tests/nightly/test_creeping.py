import numpy as np
import pytest

from bench.nightly.creeping import LIMIT, MOST_OF_A_NIGHT, REFERENCE_NIGHTS, SLACK, creeping


def quiet(count, sd=0.003, seed=1):
    return 1000 * np.exp(np.random.default_rng(seed).normal(0, sd, count))


def test_nothing_to_compare_with_before_the_reference_is_complete():
    assert creeping(quiet(REFERENCE_NIGHTS)) is None
    assert creeping(quiet(REFERENCE_NIGHTS + 1)).alarm is False


@pytest.mark.parametrize("seed", range(3))
def test_a_year_without_a_loss_has_no_alarm(seed):
    values = quiet(393, 0.0075, seed)
    assert not any(creeping(values[:end]).alarm for end in range(29, 394, 7))


def test_a_loss_over_100_nights_is_found_before_they_are_over():
    lost = np.clip(np.arange(170) - REFERENCE_NIGHTS, 0, 100) / 100
    values = quiet(170) * np.exp(np.log(0.95) * lost)
    first = next(end for end in range(29, 170) if creeping(values[:end]).alarm)
    assert REFERENCE_NIGHTS < first <= REFERENCE_NIGHTS + 100


@pytest.mark.parametrize(("loss", "alarm"), [(0.017, False), (0.025, True)])
def test_lasting_loss_below_the_margin_is_no_alarm(loss, alarm):
    values = np.concatenate([quiet(28), (1 - loss) * quiet(200, seed=2)])
    assert creeping(values).alarm is alarm


def test_no_single_night_is_an_alarm():
    assert MOST_OF_A_NIGHT - SLACK < LIMIT
    values = np.append(quiet(60), 300.0)
    assert not creeping(values).alarm and creeping(values).effect == pytest.approx(0, abs=0.01)


def test_the_alarm_ends_when_the_loss_does():
    values = np.concatenate([quiet(28), 0.9 * quiet(100, seed=2), quiet(10, seed=3)])
    assert creeping(values[:128]).alarm
    assert not creeping(values[:133]).alarm
