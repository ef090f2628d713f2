"""The child's counter, as the parent reads it: written here by the child's own code."""

from pathlib import Path

from bench.run.experiment_log import Progress
from bench.workload.barrier import DONE, MEASURING, WARMUP
from bench.workload.barrier import Progress as Counter


def test_the_percentage_moves_with_the_batches_through_the_phases(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress")
    counter = Counter(tmp_path / "progress")
    assert progress.read() == ("starting", 1)
    counter.enter(WARMUP, 10)
    assert progress.read() == ("warm-up 0 %", 5)
    for _ in range(5):
        counter.beat()
    assert progress.read() == progress.read() == ("warm-up 50 %", 10)
    for _ in range(20):
        counter.beat()
    # Warm-up may go on beyond what it needs at least.
    assert progress.read() == ("warm-up 100 %", 15)
    counter.enter(MEASURING, 4)
    counter.beat()
    assert progress.read() == ("measuring 25 %", 35)
    counter.enter(DONE)
    assert progress.read() == ("finishing", 95)


def test_windows_measured_again_say_so_and_the_percentage_does_not_fall(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress")
    counter = Counter(tmp_path / "progress")
    counter.enter(MEASURING, 2)
    counter.beat()
    counter.beat()
    assert progress.read() == ("measuring 100 %", 95)
    counter.enter(MEASURING, 10)
    counter.beat()
    assert progress.read() == ("measuring again 10 %", 95)
    counter.beat()
    assert progress.read() == ("measuring again 20 %", 95)
    counter.enter(DONE)
    assert progress.read() == ("finishing", 95)
