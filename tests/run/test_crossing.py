"""One process for the cells of a group: what its records have in common, and what each has of its own."""

import signal
import sys
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path

import pytest

import bench.run.attempt as attempt_module
import bench.run.child as child_module
import bench.run.crossing as crossing_module
from bench.records.base import read
from bench.records.run import (
    Certificate,
    CrossedCell,
    Crossing,
    Doubt,
    DoubtKind,
    Failure,
    Group,
    Mode,
    Outcome,
    PlacementVerdict,
    Result,
    Run,
    StartMethod,
    read_record,
)
from bench.run.attempt import Attempt
from bench.run.child import ChildEnd, Process
from bench.run.crossing import execute_group
from bench.run.lock import HostLock
from bench.run.progress import Progress
from bench.run.stages import export_trace, extract_metrics
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study
from bench.trace.profilers import Torch
from tests.workload.cells import small_cell

pytestmark = pytest.mark.needs("numactl")

TINY = {
    "name": "tiny", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0", "vit0x0x0"], "image_size": 32,
    "num_samples": 20, "warmup_samples": 2, "batch_size": 2, "memory_size_mb": 1, "timeout_s": 600, "device": "cpu",
    "binding": "numactl", "design": "crossing",
}  # fmt: skip
FIRST, AGAIN = "pipeline_gpu0_numa0_vit0x0x0", "pipeline_gpu0_numa0_vit0x0x0_again"
CROSSING = Crossing(group="g", process=1, id="0" * 32, birth_cpu_node=0, birth_mem_node=0)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    short = partial(Group, measure_s=0.05, window_s=0.002, lead_s=0.002)
    monkeypatch.setattr(crossing_module, "Group", short)


def run(
    tmp_path: Path, repeat: int | str = 1, cell: str = FIRST, **changes: object
) -> tuple[RunDirectory, list[Run], list[Progress]]:
    directory = resolve(read_study(TINY | {"repeats": 2} | changes, "f"), tmp_path / "outputs", False, "now")
    grid, reports = directory.grid(), list[Progress]()
    slots = grid.process(grid.slot(cell, repeat))
    lock = HostLock(tmp_path)
    runs = execute_group(directory, slots, "now", lock, reports.append)
    lock.release()
    assert runs == [read_record(directory.record(slot.cell, repeat), Run) for slot in slots]
    return directory, runs, reports


def test_records_are_of_one_process(tmp_path: Path) -> None:
    directory, (first, again), reports = run(tmp_path)
    assert [(one.cell, one.status, one.attempts) for one in (first, again)] == [(FIRST, "ok", 1), (AGAIN, "ok", 1)]
    assert first.crossing == again.crossing and len(first.crossing.id) == 32
    assert (first.crossing.group, first.crossing.process) == (first.group, 1)
    assert first.wall_s == again.wall_s and first.started_at == again.started_at
    assert first.start is StartMethod.FORK and "bench.workload.serve" in first.command
    assert first.command[0] == sys.executable, "it binds itself to its birth"
    assert all(one.result.mode is Mode.CROSSED and one.result.windows for one in (first, again))
    assert all(one.certificate.verdict is PlacementVerdict.PROVED for one in (first, again))
    assert first.log == again.log == "gpu0_vit0x0x0_r1"
    assert "crossed" in directory.log(first.log, "stdout").read_text()
    assert first.monitor == again.monitor and first.crossing.observer_cpus
    asked = read(directory.path / "cells" / "gpu0_vit0x0x0_r1.json", Group)
    assert [cell.name for cell in asked.cells] == [FIRST, AGAIN] and asked.solo
    lines = directory.experiment_log.read_text().splitlines()
    assert [line.split()[2] for line in lines] == [first.run, again.run]
    percents = [progress.percent for progress in reports]
    assert percents == sorted(percents)


def test_cell_that_cannot_be_bound_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Failure(status=Outcome.BIND_FAILED, reason="refused for a test")
    answers = iter([None, refused])
    monkeypatch.setattr(attempt_module, "trial_bind", lambda *_: next(answers))
    _, (first, again), _ = run(tmp_path)
    assert (first.status, first.crossing.placements) == ("ok", [FIRST])
    assert (again.status, again.reason, again.attempts) == ("bind_failed", "refused for a test", 0)
    assert again.crossing == first.crossing


def test_crash_is_of_all_cells_and_tried_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = [sys.executable, "-c", "import sys; sys.exit('broken for a test')"]
    monkeypatch.setattr(crossing_module, "workload_argv", lambda *_, **__: crashing)
    directory, runs, _ = run(tmp_path, start="exec")
    assert [(one.status, one.attempts, one.result) for one in runs] == [("crashed", 2, None)] * 2
    assert len({one.crossing.id for one in runs}) == 1
    log = directory.log(runs[0].log, "stderr").read_text()
    assert log.count("broken for a test") == 2


def test_timeout_counts_every_cell_and_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing_module, "workload_argv", lambda *_, **__: ["sleep", "60"])
    _, runs, _ = run(tmp_path, timeout_s=1, start="exec")
    assert [(one.status, one.attempts) for one in runs] == [("timeout", 1)] * 2
    assert "not finished after 2 s" in runs[0].reason
    _, later, _ = run(tmp_path, 2, timeout_s=1, start="exec")
    assert [(one.status, one.attempts) for one in later] == [("timeout", 0)] * 2
    assert later[0].crossing.id == later[1].crossing.id != runs[0].crossing.id


def test_finished_process_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, runs, _ = run(tmp_path)
    monkeypatch.setattr(crossing_module, "workload_argv", lambda *_, **__: ["false"])
    grid = directory.grid()
    slots, lock = grid.process(grid.slot(FIRST, 1)), HostLock(tmp_path)
    assert execute_group(directory, slots, "later", lock, lambda progress: None, lambda: True) == runs


def test_process_has_an_interpreter_of_its_own_where_asked(tmp_path: Path) -> None:
    _, (first, again), _ = run(tmp_path, start="exec")
    assert (first.status, first.start, again.start) == ("ok", StartMethod.EXEC, StartMethod.EXEC)
    assert "bench.workload" in first.command and "bench.workload.serve" not in first.command
    assert first.certificate.verdict is PlacementVerdict.PROVED


def test_each_cell_has_the_outcome_of_its_own_placement() -> None:
    away = Certificate(
        verdict=PlacementVerdict.MISPLACED, reasons=[Doubt(kind=DoubtKind.PAGES, text="9 pages on node 3")]
    )
    crossed = [
        CrossedCell(cell="good", result=Result(mode=Mode.CROSSED, throughput_samples_s=2.0)),
        CrossedCell(cell="away", result=Result(mode=Mode.CROSSED, throughput_samples_s=2.0, certificate=away)),
        CrossedCell(cell="full", failure=Failure(status=Outcome.OOM, reason="no room")),
    ]
    whole = Attempt(crossing=CROSSING, crossed=crossed)
    own = {name: crossing_module._own(whole, small_cell(name=name)) for name in ("good", "away", "full", "lost")}
    assert own["good"].failure is None and own["good"].result.throughput_samples_s == 2.0
    assert own["away"].failure.status is Outcome.MISPLACED and "9 pages on node 3" in own["away"].failure.reason
    assert own["full"].failure.status is Outcome.OOM
    assert own["lost"].failure.status is Outcome.CRASHED


def test_each_cell_has_its_own_reason_where_none_can_be_measured() -> None:
    first, second = (Failure(status=Outcome.OOM, reason=f"no room on node {node}") for node in (0, 1))
    crossed = [CrossedCell(cell="a", failure=first), CrossedCell(cell="b", failure=second)]
    whole = Attempt(failure=first, crossed=crossed)
    reasons = {name: crossing_module._own(whole, small_cell(name=name)).failure.reason for name in ("a", "b", "other")}
    assert reasons == {"a": first.reason, "b": second.reason, "other": first.reason}


@pytest.mark.parametrize(
    ("whole", "side", "again"),
    [("", "crashed", False), ("", "trace_failed", True), ("crashed", "", True), ("oom", "crashed", False)],
)
def test_process_is_repeated_for_a_reason_of_its_own_only(whole: str, side: str, again: bool) -> None:
    failures = [Failure(status=Outcome(status), reason="") if status else None for status in (whole, side)]
    attempt = Attempt(failure=failures[0], crossed=[CrossedCell(cell="a", failure=failures[1])])
    assert attempt.failed_by_chance == again


COMPILED = {"models": ["vit16x1x32"], "include": [{"buffers": 3}, {"compile_model": "default"}], "start": "exec"}


@pytest.fixture
def _no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_compiler")
def test_side_that_cannot_compile_fails_alone_in_the_only_process(tmp_path: Path) -> None:
    directory, runs, _ = run(tmp_path, cell="pipeline_gpu0_numa0_vit16x1x32", **COMPILED)
    assert [(one.status, one.attempts) for one in runs] == [("ok", 1), ("ok", 1), ("crashed", 1)]
    assert "torch.compile in mode default failed" in runs[2].reason and "C++ compiler" in runs[2].advice
    assert all(one.certificate.verdict is PlacementVerdict.PROVED for one in runs[:2])
    assert len({one.crossing.id for one in runs}) == 1 and runs[2].result is None
    assert "Traceback" not in directory.log(runs[0].log, "stdout").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_compiler")
def test_process_of_sides_that_all_fail_is_started_once(tmp_path: Path) -> None:
    sides = COMPILED | {"compile_model": "default", "include": [{"batch_size": 5}]}
    directory, runs, _ = run(tmp_path, cell="pipeline_gpu0_numa0_vit16x1x32", **sides)
    assert [(one.status, one.attempts, one.exit_code) for one in runs] == [("crashed", 1, 3)] * 2
    log = directory.log(runs[0].log, "stderr").read_text()
    assert log.count("torch.compile in mode default failed") == 1
    assert all("torch.compile in mode default failed" in "\n".join(one.log_tail) for one in runs)


def test_out_of_memory_kill_names_the_pools_of_all(tmp_path: Path) -> None:
    directory = resolve(read_study(TINY, "f"), tmp_path, False, "now")
    logs = tmp_path / "out", tmp_path / "err"
    process = Process(directory.grid().cells[0], ["true"], logs, tmp_path / "missing.json")
    failure = crossing_module._judged(process, ChildEnd(-signal.SIGKILL, False, 1.0, oom_kills=1))
    assert failure.status is Outcome.OOM
    assert "pools of all cells" in failure.reason and "design: processes" in failure.advice


# The workload, which is killed while it allocates the memory of its second cell; after that many cells, or never.
KILLED_WHILE_ALLOCATING = """
import os, signal, sys
from bench.workload.progress import Progress
allocate = Progress.allocate
def mark(self, cell):
    allocate(self, cell)
    left = len(open(sys.argv[2]).read().split('"cpu_node"')) - 1
    if cell == 1 and left in MORTAL:
        os.kill(os.getpid(), signal.SIGKILL)
Progress.allocate = mark
from bench.workload.__main__ import main
main()
"""
THIRD = f"{FIRST}_again2"


def killed_while_allocating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mortal: tuple[int, ...]) -> list[Run]:
    """Three cells; the process is killed if it has one of these numbers of cells."""
    program = KILLED_WHILE_ALLOCATING.replace("MORTAL", repr(mortal))
    # Each time the kernel is asked it has killed one more process, as by then it has.
    kills = count()
    monkeypatch.setattr(child_module, "_oom_kills", lambda: next(kills))
    monkeypatch.setattr(child_module, "python_module", lambda _, *words: [sys.executable, "-P", "-c", program, *words])
    return run(tmp_path, models=["vit0x0x0"] * 3, start="exec")[1]


def test_cell_that_was_being_allocated_at_a_kill_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = killed_while_allocating(tmp_path, monkeypatch, (3,))
    assert [one.cell for one in runs] == [FIRST, AGAIN, THIRD]
    assert [(one.status, one.attempts) for one in runs] == [("ok", 1), ("oom", 1), ("ok", 1)], runs[0].reason
    assert runs[1].reason.startswith("killed by the kernel") and "pool of this cell" in runs[1].reason
    assert (runs[1].exit_code, runs[1].result) == (-signal.SIGKILL, None)
    assert len({one.crossing.id for one in runs}) == 1 and set(runs[0].crossing.placements) == {FIRST, THIRD}


@pytest.mark.slow
def test_second_kill_while_allocating_is_of_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = killed_while_allocating(tmp_path, monkeypatch, (3, 2))
    assert [(one.status, one.attempts) for one in runs] == [("oom", 1)] * 3
    assert ["pool of this cell" in one.reason for one in runs] == [False, True, False]


def test_group_is_traced_by_one_process(tmp_path: Path) -> None:
    directory = resolve(read_study(TINY | {"repeats": 1}, "f"), tmp_path / "outputs", False, "now")
    grid = directory.grid()
    slots, lock = grid.process(grid.slot(AGAIN, "traced")), HostLock(tmp_path)
    runs = execute_group(directory, slots, "now", lock, lambda progress: None)
    lock.release()
    assert [(one.cell, one.status) for one in runs] == [(FIRST, "ok"), (AGAIN, "ok")], runs[0].reason
    assert runs[0].crossing == runs[1].crossing and runs[0].crossing.captured == [FIRST, AGAIN]
    for one in runs:
        assert one.result.mode is Mode.TRACED and one.monitor is None
        assert one.certificate.verdict is PlacementVerdict.PROVED
        cell = grid.cell(one.cell)
        assert export_trace(directory, cell, "now").ok
        # Conservation: its own batches, and their bytes.
        assert extract_metrics(directory, cell, "now").ok


@pytest.mark.slow
def test_every_side_is_traced_with_its_own_batches_and_bytes(tmp_path: Path) -> None:
    sides = {"models": ["vit16x1x32"], "include": [{"buffers": 3}, {"dtype": "bf16"}, {"batch_size": 5}]}
    directory = resolve(read_study(TINY | sides, "f"), tmp_path / "outputs", False, "now")
    grid, lock = directory.grid(), HostLock(tmp_path)
    slots = grid.process(grid.slot(grid.cells[0].name, "traced"))
    assert len(slots) == len(grid.cells) == 4
    runs = execute_group(directory, slots, "now", lock, lambda progress: None)
    lock.release()
    assert [one.status for one in runs] == ["ok"] * 4, [one.reason for one in runs]
    for cell, one in zip(grid.cells, runs, strict=True):
        assert export_trace(directory, cell, "now").ok
        # The trace has batches x bytes of this cell's pass, no more and no less.
        found = extract_metrics(directory, cell, "now")
        assert found.ok, found.reason
        assert one.result and one.result.bytes_in_per_batch == cell.input_bytes
        assert one.result.windows[0].batches == cell.batches_per_pass


@pytest.mark.slow
def test_cell_whose_trace_is_missing_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Losing(Torch):
        def divide(self, report: Path, captured: Sequence[Path]) -> None:
            self.discard(captured[0])

    monkeypatch.setattr(crossing_module, "get_profiler", lambda name: Losing())
    _, (first, again), _ = run(tmp_path, "traced")
    assert (first.status, again.status) == ("trace_failed", "ok")
    assert first.attempts == 2 and first.crossing.captured == [FIRST, AGAIN]
