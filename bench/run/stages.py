"""The stages of a cell beside its runs: export and metrics of the trace, and the measurement of a link.

Each writes a record, on success or failure.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from bench.errors import StudyError
from bench.host.processes import python_module
from bench.records.base import plain
from bench.records.run import Export, Failure, Head, Link, Outcome, Run, Stage, read_head, read_record, write_record
from bench.records.study import TRACED, Cell
from bench.records.trace import Metrics, TraceDevice
from bench.run.attempt import avoid_measured_cpus
from bench.run.child import Process, scratch_folder
from bench.run.lock import HostLock
from bench.run.progress import Progress, Report, RunState
from bench.storage import write_json
from bench.study.directory import RunDirectory
from bench.trace.profilers import get_profiler

# On an H100 host the sizes from 4 KiB to 1 GiB take seconds.
LINK_TIMEOUT_S = 300.0


def export_trace(directory: RunDirectory, cell: Cell, invocation: str) -> Export:
    """Write nsys_reports/<cell>.sqlite and its record; the failure of a run becomes that of its export."""
    begin = time.monotonic()
    run = read_head(directory.record(cell.name, TRACED)) or _no_record("the traced run")
    sqlite = directory.sqlite(cell.name)
    failure = None if run.ok else _failure_of(run)
    if run.ok:
        try:
            get_profiler(cell.profiler).export(directory.report(cell.name), sqlite)
        except StudyError as error:
            failure = Failure(status=Outcome.TRACE_FAILED, reason=error.what, advice=error.advice)
    export = Export(
        status=failure.status if failure else Outcome.OK,
        reason=failure.reason if failure else "",
        advice=failure.advice if failure else "",
        invocation=invocation,
        by_grid=run.by_grid,
        source=run.origin,
        cell=cell.name,
        profiler=cell.profiler,
        sqlite=None if failure else sqlite.name,
        sqlite_bytes=None if failure else sqlite.stat().st_size,
        wall_s=round(time.monotonic() - begin, 3),
    )
    write_record(directory.export_record(cell.name), export)
    return export


def extract_metrics(directory: RunDirectory, cell: Cell, invocation: str) -> Stage:
    """Write latency/<cell>.json: the metrics beside the keys of a stage.

    Bytes and batches must be those of the run (conservation), else the outcome is trace_failed.
    """
    export = read_head(directory.export_record(cell.name)) or _no_record("the export")
    metrics: Metrics | None = None
    failure = None if export.ok else _failure_of(export)
    if export.ok:
        try:
            metrics = _metrics(directory, cell)
        except StudyError as error:
            advice = error.advice or "the next call traces the cell again"
            failure = Failure(status=Outcome.TRACE_FAILED, reason=error.what, advice=advice)
    stage = Stage(
        status=failure.status if failure else Outcome.OK,
        reason=failure.reason if failure else "",
        advice=failure.advice if failure else "",
        invocation=invocation,
        by_grid=export.by_grid,
        source=export.origin,
    )
    write_json(directory.metrics(cell.name), plain(stage) | {"name": cell.name} | (plain(metrics) if metrics else {}))
    _apply_retention(directory, cell, stage.status)
    return stage


def _no_record(of: str) -> Head:
    return Head(status=Outcome.CRASHED, reason=f"{of} left no record", advice="start the study again")


def _failure_of(stage: Stage) -> Failure:
    return Failure(status=stage.status, reason=stage.reason, advice=stage.advice)


def _metrics(directory: RunDirectory, cell: Cell) -> Metrics:
    from bench.trace.metrics import check_conservation, metrics
    from bench.trace.reader import read_trace

    found = metrics(read_trace(directory.sqlite(cell.name)))
    _check_gpu(cell, found.devices)
    path = directory.record(cell.name, TRACED)
    run = read_record(path, Run)
    result = run.result if run else None
    if result is None or result.bytes_in_per_batch is None or result.bytes_out_per_batch is None:
        raise StudyError("the record of the traced run cannot be read", str(path), "start the study again")
    batches = cell.num_samples // cell.batch_size
    check_conservation(found, result.bytes_in_per_batch, result.bytes_out_per_batch, batches)
    return found


def _check_gpu(cell: Cell, devices: list[TraceDevice]) -> None:
    """The trace must be of the cell's GPU. torch.profiler names none; then only the child has checked."""
    uuids = {device.uuid for device in devices if device.uuid}
    if cell.gpu_uuid and uuids - {cell.gpu_uuid}:
        raise StudyError(
            f"the trace shows {', '.join(sorted(uuids))}, GPU {cell.gpu} is {cell.gpu_uuid}",
            cell.name,
            "was the order of the GPUs changed? CUDA_DEVICE_ORDER must be PCI_BUS_ID",
        )


def _apply_retention(directory: RunDirectory, cell: Cell, status: Outcome) -> None:
    """keep: every trace stays; failed: those of cells that succeeded are removed; none: all are."""
    retention = directory.study().retention
    if retention == "keep" or (retention == "failed" and status not in (Outcome.OK, Outcome.NOT_RUNNABLE)):
        return
    directory.sqlite(cell.name).unlink(missing_ok=True)
    get_profiler(cell.profiler).discard(directory.report(cell.name))


def link_cells(cells: Iterable[Cell]) -> dict[str, Cell]:
    """By the link's name, a cell for each GPU and placement of the cells that can run here."""
    links: dict[str, Cell] = {}
    for cell in cells:
        if not cell.reason:
            links.setdefault(link_name(cell), _link_cell(cell))
    return links


def link_name(cell: Cell) -> str:
    suffix = f"_cpu{cell.cpu_node}" if cell.cpu_node != cell.mem_node else ""
    return f"gpu{cell.gpu}_numa{cell.mem_node}{suffix}"


def measure_link(
    directory: RunDirectory, name: str, cell: Cell, invocation: str, lock: HostLock, report: Report
) -> Link:
    """Write links/<name>.json: the measurement, or the outcome with its reason."""
    cell_file = directory.path / "cells" / f"link_{name}.json"
    write_json(cell_file, plain(cell))
    lock.acquire(str(directory.path), report)
    report(Progress(RunState.MEASURING, 50))
    begin = time.monotonic()
    logs = directory.log(f"link_{name}", "stdout"), directory.log(f"link_{name}", "stderr")
    with scratch_folder() as scratch:
        file = Path(scratch, "link.json")
        argv = python_module("bench.workload.microbenchmark", "--cell", str(cell_file), "--result", str(file))
        process = Process(cell, argv, logs, file)
        failure = _run_link(process, directory, lock)
        written = process.read_report()
    link = Link(
        status=failure.status if failure else Outcome.OK,
        reason=failure.reason if failure else "",
        advice=failure.advice if failure else "",
        log_tail=failure.log_tail if failure else [],
        invocation=invocation,
        gpu=cell.gpu,
        cpu_node=cell.cpu_node,
        mem_node=cell.mem_node,
        wall_s=round(time.monotonic() - begin, 3),
        command=process.command,
        result=written.link if written else None,
    )
    write_record(directory.link(name), link)
    return link


def _run_link(process: Process, directory: RunDirectory, lock: HostLock) -> Failure | None:
    cell = process.cell
    try:
        with avoid_measured_cpus(directory.host(), [cell]) as cpus:
            return process.failure(process.run(lock, cpus))
    except OSError as error:
        return process.not_run(error)


def _link_cell(cell: Cell) -> Cell:
    """The cell with the defaults of the settings that concern a link."""
    return replace(
        cell, timeout_s=LINK_TIMEOUT_S, host_memory="pinned", preprocess_queue=0, preprocess_node=-1, concurrent_gpus=1
    )
