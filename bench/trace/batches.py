"""What happened batch by batch. Columns, one value a batch, exact ns."""

import numpy as np

from bench.records.trace import PerBatch
from bench.trace.activities import Activities, Kind
from bench.trace.intervals import Intervals, Times, covered, gaps, join, union
from bench.trace.metrics import latencies
from bench.trace.reader import Trace

STAGES = {"h2d": Kind.H2D, "compute": Kind.COMPUTE, "d2h": Kind.D2H}


def per_batch(trace: Trace) -> PerBatch:
    """Columns in the order of the batches."""
    activities, count = trace.activities, len(trace.window.batch_start)
    idle = gaps(join(*activities.unions.values()), int(activities.start.min()), int(activities.end.max()))
    columns: dict[str, Times] = {}
    pieces = {name: _pieces(activities, [kind], count) for name, kind in STAGES.items()}
    for name, (batch, intervals) in pieces.items():
        columns[f"{name}_ns"] = _sum(batch, intervals.end - intervals.start, count)
    batch, copies = _pieces(activities, [Kind.H2D, Kind.D2H], count)
    hidden = covered(activities.unions[Kind.COMPUTE], copies.start, copies.end)
    columns["exposed_copy_ns"] = _sum(batch, copies.end - copies.start - hidden, count)
    for name, (batch, intervals) in pieces.items():
        columns[f"idle_before_{name}_ns"] = _idle_before(idle, batch, intervals, count)
    batch, intervals = pieces["compute"]
    columns["launch_gap_ns"] = _spans(batch, intervals, count) - columns["compute_ns"]
    latency: list[int | None] = latencies(trace).tolist() or [None] * count
    return PerBatch(latency_ns=latency, **{name: column.tolist() for name, column in columns.items()})


def _pieces(activities: Activities, kinds: list[Kind], count: int) -> tuple[Times, Intervals]:
    """Union per batch: (batch of each piece, pieces), ascending by batch, then by time."""
    chosen = np.flatnonzero(np.isin(activities.kind, kinds) & (activities.batch >= 0))
    batch, start, end = activities.batch[chosen], activities.start[chosen], activities.end[chosen]
    if not len(chosen):
        return batch, Intervals(start, end)
    zero = int(start.min())
    span = int(end.max()) - zero + 1
    if span * count >= 2**62:
        # Only a damaged export leads here: its batches, end to end, would not fit 64 bits.
        return _pieces_one_by_one(batch, start, end)
    # End to end on one axis the batches cannot meet, and one union serves them all.
    shift = batch * span - zero
    joined = union(start + shift, end + shift)
    piece_batch = joined.start // span
    shift = piece_batch * span - zero
    return piece_batch, Intervals(joined.start - shift, joined.end - shift)


def _pieces_one_by_one(batch: Times, start: Times, end: Times) -> tuple[Times, Intervals]:
    numbers = np.unique(batch)
    unions = [union(start[batch == number], end[batch == number]) for number in numbers]
    return np.repeat(numbers, [len(each) for each in unions]), Intervals.joined(unions)


def _sum(batch: Times, values: Times, count: int) -> Times:
    result = np.zeros(count, np.int64)
    np.add.at(result, batch, values)
    return result


def _first(batch: Times) -> Times:
    """Index of the first piece of each batch; pieces ascend by batch."""
    return np.flatnonzero(np.diff(batch, prepend=-1))


def _idle_before(idle: Intervals, batch: Times, intervals: Intervals, count: int) -> Times:
    result = np.zeros(count, np.int64)
    if not len(idle):
        return result
    first = _first(batch)
    opened = intervals.start[first]
    gap = np.minimum(np.searchsorted(idle.end, opened), len(idle) - 1)
    ended = idle.end[gap] == opened
    result[batch[first[ended]]] = (idle.end - idle.start)[gap[ended]]
    return result


def _spans(batch: Times, intervals: Intervals, count: int) -> Times:
    result = np.zeros(count, np.int64)
    first = _first(batch)
    last = np.append(first[1:], len(batch)) - 1
    if len(batch):
        result[batch[first]] = intervals.end[last] - intervals.start[first]
    return result
