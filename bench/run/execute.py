"""One run of one cell, from the frozen grid to its record. Never raises for what can happen to a run."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.files import read_json, write_json, write_text
from bench.host.binding import bind_prefix, trial_bind
from bench.host.monitor import Monitor
from bench.host.topology import Topology
from bench.run.child import ChildEnd, child_environment, run_child
from bench.run.experiment_log import log_line
from bench.run.lock import HostLock
from bench.run.outcome import judge
from bench.run.progress import Progress
from bench.run.record import (
    BIND_FAILED,
    CRASHED,
    LASTING,
    NOT_RUNNABLE,
    OK,
    RETRIED,
    TRACE_FAILED,
    failure,
    read_record,
    write_record,
)
from bench.run.step_aside import step_aside
from bench.study.cell import Cell
from bench.study.directory import RunDirectory, run_name
from bench.study.order import TRACED, Slot
from bench.trace.profilers import get_profiler

ATTEMPTS = 2
STARTS_THAT_TOOK_THE_HOST_DOWN = 3
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 8192

Report = Callable[[str, int], None]


def execute(
    directory: RunDirectory, cell: Cell, slot: Slot, invocation: str, lock: HostLock, report: Report
) -> dict[str, Any]:
    """Run the cell and write runs/<run>.json. report(message, percent) is called while it goes on."""
    run = run_name(cell.name, slot.repeat)
    path = directory.record(cell.name, slot.repeat)
    head = {
        "run": run,
        "cell": cell.name,
        "repeat": slot.repeat,
        "invocation": invocation,
        "position": slot.position,
        "block": slot.block,
        "group": slot.group,
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fingerprint": directory.topology()["fingerprint"],
    }
    begin = time.monotonic()
    outcome = _before_the_start(directory, cell, slot, invocation)
    if outcome is None:
        lock.acquire(str(directory.path), lambda holder: report(holder, 1))
        # Waiting for the host is no part of the run: estimates are made from wall_s.
        begin = time.monotonic()
        outcome = _attempts(directory, cell, slot, lock, report)
    record = {"result": None, "monitor": None, "log_tail": [], "attempts": 0, "command": [], "exit_code": None}
    record = write_record(path, head | record | {"wall_s": round(time.monotonic() - begin, 3)} | outcome)
    _unended(path).unlink(missing_ok=True)
    log_line(directory, run, record)
    return record


def _before_the_start(directory: RunDirectory, cell: Cell, slot: Slot, invocation: str) -> dict[str, Any] | None:
    """An outcome that is certain without starting anything, or None."""
    if cell.reason:
        return failure(NOT_RUNNABLE, cell.reason, "choose a GPU and nodes that numastudy doctor lists")
    for earlier in range(1, slot.repeat if slot.repeat != TRACED else directory.study()["repeats"] + 1):
        record = read_record(directory.record(cell.name, earlier))
        if record and record["status"] in LASTING and record["invocation"] == invocation:
            return failure(record["status"], f"as repeat {earlier}: {record['reason']}", record["advice"])
    if cell.binding == "numactl":
        refused = trial_bind(cell.cpu_node, cell.mem_node)
        if refused:
            return failure(*refused)
    return None


def _attempts(directory: RunDirectory, cell: Cell, slot: Slot, lock: HostLock, report: Report) -> dict[str, Any]:
    outcome: dict[str, Any] = {}
    path = directory.record(cell.name, slot.repeat)
    for attempt in range(1, ATTEMPTS + 1):
        if _count_start(path) >= STARTS_THAT_TOOK_THE_HOST_DOWN:
            return failure(
                CRASHED,
                f"the host went down during {STARTS_THAT_TOOK_THE_HOST_DOWN} starts of this run",
                "look at the kernel's log; the next call tries it again",
            )
        what = f"attempt {attempt}/{ATTEMPTS}, " if attempt > 1 else ""
        outcome = _attempt(
            directory, cell, slot, lock, attempt, lambda text, percent, what=what: report(what + text, percent)
        )
        outcome["attempts"] = attempt
        _unended(path).unlink(missing_ok=True)
        if outcome["status"] not in RETRIED:
            break
    return outcome


def _attempt(
    directory: RunDirectory, cell: Cell, slot: Slot, lock: HostLock, attempt: int, report: Report
) -> dict[str, Any]:
    traced = slot.repeat == TRACED
    host = directory.host()
    run = run_name(cell.name, slot.repeat)
    logs = (directory.log(run, "stdout"), directory.log(run, "stderr"))
    cell_file = directory.path / "cells" / f"{cell.name}.json"
    if not cell_file.exists():
        write_json(cell_file, cell.as_json())
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="numastudy-", dir=shm) as scratch:
        progress_file, result_file = Path(scratch, "progress"), Path(scratch, "result.json")
        progress = Progress(progress_file)
        argv = [
            sys.executable,
            "-m",
            "bench.workload",
            "--cell",
            str(cell_file),
            "--mode",
            "traced" if traced else "timed",
            "--result",
            str(result_file),
            "--progress",
            str(progress_file),
        ]
        profiler = get_profiler(cell.profiler) if traced else None
        try:
            if profiler:
                argv = profiler.command(argv, directory.report(cell.name), cell.device)
            argv = [*bind_prefix(cell.binding, cell.cpu_node, cell.mem_node), *argv]
            with step_aside(host, cell.cpu_node, cell.binding) as cpus:
                # nsys works beside a traced run all the time; that is not a disturbance, and that run times nothing.
                watch = None if traced else _watch(cell, host, cpus, lock)
                end = run_child(
                    argv,
                    child_environment(dict(os.environ)),
                    logs,
                    cell.timeout_s,
                    on_start=lock.record_child,
                    on_poll=lambda: report(*progress.read()),
                    keep_descriptors=(lock.fileno(),),
                    append_logs=attempt > 1,
                    cpus=cpus,
                )
                monitor = watch.summary() if watch else None
        except StudyError as error:
            return failure(TRACE_FAILED, error.what, error.advice) | {"command": argv}
        except OSError as error:
            status = BIND_FAILED if cell.binding == "numactl" else CRASHED
            return failure(status, f"cannot start {argv[0]}: {error.strerror}", "check that it is installed")
        finally:
            if profiler:
                profiler.settle(directory.report(cell.name))
        result = read_json(result_file) if result_file.exists() else None
    tail = log_tail(logs[1])
    outcome = judge(cell, end, result, tail)
    if profiler and outcome["status"] in (OK, CRASHED):
        outcome = _collect_trace(profiler, directory, cell, end, outcome, tail)
    if outcome["status"] != OK:
        outcome["log_tail"] = tail
    return outcome | {"command": argv, "exit_code": end.exit_code, "result": result, "monitor": monitor}


def _watch(cell: Cell, host: Topology, cpus: set[int], lock: HostLock) -> Monitor:
    """What else happens on the GPU and on the measured CPUs. Known from outside the run, never from its speed."""
    node = host.node(cell.cpu_node)
    measured = set(node.cpus) & cpus if node and cell.binding != "none" else cpus
    return Monitor(cell.gpu_uuid, measured, lock.sessions).start()


def _collect_trace(
    profiler: Any, directory: RunDirectory, cell: Cell, end: ChildEnd, outcome: dict[str, Any], tail: list[str]
) -> dict[str, Any]:
    """A run that went well but left no trace is trace_failed; so is one that the profiler itself ended."""
    try:
        profiler.collect(directory.report(cell.name), end.exit_code, "\n".join(tail))
    except StudyError as error:
        return failure(TRACE_FAILED, error.what, error.advice)
    return outcome


def log_tail(path: Path) -> list[str]:
    """The last lines of a log, however long it and its lines are."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return []


def _unended(record: Path) -> Path:
    return record.with_suffix(".starts")


def _count_start(record: Path) -> int:
    """Note this start on disk, before the child starts; return how many earlier ones ended with the host going down.

    A start that wrote no record in the same boot was only killed, and says nothing about the cell.
    """
    path, boot = _unended(record), _boot_id()
    boots = path.read_text().split() if path.exists() else []
    write_text(path, "\n".join([*boots, boot]))
    return sum(earlier != boot for earlier in boots)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
