"""Studies with so many runs that a task covers several: the same order, records, checks and exit codes."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import tasks.stages
from bench.records.study import TRACED, Slot, run_name
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study
from bench.study.order import measuring_order
from tasks.progress import Reporter
from tasks.stages import LARGE_STUDY_TASKS, TASK_PER_RUN, RunPipeline, pieces
from tests.tasks.instant_calls import InstantCalls
from tests.tasks.study_calls import TINY

FIRST, SECOND = "pipeline_gpu0_numa0_vit0x0x0", "pipeline_gpu0_numa0_vit0x0x0_again"


@pytest.fixture
def calls(tmp_path: Path) -> InstantCalls:
    return InstantCalls(tmp_path / "work", ["--local-scheduler"], TINY | {"repeats": 2})


@pytest.mark.parametrize("workers", ["1", "2"])
def test_second_call_repeats_only_failed_runs(calls: InstantCalls, workers: str) -> None:
    calls.stub = {"INSTANT_FAIL": SECOND}
    first = calls.run("--workers", workers)
    assert first.returncode == 30, first.stderr
    assert "Traceback" not in first.stderr + first.stdout
    assert calls.measured() == calls.order()
    # Six runs: two tasks of timed ones, and one of the traced ones with its export and its metrics.
    kinds = calls.ran(first)
    assert (kinds["RunPipeline"], kinds["ExportSqlite"], kinds["ExtractLatency"]) == (3, 1, 1)
    for run in ("r1", "r2", "traced"):
        assert f"CellCheck: {SECOND}_{run}: crashed: instantly" in first.stderr

    calls.stub = {}
    second = calls.run("--workers", workers)
    assert second.returncode == 0, second.stderr
    times = calls.times_measured()
    assert {run: times[run] for run in calls.order()} == {
        run: 2 if run.startswith(SECOND) else 1 for run in calls.order()
    }
    third = calls.run()
    assert third.returncode == 0 and calls.times_measured() == times and "RunPipeline" not in calls.ran(third)


def test_interrupted_task_measures_only_missing_runs(calls: InstantCalls) -> None:
    assert calls.run().returncode == 0
    missing = calls.order()[1]
    (calls.run_directory() / "runs" / f"{missing}.json").unlink()
    again = calls.run()
    assert again.returncode == 0, again.stderr
    assert calls.measured() == [*calls.order(), missing]
    assert calls.ran(again)["RunPipeline"] == 1


def test_demanded_repeats_share_tasks(calls: InstantCalls) -> None:
    calls.study |= {"target_precision": 0.02, "max_repeats": 6}
    calls.write()
    calls.stub = {"INSTANT_DEMAND": "4"}
    done = calls.run()
    assert done.returncode == 0, done.stderr
    assert "4 more runs on demand: 2 cells in disturbed pairs" in done.stderr
    asked, further = calls.measured()[:6], calls.measured()[6:]
    assert asked == calls.order()
    assert sorted(further) == sorted(f"{cell}_r{repeat}" for cell in (FIRST, SECOND) for repeat in (3, 4))
    assert [run[-1] for run in further] == ["3", "3", "4", "4"]
    assert calls.ran(done)["RunPipeline"] == 3 + 2
    # The next call is asked for more of them, and one of them failed before.
    calls.stub = {"INSTANT_DEMAND": "6", "INSTANT_FAIL": FIRST}
    (calls.run_directory() / "runs" / f"{SECOND}_r4.json").unlink()
    more = calls.run()
    assert more.returncode == 30, more.stderr
    assert sorted(calls.measured()[10:]) == sorted(
        [f"{SECOND}_r4", *(f"{cell}_r{repeat}" for cell in (FIRST, SECOND) for repeat in (5, 6))]
    )
    calls.stub = {"INSTANT_DEMAND": "6"}
    resumed = calls.run()
    assert resumed.returncode == 0, resumed.stderr
    assert sorted(calls.measured()[15:]) == [f"{FIRST}_r5", f"{FIRST}_r6"]


def test_eta_has_repeats_before_they_are_demanded(calls: InstantCalls) -> None:
    """Two cells that are compared, two repeats and a traced run of each, a minute each; none is disturbed."""
    calls.study["disturbed_repeats"] = 2
    calls.write()
    calls.stub = {"INSTANT_WALL_S": "60", "INSTANT_READ_S": "0"}
    done = calls.run()
    assert done.returncode == 0, done.stderr
    assert re.search(r"^1/6 .*  ETA 5 min 0 s, at most 9 min 0 s$", done.stderr, re.MULTILINE), done.stderr


def test_sigusr1_ends_a_task_after_its_current_run(calls: InstantCalls) -> None:
    calls.stub = {"INSTANT_SIGNAL": str(int(signal.SIGUSR1)), "INSTANT_TASK_PER_RUN": "1", "INSTANT_TASKS": "1"}
    stopped = calls.run()
    assert stopped.returncode == 128 + signal.SIGUSR1, stopped.stderr
    assert calls.measured() == calls.order()[:2]
    assert "stopped: 2 runs of this task are not measured" in stopped.stderr and "Traceback" not in stopped.stderr
    calls.stub = {}
    assert calls.run().returncode == 0
    assert calls.measured() == calls.order()


def test_reports_name_the_current_run_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = resolve(read_study(TINY | {"repeats": 2}, "f"), tmp_path / "outputs", False, "now")
    first = directory.grid().order[0]
    task = RunPipeline(run_dir=str(directory.path), host="here", cell=first.cell, repeat=str(first.repeat), count=4)
    reported: list[tuple[int, str]] = []

    def measure(_directory: RunDirectory, _slot: Slot, report: Callable[[str, int], None]) -> None:
        report("measuring 50 %", 50)
        # The thread that informs the scheduler wakes once a second: the newest message is read from the reporter.
        reported.append((reporters[-1]._newest[1], reporters[-1]._newest[0]))

    reporters: list[Reporter] = []
    for name in ("set_status_message", "set_progress_percentage", "set_tracking_url"):
        setattr(task, name, lambda *_: None)
    init = Reporter.__init__
    monkeypatch.setattr(Reporter, "__init__", lambda one, task: (init(one, task), reporters.append(one))[0])
    monkeypatch.setattr(tasks.stages, "measure", measure)
    task.run()
    runs = [run_name(slot.cell, slot.repeat) for slot in directory.grid().order[:4]]
    assert reported == [
        (percent, f"{number}/4 {run}: measuring 50 %")
        for number, percent, run in zip((1, 2, 3, 4), (12, 37, 62, 87), runs, strict=True)
    ]


def test_small_study_has_a_task_for_each_run(calls: InstantCalls) -> None:
    calls.stub = {"INSTANT_TASK_PER_RUN": "6"}
    done = calls.run()
    assert done.returncode == 0, done.stderr
    kinds = calls.ran(done)
    assert (kinds["RunPipeline"], kinds["ExportSqlite"], kinds["ExtractLatency"]) == (6, 2, 2)


def order(cells: int, repeats: int) -> list[Slot]:
    return measuring_order([(f"c{number}", f"g{number // 2}") for number in range(cells)], repeats, 0)


@pytest.mark.parametrize(("cells", "repeats"), [(1, 1), (48, 6), (125, 7), (126, 7), (1000, 2), (5000, 6)])
def test_pieces_have_every_run_once_and_one_kind_each(cells: int, repeats: int) -> None:
    slots = order(cells, repeats)
    found = pieces(slots)
    assert [slot for piece in found for slot in piece] == slots
    assert all(len({slot.repeat == TRACED for slot in piece}) == 1 for piece in found)
    assert len(found) <= max(TASK_PER_RUN, LARGE_STUDY_TASKS + 2)
    assert (max(map(len, found)) == 1) is (len(slots) <= TASK_PER_RUN)
