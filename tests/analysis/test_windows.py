import pytest

from bench.analysis.windows import mean_samples_s, stopped_s, window_spread, windows_differ
from bench.records.run import Mode, Result, Window


def result(durations_s, mode=Mode.TIMED, batches=100):
    windows = [Window(batches=batches, duration_s=duration_s) for duration_s in durations_s]
    return Result(mode=mode, throughput_samples_s=1.0, windows=windows)


EVEN = [0.100, 0.101, 0.099, 0.1, 0.102, 0.098, 0.1, 0.1, 0.101]


def test_the_mean_rate_is_of_all_windows_together():
    assert mean_samples_s(result([0.1, 0.3]), batch_size=10) == pytest.approx(5000)


def test_even_windows_have_no_trouble():
    even = result(EVEN)
    assert windows_differ(even) is None and stopped_s(even) is None
    assert window_spread(even) == pytest.approx(0.0148, rel=0.02)


def test_windows_that_differ_by_more_than_five_percent():
    assert windows_differ(result([*EVEN[:8], 0.106])) == pytest.approx(0.106 / 0.098 - 1)


def test_turns_of_a_crossing_differ_beyond_their_own_spread_only():
    noisy = [0.1 + 0.004 * (at % 5 - 2) for at in range(30)]
    assert windows_differ(result(noisy)) and windows_differ(result(noisy, Mode.CROSSED)) is None
    assert windows_differ(result([*noisy, 0.2], Mode.CROSSED)) == pytest.approx(1.0, abs=0.01)


def test_a_process_that_stood_still_is_seen():
    stopped = result([*EVEN, 20.1])
    assert stopped_s(stopped) == pytest.approx(20.0)
    # Slow batches are no stop: all windows are.
    assert stopped_s(result([20.0, 20.1, 20.2])) is None


def test_one_window_shows_nothing():
    assert window_spread(result([0.1])) is windows_differ(result([0.1])) is stopped_s(result([0.1])) is None
