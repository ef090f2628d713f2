"""Export, metrics and link stages of a cell."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import structs

from bench.errors import StudyError
from bench.records.base import plain
from bench.records.study import OPTIONAL_IN_KEY, TRACED, Cell
from bench.records.trace import TraceDevice
from bench.run.attempt import Report, step_aside
from bench.run.child import Process, scratch_folder
from bench.run.lock import HostLock
from bench.run.record import CRASHED, NOT_RUNNABLE, OK, TRACE_FAILED, failure, passed_on, read_record, write_record
from bench.storage import write_json
from bench.study.directory import RunDirectory
from bench.trace.profilers import get_profiler

# --- export
# The export stage: a traced run's profile becomes SQLite, or a record that says why not.


def export_trace(directory: RunDirectory, cell: Cell, invocation: str) -> dict[str, Any]:
    """Write nsys_reports/<cell>.sqlite and its record. A failed run is passed on."""
    begin = time.monotonic()
    run = read_record(directory.record(cell.name, TRACED))
    if run is None:
        run = failure(CRASHED, "the traced run left no record", "start the study again") | {"started_at": ""}
    sqlite = directory.sqlite(cell.name)
    outcome = passed_on(run)
    if run["status"] == OK:
        try:
            get_profiler(cell.profiler).export(directory.report(cell.name), sqlite)
            outcome = failure(OK, "")
        except StudyError as error:
            outcome = failure(TRACE_FAILED, error.what, error.advice)
    size = sqlite.stat().st_size if outcome["status"] == OK else None
    return write_record(
        directory.export_record(cell.name),
        {
            "cell": cell.name,
            "invocation": invocation,
            "source": run["started_at"],
            "profiler": cell.profiler,
            "sqlite": sqlite.name if size else None,
            "sqlite_bytes": size,
            "wall_s": round(time.monotonic() - begin, 3),
            **outcome,
        },
    )


# --- extract
# The metrics stage: SQLite becomes the contract metrics, or a record that says why not.


def extract_metrics(directory: RunDirectory, cell: Cell, invocation: str) -> dict[str, Any]:
    """Write latency/<cell>.json. Bytes and batches must be those of the run (conservation), else trace_failed."""
    export = read_record(directory.export_record(cell.name))
    if export is None:
        export = failure(CRASHED, "the export left no record", "start the study again") | {"source": ""}
    found: dict[str, Any] = {}
    outcome = passed_on(export)
    if export["status"] == OK:
        try:
            found = _metrics(directory, cell)
            outcome = failure(OK, "")
        except StudyError as error:
            outcome = failure(TRACE_FAILED, error.what, error.advice or "the next call takes the trace again")
    record = write_record(
        directory.metrics(cell.name),
        {"name": cell.name, "invocation": invocation, "source": export["source"], **outcome, **found},
    )
    _apply_retention(directory, cell, record["status"])
    return record


def _metrics(directory: RunDirectory, cell: Cell) -> dict[str, Any]:
    from bench.trace.metrics import check_conservation, metrics
    from bench.trace.reader import read_trace

    found = metrics(read_trace(directory.sqlite(cell.name)))
    _check_gpu(cell, found.devices)
    run = read_record(directory.record(cell.name, TRACED))
    if run is None or not run["result"]:
        where = str(directory.record(cell.name, TRACED))
        raise StudyError("the record of the traced run cannot be read", where, "start the study again")
    result = run["result"]
    check_conservation(
        found, result["bytes_in_per_batch"], result["bytes_out_per_batch"], cell.num_samples // cell.batch_size
    )
    return dict(plain(found))


def _check_gpu(cell: Cell, devices: list[TraceDevice]) -> None:
    """The trace must be of the cell's GPU. torch.profiler names none; then the child's own check stands alone."""
    seen = {device.uuid for device in devices if device.uuid}
    if cell.gpu_uuid and seen - {cell.gpu_uuid}:
        raise StudyError(
            f"the trace shows {', '.join(sorted(seen))}, GPU {cell.gpu} is {cell.gpu_uuid}",
            cell.name,
            "was the order of the GPUs changed? CUDA_DEVICE_ORDER must be PCI_BUS_ID",
        )


def _apply_retention(directory: RunDirectory, cell: Cell, status: str) -> None:
    """keep: every trace stays; failed: those of cells that went well go; none: all go."""
    retention = directory.study().retention
    if retention == "keep" or (retention == "failed" and status not in (OK, NOT_RUNNABLE)):
        return
    directory.sqlite(cell.name).unlink(missing_ok=True)
    get_profiler(cell.profiler).discard(directory.report(cell.name))


# --- links
# The link of each GPU from each placement, measured beside the pipeline: the ceiling that percentages refer to.

# On an H100 host the sizes from 4 KiB to 1 GiB take seconds.
TIMEOUT_S = 300.0


def link_cells(cells: Iterable[Cell]) -> dict[str, Cell]:
    """For each GPU and placement of the cells that can run here, a cell that stands for it, by the link's name."""
    found: dict[str, Cell] = {}
    for cell in cells:
        if not cell.reason:
            found.setdefault(link_name(cell), _plain(cell))
    return found


def link_name(cell: Cell) -> str:
    suffix = f"_cpu{cell.cpu_node}" if cell.cpu_node != cell.mem_node else ""
    return f"gpu{cell.gpu}_numa{cell.mem_node}{suffix}"


def measure_link(
    directory: RunDirectory, name: str, cell: Cell, invocation: str, lock: HostLock, report: Report
) -> dict[str, Any]:
    """Write links/<name>.json: what was measured, or an outcome that says why nothing was."""
    cell_file = directory.path / "cells" / f"link_{name}.json"
    write_json(cell_file, plain(cell))
    lock.acquire(str(directory.path), lambda holder: report(holder, 1))
    report("measuring the link", 50)
    begin = time.monotonic()
    logs = directory.log(f"link_{name}", "stdout"), directory.log(f"link_{name}", "stderr")
    with scratch_folder() as scratch:
        result = Path(scratch, "link.json")
        program = [sys.executable, "-m", "bench.workload.microbenchmark"]
        argv = [*program, "--cell", str(cell_file), "--result", str(result)]
        process = Process(cell, argv, logs, result)
        outcome = _outcome(process, directory, lock)
        record = outcome | {"result": process.read_result(), "command": process.command}
    return write_record(
        directory.link(name),
        {
            "invocation": invocation,
            "gpu": cell.gpu,
            "cpu_node": cell.cpu_node,
            "mem_node": cell.mem_node,
            "wall_s": round(time.monotonic() - begin, 3),
            **record,
        },
    )


def _outcome(process: Process, directory: RunDirectory, lock: HostLock) -> dict[str, Any]:
    cell = process.cell
    try:
        with step_aside(directory.host(), cell.cpu_node, cell.binding) as cpus:
            return process.outcome(process.run(lock, cpus))
    except OSError as error:
        return process.failed(error)


def _plain(cell: Cell) -> Cell:
    """The cell as far as the link is concerned."""
    return structs.replace(cell, timeout_s=TIMEOUT_S, **OPTIONAL_IN_KEY)
