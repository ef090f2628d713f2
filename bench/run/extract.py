"""The metrics stage: SQLite becomes the contract metrics, or a record that says why not."""

from typing import Any

from bench.errors import StudyError
from bench.run.record import CRASHED, NOT_RUNNABLE, OK, TRACE_FAILED, failure, passed_on, read_record, write_record
from bench.study.cell import Cell
from bench.study.directory import RunDirectory
from bench.study.order import TRACED
from bench.trace.profilers import get_profiler


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
    from bench.trace.remarks import details

    trace = read_trace(directory.sqlite(cell.name))
    found, more = metrics(trace), details(trace)
    _check_gpu(cell, more["devices"])
    run = read_record(directory.record(cell.name, TRACED))
    if run is None or not run["result"]:
        where = str(directory.record(cell.name, TRACED))
        raise StudyError("the record of the traced run cannot be read", where, "start the study again")
    result = run["result"]
    check_conservation(
        found, result["bytes_in_per_batch"], result["bytes_out_per_batch"], cell.num_samples // cell.batch_size
    )
    return found | {key: more[key] for key in ("devices", "remarks", "launch_gaps", "top_kernels")}


def _check_gpu(cell: Cell, devices: list[dict[str, Any]]) -> None:
    """The trace must be of the cell's GPU. torch.profiler names none; then the child's own check stands alone."""
    seen = {device["uuid"] for device in devices if device["uuid"]}
    if cell.gpu_uuid and seen - {cell.gpu_uuid}:
        raise StudyError(
            f"the trace shows {', '.join(sorted(seen))}, GPU {cell.gpu} is {cell.gpu_uuid}",
            cell.name,
            "was the order of the GPUs changed? CUDA_DEVICE_ORDER must be PCI_BUS_ID",
        )


def _apply_retention(directory: RunDirectory, cell: Cell, status: str) -> None:
    """keep: every trace stays; failed: those of cells that went well go; none: all go."""
    retention = directory.study()["retention"]
    if retention == "keep" or (retention == "failed" and status not in (OK, NOT_RUNNABLE)):
        return
    directory.sqlite(cell.name).unlink(missing_ok=True)
    get_profiler(cell.profiler).discard(directory.report(cell.name))
