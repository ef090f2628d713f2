"""The stages in a trace of torch.profiler, read by the project's own reader, and by a second way."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import TraceError
from bench.records.base import plain
from bench.records.study import Cell
from bench.records.trace import Metrics
from bench.trace.batches import per_batch
from bench.trace.metrics import check_conservation, metrics
from bench.trace.reader import read_trace
from bench.trace.torch_trace import convert, read_chrome_trace

COPIES = {"h2d": "HtoD", "d2h": "DtoH"}


def stages_of(path: Path, cell: Cell) -> dict[str, Any]:
    """In us per batch: `h2d`, `compute`, `d2h` (medians over the batches of the union of the stage's activities),
    `error` of these medians, `device` and `idle` (of the window), `cpu` (median from one batch's issue to the next);
    and the regime.

    `raw`: mean sums of the device's events without the reader, None on the cpu device. `conservation`: what the check
    of bytes gives, None if they are as expected (an injected copy carries more, which must be reported).
    """
    raw = _raw(path, cell.batches_per_pass)
    try:
        return _read(path, cell) | {"raw": raw}
    except TraceError as error:
        if raw is None:
            raise
        # The device's own times are better than nothing; the error is reported.
        nothing = dict.fromkeys(("device", "idle", "cpu", "regime", "evidence", "conservation"))
        return raw | nothing | {"batches": cell.batches_per_pass, "raw": raw, "reader_error": str(error)}


def _read(path: Path, cell: Cell) -> dict[str, Any]:
    export = path.with_suffix(".sqlite")
    convert(path, export)
    trace = read_trace(export, cell.name)
    found, columns = metrics(trace), plain(per_batch(trace))
    batches = found.batches
    opened = trace.window.batch_start
    return {
        **{stage: float(np.median(columns[f"{stage}_ns"])) / 1e3 for stage in ("h2d", "compute", "d2h")},
        "error": {stage: _error_us(columns[f"{stage}_ns"]) for stage in ("h2d", "compute", "d2h")},
        "device": found.window_ns / batches / 1e3,
        "idle": found.idle_ns / batches / 1e3,
        "cpu": float(np.median(np.diff(opened))) / 1e3 if len(opened) > 1 else None,
        "batches": batches,
        "regime": found.regime,
        "evidence": plain(found.regime_evidence),
        "conservation": _conservation(found, cell),
    }


def _error_us(values_ns: list[int]) -> float:
    """Standard error of a median over batches, from the median deviation: what one trace knows of its own noise."""
    values = np.asarray(values_ns, float) / 1e3
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return 1.2533 * spread / len(values) ** 0.5


def _conservation(found: Metrics, cell: Cell) -> str | None:
    try:
        into, back = math.prod(cell.batch_shape), math.prod(cell.output_shape)
        into, back = (count * cell.bytes_per_element for count in (into * cell.copies_in, back * cell.copies_out))
        check_conservation(found, into, back, cell.batches_per_pass)
    except TraceError as error:
        return error.what
    return None


def _raw(path: Path, batches: int) -> dict[str, float] | None:
    events = read_chrome_trace(path).events
    copies = [event for event in events if event.category == "gpu_memcpy"]
    if not copies:
        return None
    sums = {
        stage: sum(event.end - event.start for event in copies if way in event.name) for stage, way in COPIES.items()
    }
    sums["compute"] = sum(event.end - event.start for event in events if event.category == "kernel")
    return {stage: total / batches / 1e3 for stage, total in sums.items()}
