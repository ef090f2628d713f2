import numpy as np
import pytest

from bench.analysis.statistics import Run, drift


def study(change, noise=0.0, cells=6, repeats=6, seed=0):
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(repeats):
        for cell in rng.permutation(cells):
            time = len(runs) / (cells * repeats - 1)
            level = (cell + 1) * 1000 * np.exp(change(time) + rng.normal(0, noise))
            runs.append(Run(f"c{cell}", "rest", 7200 * time, float(level)))
    return runs


def test_a_straight_line_is_found_exactly():
    found = drift(study(lambda time: np.log(0.97) * time))
    assert found.change == pytest.approx(-0.03, abs=1e-12)
    assert found.interval == pytest.approx((-0.03, -0.03), abs=1e-9)


def test_no_drift_is_no_drift():
    found = drift(study(lambda time: 0.0, noise=0.002))
    assert found.interval[0] < 0 < found.interval[1]
    assert abs(found.change) < 0.004


def test_what_comes_and_goes_shows_in_the_swing_though_not_in_the_line():
    found = drift(study(lambda time: -0.05 * (0.4 < time < 0.6), noise=0.0005))
    assert abs(found.change) < 0.01
    assert 0.03 < found.swing < 0.06


def test_noisy_cells_do_not_drown_quiet_ones():
    loud = [
        Run(f"loud {run.cell}", "launch-bound", run.time, run.throughput_samples_s)
        for run in study(lambda time: 0.0, noise=0.2, seed=1)
    ]
    quiet = study(lambda time: np.log(1.01) * time, noise=0.001)
    assert drift([*loud, *quiet]).change == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize("runs", [[], [Run("a", "rest", 0, 1.0)] * 2, [Run("a", "rest", 5, 1.0)] * 4])
def test_too_little_says_nothing(runs):
    assert drift(runs) is None
