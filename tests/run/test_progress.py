"""The child's counter, as the parent reads it: written here by the child's own code."""

from pathlib import Path

from bench.run.progress import BatchCounter, Progress, RunState
from bench.workload.progress import Phase
from bench.workload.progress import Progress as Counter


def shown(counter: BatchCounter) -> tuple[str, int]:
    progress = counter.read()
    return progress.text, progress.percent


def test_percentage_follows_batches_and_phases(tmp_path: Path) -> None:
    progress = BatchCounter(tmp_path / "progress")
    counter = Counter(tmp_path / "progress")
    assert shown(progress) == ("starting", 1)
    counter.enter(Phase.WARMUP, 10)
    assert shown(progress) == ("warm-up 0 %", 5)
    for _ in range(5):
        counter.beat()
    assert shown(progress) == shown(progress) == ("warm-up 50 %", 10)
    for _ in range(20):
        counter.beat()
    # Warm-up may go on beyond what it needs at least.
    assert shown(progress) == ("warm-up 100 %", 15)
    counter.enter(Phase.MEASURING, 4)
    counter.beat()
    assert shown(progress) == ("measuring 25 %", 35)
    counter.enter(Phase.DONE)
    assert shown(progress) == ("finishing", 95)


def test_repeated_windows_do_not_lower_the_percentage(tmp_path: Path) -> None:
    progress = BatchCounter(tmp_path / "progress")
    counter = Counter(tmp_path / "progress")
    counter.enter(Phase.MEASURING, 2)
    counter.beat()
    counter.beat()
    assert shown(progress) == ("measuring 100 %", 95)
    counter.enter(Phase.MEASURING, 10)
    counter.beat()
    assert shown(progress) == ("measuring again 10 %", 95)
    counter.beat()
    assert shown(progress) == ("measuring again 20 %", 95)
    counter.enter(Phase.DONE)
    assert shown(progress) == ("finishing", 95)


def test_text_names_what_is_waited_for_and_a_second_attempt() -> None:
    assert Progress(RunState.WAITING, waiting_for="/runs/a (pid 7)").text == "waiting for /runs/a (pid 7)"
    assert Progress(RunState.WARMUP, 5, 0.125, attempt=(2, 2)).text == "attempt 2/2, warm-up 12 %"
