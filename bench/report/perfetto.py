"""The median and the slowest batch of a traced run, for ui.perfetto.dev and chrome://tracing, by which both open.

The format is the Trace Event Format of Chrome. Slices of one of its tracks must contain each other or be apart: what
overlaps is on further tracks.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis.load import read_results
from bench.errors import StudyError
from bench.trace.activities import Kind
from bench.trace.metrics import latencies
from bench.trace.reader import Trace, read_trace
from bench.units import microseconds

TRACKS = {Kind.H2D: "copy in", Kind.COMPUTE: "compute", Kind.D2H: "copy out"}
_CPU = "CPU: the batch is issued"
# Numbers of tracks of one kind: more than kernels that a GPU runs at once.
_OF_A_KIND = 1000
Event = dict[str, Any]


def perfetto(run_dir: Path, cell: str = "") -> str:
    """JSON. cell: whose trace, by default the first that has one.

    Raise StudyError if run_dir has no results, or no such trace.
    """
    results = read_results(run_dir)
    exports = {one.name: run_dir / "nsys_reports" / f"{one.name}.sqlite" for one in results.cells}
    if cell and cell not in exports:
        raise StudyError("this study has no such cell", cell, "take a name of a cell from results.csv")
    there = [name for name in ([cell] if cell else exports) if exports[name].is_file()]
    if not there:
        advice = "name a run directory of which traces were kept (retention: keep)"
        raise StudyError("there is no trace", str(exports[cell] if cell else run_dir / "nsys_reports"), advice)
    trace = read_trace(exports[there[0]])
    found = {"study": results.study_name, "cell": there[0], "batches": len(trace.window.batch_start)}
    written = {"displayTimeUnit": "ns", "otherData": found, "traceEvents": list(events(trace))}
    return json.dumps(written, allow_nan=False)


def events(trace: Trace) -> Iterator[Event]:
    """Each batch is a process of its own that begins at 0, so that one is seen above the other."""
    count = len(trace.window.batch_start)
    for process, (name, (batch, length_ns)) in enumerate(median_and_slowest(trace).items(), 1):
        title = f"{name} batch: number {batch + 1} of {count}, {microseconds(length_ns / 1e3)}"
        yield _named("process_name", process, 0, title)
        yield {"name": "process_sort_index", "ph": "M", "pid": process, "tid": 0, "args": {"sort_index": process}}
        yield from _batch(trace, process, batch)


def median_and_slowest(trace: Trace) -> dict[str, tuple[int, int]]:
    """(batch, latency in ns) of both. Where batches are copied one way only: from first to last activity."""
    batches = np.unique(trace.activities.batch[trace.activities.batch >= 0])
    lengths = latencies(trace)
    if not len(lengths):
        spans = [_span(trace, batch) for batch in batches.tolist()]
        lengths = np.array([end - start for start, end in spans], np.int64)
    order = np.argsort(lengths, kind="stable")
    chosen = {"median": int(order[(len(order) - 1) // 2]), "slowest": int(order[-1])}
    return {name: (int(batches[at]), int(lengths[at])) for name, at in chosen.items()}


def _span(trace: Trace, batch: int) -> tuple[int, int]:
    own = trace.activities.batch == batch
    return int(trace.activities.start[own].min()), int(trace.activities.end[own].max())


def _batch(trace: Trace, process: int, batch: int) -> Iterator[Event]:
    """The batch from its first call on, and what of its neighbours ran meanwhile, cut to its length."""
    left, right = _span(trace, batch)
    issued = int(trace.window.batch_start[batch]), int(trace.window.batch_end[batch])
    left = min(left, issued[0])
    yield _named("thread_name", process, 0, _CPU)
    if issued[1] > left and issued[0] < right:
        yield _slice(process, 0, f"batch {batch + 1}", *_cut(issued, left, right), batch, left)
    activities = trace.activities
    meanwhile = np.flatnonzero((activities.end > left) & (activities.start < right))
    for row, (kind, title) in enumerate(TRACKS.items(), 1):
        ends: list[int] = []
        for at in meanwhile[activities.kind[meanwhile] == kind].tolist():
            start, end = _cut((int(activities.start[at]), int(activities.end[at])), left, right)
            track = next((one for one, before in enumerate(ends) if before <= start), len(ends))
            if track == len(ends):
                ends.append(end)
                number = f" {track + 1}" if track else ""
                yield _named("thread_name", process, row * _OF_A_KIND + track, f"{title}{number}")
            ends[track] = end
            name = trace.names[int(activities.name[at])] if kind is Kind.COMPUTE else title
            own = int(activities.batch[at])
            yield _slice(process, row * _OF_A_KIND + track, name, start, end, own, left)


def _cut(span: tuple[int, int], left: int, right: int) -> tuple[int, int]:
    return max(span[0], left), min(span[1], right)


def _slice(process: int, track: int, name: str, start: int, end: int, batch: int, zero: int) -> Event:
    """Times in us, as the format has them; batch -1: launched between two batches."""
    return {
        "name": name, "cat": "batch", "ph": "X", "pid": process, "tid": track,
        "ts": (start - zero) / 1e3, "dur": (end - start) / 1e3, "args": {"batch": batch + 1 if batch >= 0 else None},
    }  # fmt: skip


def _named(what: str, process: int, track: int, name: str) -> Event:
    return {"name": what, "ph": "M", "pid": process, "tid": track, "args": {"name": name}}
