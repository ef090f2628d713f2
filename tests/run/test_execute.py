"""One run from the grid to its record: real processes, each way it can end."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import structs

import bench.run.child as child_module
from bench.records.run import Head, Outcome, Run, Stage, read_head, read_record, write_record
from bench.run.attempt import execute
from bench.run.child import log_tail
from bench.run.lock import HostLock
from bench.run.progress import Progress, RunState
from bench.run.stages import export_trace, extract_metrics
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study

TINY = {
    "name": "tiny", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0"], "image_size": 32, "num_samples": 20,
    "warmup_samples": 2, "batch_size": 2, "memory_size_mb": 1, "timeout_s": 600, "device": "cpu", "binding": "none",
    "disturbed_repeats": 0,
}  # fmt: skip


# The workload, which stops at a batch of its windows until the test lets it continue.
STOPPING = """
import os, signal
from bench.workload.progress import Phase, Progress
beat = Progress.beat
def stop_once(self):
    beat(self)
    if self._phase is Phase.MEASURING and self._done == 7:
        os.kill(os.getpid(), signal.SIGSTOP)
Progress.beat = stop_once
from bench.workload.__main__ import main
main()
"""


def run(tmp_path: Path, repeat: int | str = 1, **changes: object) -> tuple[RunDirectory, Run, list[Progress]]:
    directory = resolve(read_study(TINY | changes, "f"), tmp_path / "outputs", False, "now")
    grid = directory.grid()
    (cell,) = grid.cells
    reports: list[Progress] = []
    lock = HostLock(tmp_path)
    slot = grid.slot(cell.name, repeat)

    def report(progress: Progress) -> None:
        reports.append(progress)
        if progress.state is RunState.MEASURING:
            for pid in lock.sessions():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    record = execute(directory, cell, slot, "now", lock, report)
    assert record == read_record(directory.record(cell.name, repeat), Run)
    return directory, record, reports


@pytest.mark.slow
def test_timed_run_has_nine_windows_and_reports_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "python_module", lambda _, *words: [sys.executable, "-P", "-c", STOPPING, *words])
    directory, record, reports = run(tmp_path)
    assert (record.status, record.attempts, record.exit_code) == ("ok", 1, 0)
    assert record.peers == [] and "--barrier" not in record.command
    result = record.result
    assert len(result.windows) == 9
    assert all(window.duration_s >= 0.1 for window in result.windows)
    assert result.throughput_samples_s > 0
    percents = [progress.percent for progress in reports]
    assert percents == sorted(percents) and percents[-1] > 15
    assert any(progress.state is RunState.MEASURING for progress in reports)
    assert record.run in directory.experiment_log.read_text()


def test_traced_run_leaves_a_trace(tmp_path: Path) -> None:
    directory, record, _ = run(tmp_path, "traced")
    assert record.status == "ok"
    assert list((directory.path / "nsys_reports").iterdir())


def test_timeout_is_an_outcome(tmp_path: Path) -> None:
    _, record, _ = run(tmp_path, timeout_s=1, num_samples=2_000_000)
    assert (record.status, record.attempts) == ("timeout", 1)
    assert "raise timeout_s" in record.advice


@pytest.fixture
def _any_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a host with enough memory, which other processes use."""
    monkeypatch.setattr("bench.study.grid._check_memory", lambda *_: None)


@pytest.mark.usefixtures("_any_pool")
def test_pool_that_does_not_fit_is_oom_with_the_remedy(tmp_path: Path) -> None:
    _, record, _ = run(tmp_path, image_size=512, memory_size_mb=2**20)
    assert record.status == "oom"
    assert "memory_size_mb" in record.advice


@pytest.mark.slow
@pytest.mark.usefixtures("_any_pool")
def test_repeat_does_not_repeat_a_lasting_failure(tmp_path: Path) -> None:
    run(tmp_path, 1, image_size=512, memory_size_mb=2**20, repeats=2)
    _, record, reports = run(tmp_path, 2, image_size=512, memory_size_mb=2**20, repeats=2)
    assert (record.status, record.attempts, reports) == ("oom", 0, [])
    assert record.reason.startswith("as repeat 1: ")


def test_numactl_that_is_absent_is_bind_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _, record, _ = run(tmp_path, binding="numactl")
    assert record.status == "bind_failed"
    assert "numactl is not installed" in record.reason and "binding none" in record.advice


def test_cell_that_takes_the_host_down_is_not_retried(tmp_path: Path) -> None:
    directory = resolve(read_study(TINY, "f"), tmp_path / "outputs", False, "now")
    (name,) = (cell.name for cell in directory.grid().cells)
    starts = directory.record(name, 1).with_suffix(".starts")
    starts.write_text("an-earlier-boot\nanother-boot\na-third-boot")
    _, record, _ = run(tmp_path)
    assert record.status == "crashed" and "the host went down during 3 starts" in record.reason
    assert not starts.exists()


@pytest.mark.slow
def test_killed_starts_of_this_boot_do_not_count(tmp_path: Path) -> None:
    directory = resolve(read_study(TINY, "f"), tmp_path / "outputs", False, "now")
    (name,) = (cell.name for cell in directory.grid().cells)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    directory.record(name, 1).with_suffix(".starts").write_text("\n".join([boot] * 5))
    assert run(tmp_path)[1].status == "ok"


def test_log_tail_of_a_huge_log_is_short(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 50_000_000 + b"\n" + b"last\n" * 30)
    tail = log_tail(path)
    assert len(tail) == 20 and tail[-1] == "last"
    assert log_tail(tmp_path / "none") == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "fine"}', '{"status": null}', "[" * 100_000])
def test_damaged_record_counts_as_missing(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    assert read_record(tmp_path / "r.json", Stage) is None


def test_head_is_read_anew_when_the_record_changes(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert read_head(path) is None
    write_record(path, Head(status=Outcome.OK, started_at="2026-01-01T00:00:00Z"))
    assert read_head(path).origin == "2026-01-01T00:00:00Z" and read_head(path) is read_head(path)
    write_record(path, Head(status=Outcome.OOM, source="x", started_at="later"))
    assert (read_head(path).status, read_head(path).origin) == ("oom", "x")


def test_refusal_by_the_grid_is_final() -> None:
    refused = Stage(status=Outcome.NOT_RUNNABLE, reason="no node 2", invocation="a", by_grid=True)
    assert refused.is_final("b")
    missing = Stage(status=Outcome.NOT_RUNNABLE, reason="no huge pages", invocation="a")
    assert not missing.is_final("b")


@pytest.mark.slow
def test_later_stages_keep_that_the_grid_refused(tmp_path: Path) -> None:
    directory, record, _ = run(tmp_path, "traced", numa_nodes=[0], gpu_ids=[0], binding="none")
    (cell,) = directory.grid().cells
    refused = structs.replace(record, status=Outcome.NOT_RUNNABLE, reason="no node 2", by_grid=True, result=None)
    write_record(directory.record(cell.name, "traced"), refused)
    export = export_trace(directory, cell, "now")
    assert (export.status, export.by_grid, export.source) == ("not_runnable", True, record.started_at)
    stage = extract_metrics(directory, cell, "now")
    assert (stage.status, stage.by_grid, stage.reason) == ("not_runnable", True, "no node 2")


@pytest.mark.parametrize("status", Outcome)
def test_only_success_or_this_invocation_is_final(status: Outcome) -> None:
    record = Stage(status=status, invocation="a")
    assert record.is_final("a")
    assert record.is_final("b") is (status == "ok")
