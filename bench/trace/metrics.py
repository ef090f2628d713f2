"""The contract metrics of one trace (docs/metrics.md). Pure; exact integers until the last division."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench import units
from bench.errors import TraceError
from bench.records.base import Direction
from bench.records.trace import (
    Bottleneck,
    Compute,
    Copies,
    LaunchGaps,
    Metrics,
    Regime,
    RegimeEvidence,
    RemarkKind,
    TopKernel,
    TraceLatency,
    TraceRemark,
)
from bench.trace.activities import DEVICE_COPY, GRAPH_NAME, MEMSET_NAME, UNIFIED_COPY, Activities, Kind
from bench.trace.intervals import Intervals, Times, covered, gaps, join, overlap, running_end
from bench.trace.reader import Trace

TOP_KERNELS = 10
DIRECTIONS = {Direction.H2D: Kind.H2D, Direction.D2H: Kind.D2H}


def metrics(trace: Trace) -> Metrics:
    """All that a trace says about its window."""
    activities = trace.activities
    first, last = int(activities.start.min()), int(activities.end.max())
    h2d, d2h, compute = activities.unions.values()
    copies = join(h2d, d2h)
    idle = gaps(join(copies, compute), first, last)
    window_ns, longest = last - first, max(h2d.length, d2h.length, compute.length)
    overlap_ns = overlap(copies, compute)
    evidence, decided = regime(window_ns, idle.length, lateness(idle, activities), h2d, d2h, compute)
    return Metrics(
        name=trace.name,
        batches=len(trace.window.batch_start),
        window_ns=window_ns,
        h2d=_copies(trace, Kind.H2D, h2d),
        d2h=_copies(trace, Kind.D2H, d2h),
        compute=_compute(activities, compute),
        overlap_ns=overlap_ns,
        exposed_h2d_ns=h2d.length - overlap(h2d, compute),
        exposed_d2h_ns=d2h.length - overlap(d2h, compute),
        exposed_copy_ns=copies.length - overlap_ns,
        idle_ns=idle.length,
        pipeline_efficiency=longest / window_ns,
        bottleneck=_bottleneck(h2d, d2h, compute),
        latency_us=_latency_us(trace),
        regime=decided,
        regime_evidence=evidence,
        complete=trace.complete,
        devices=list(trace.devices),
        remarks=remarks(trace),
        launch_gaps=launch_gaps(trace),
        top_kernels=top_kernels(trace),
        export=trace.tool,
    )


def latencies(trace: Trace) -> Times:
    """ns from the first H2D start to the last D2H end, per batch in order; empty where a batch is not copied both
    ways."""
    activities, count = trace.activities, len(trace.window.batch_start)
    h2d, d2h = (_in_batches(activities, kind) for kind in (Kind.H2D, Kind.D2H))
    if any(len(np.unique(activities.batch[copied])) < count for copied in (h2d, d2h)):
        return np.empty(0, np.int64)
    first = np.full(count, np.iinfo(np.int64).max)
    last = np.full(count, np.iinfo(np.int64).min)
    np.minimum.at(first, activities.batch[h2d], activities.start[h2d])
    np.maximum.at(last, activities.batch[d2h], activities.end[d2h])
    latency: Times = last - first
    return latency


def exact_sum(values: Times) -> int:
    """A sum that cannot overflow: the halves of up to 2**31 values fit 64 bits."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def check_conservation(
    found: Metrics, bytes_in_per_batch: int, bytes_out_per_batch: int, batches: int | None = None
) -> None:
    """Raise TraceError (outcome trace_failed) with both numbers, unless the trace has every batch and byte.

    batches: of the traced pass, where known.
    """
    if batches is not None and found.batches != batches:
        raise TraceError(f"the trace has {found.batches} batches, the run made {batches}")
    for direction, copies, per_batch in (
        (Direction.H2D, found.h2d, bytes_in_per_batch),
        (Direction.D2H, found.d2h, bytes_out_per_batch),
    ):
        expected = found.batches * per_batch
        if copies.bytes != expected:
            raise TraceError(
                f"{direction.upper()} copies of the trace carry {copies.bytes} bytes, "
                f"{found.batches} batches x {per_batch} bytes are {expected}"
            )


def _latency_us(trace: Trace) -> TraceLatency:
    values = latencies(trace)
    found = units.summary(np.sort(values).tolist(), scale=1000)
    if not len(values):
        found["reasons"] = dict.fromkeys(("p50", "p90", "p99", "max"), "not every batch is copied both ways")
    return TraceLatency(**found)


def _in_batches(activities: Activities, kind: Kind) -> NDArray[np.intp]:
    return np.flatnonzero((activities.kind == kind) & (activities.batch >= 0))


def _copies(trace: Trace, kind: Kind, busy: Intervals) -> Copies:
    chosen = trace.activities.of(kind)
    size = exact_sum(trace.copies.bytes[trace.copies.kind == kind])
    copying = exact_sum(trace.activities.end[chosen] - trace.activities.start[chosen])
    return Copies(
        bytes=size,
        copies=len(chosen),
        busy_ns=busy.length,
        # Bytes per ns are GB/s. Copies that took no time have no rate.
        bandwidth_gb_s=size / copying if copying else None,
        link_gb_s=size / busy.length if busy.length else None,
    )


def _compute(activities: Activities, busy: Intervals) -> Compute:
    names = activities.name[activities.of(Kind.COMPUTE)]
    others = {name: int((names == name).sum()) for name in (GRAPH_NAME, MEMSET_NAME, DEVICE_COPY)}
    return Compute(
        kernels=len(names) - sum(others.values()),
        graph_launches=others[GRAPH_NAME],
        memsets=others[MEMSET_NAME],
        device_copies=others[DEVICE_COPY],
        busy_ns=busy.length,
    )


def _bottleneck(h2d: Intervals, d2h: Intervals, compute: Intervals) -> Bottleneck:
    """The largest; of equals the one that comes first in the pipeline."""
    busy = {Bottleneck.H2D: h2d.length, Bottleneck.COMPUTE: compute.length, Bottleneck.D2H: d2h.length}
    return max(busy, key=lambda stage: busy[stage])


# The regime, decided in integers.


@dataclass(frozen=True)
class Lateness:
    """gap_ns: length of the gaps that are late. call_ns: the part of it that passed before the call returned."""

    gap_ns: int
    call_ns: int


def lateness(idle: Intervals, activities: Activities) -> Lateness:
    """A gap is late if the activity that ends it was launched, by a call that returned, after the gap opened.

    Where several activities end a gap at the same ns, it is late only if all of them were.
    """
    if not len(idle):
        return Lateness(0, 0)
    gap = np.searchsorted(idle.end, activities.start)
    gap[gap == len(idle)] = 0
    ends = np.flatnonzero(idle.end[gap] == activities.start)
    launched = np.full(len(idle), np.iinfo(np.int64).max)
    np.minimum.at(launched, gap[ends], activities.call_end[ends])
    late = launched > idle.start
    opened, closed, returned = idle.start[late], idle.end[late], launched[late]
    return Lateness(int((closed - opened).sum()), int((np.minimum(returned, closed) - opened).sum()))


def regime(
    window_ns: int, idle_ns: int, late: Lateness, h2d: Intervals, d2h: Intervals, compute: Intervals
) -> tuple[RegimeEvidence, Regime]:
    """(the numbers it was decided from, the regime): docs/metrics.md, "Regime".

    call_idle_ns does not decide: it is the part of the late gaps in which the CPU was still on its way to the launch.
    """
    copy_ns, compute_ns = max(h2d.length, d2h.length), compute.length
    evidence = RegimeEvidence(
        idle_share=idle_ns / window_ns,
        late_idle_ns=late.gap_ns,
        late_share=late.gap_ns / idle_ns if idle_ns else None,
        call_idle_ns=late.call_ns,
        call_share=late.call_ns / idle_ns if idle_ns else None,
        rho=copy_ns / compute_ns if compute_ns else None,
    )
    if 5 * idle_ns >= window_ns:
        return evidence, Regime.LAUNCH_BOUND if 2 * late.gap_ns >= idle_ns else Regime.STALLED
    if 4 * copy_ns >= 5 * compute_ns:
        return evidence, Regime.TRANSFER_BOUND
    return evidence, Regime.COMPUTE_BOUND if 5 * copy_ns <= 4 * compute_ns else Regime.BALANCED


# What a person should know besides.


def remarks(trace: Trace) -> list[TraceRemark]:
    """Copies that wait for others or make others wait, and work that the metrics leave out; empty if all is well."""
    copies, found = trace.copies, []
    for direction, kind in DIRECTIONS.items():
        chosen = copies.kind == kind
        for remark, column, values in (
            (RemarkKind.PAGEABLE_COPIES, copies.host_memory, trace.pageable_kinds),
            (RemarkKind.DEFAULT_STREAM_COPIES, copies.stream, list(trace.null_streams)),
        ):
            count = int(np.isin(column[chosen], values).sum())
            if count:
                total = int(chosen.sum())
                found.append(TraceRemark(kind=remark, count=count, total=total, direction=direction))
    if unified := int((copies.kind == UNIFIED_COPY).sum()):
        found.append(TraceRemark(kind=RemarkKind.UNIFIED_MEMORY_COPIES, count=unified, total=len(copies.kind)))
    if len(trace.devices) > 1:
        count = len(trace.devices)
        found.append(TraceRemark(kind=RemarkKind.SEVERAL_DEVICES, count=count, total=count))
    if others := trace.complete.other_threads:
        found.append(TraceRemark(kind=RemarkKind.OTHER_THREADS, count=others, total=others + len(trace.activities)))
    return found


def launch_gaps(trace: Trace) -> LaunchGaps:
    """Gaps between consecutive kernels of one batch while no copy or other kernel ran either: count, total, largest."""
    activities = trace.activities
    chosen = _in_batches(activities, Kind.COMPUTE)
    order = chosen[np.argsort(activities.batch[chosen], kind="stable")]
    batch, start = activities.batch[order], activities.start[order]
    # A gap opens where all kernels of the batch so far have ended.
    reach = running_end(batch, activities.end[order])[:-1]
    gap = np.flatnonzero((batch[1:] == batch[:-1]) & (start[1:] > reach))
    opened, closed = reach[gap], start[1:][gap]
    del chosen, order, batch, start, reach  # of a long trace each as large as a column of it
    busy = sum((covered(each, opened, closed) for each in activities.unions.values()), np.zeros(len(opened), np.int64))
    empty = (closed - opened)[busy == 0]
    return LaunchGaps(count=len(empty), total_ns=exact_sum(empty), max_ns=int(empty.max()) if len(empty) else 0)


def top_kernels(trace: Trace, count: int = TOP_KERNELS) -> list[TopKernel]:
    """The names that took most device time; longest first, then by name."""
    activities = trace.activities
    chosen = activities.of(Kind.COMPUTE)
    keys, index, calls = np.unique(activities.name[chosen], return_inverse=True, return_counts=True)
    totals = np.zeros(len(keys), np.int64)
    np.add.at(totals, index, activities.end[chosen] - activities.start[chosen])
    rows = [
        TopKernel(name=trace.names[key], calls=number, total_ns=total)
        for key, number, total in zip(keys.tolist(), calls.tolist(), totals.tolist(), strict=True)
    ]
    return sorted(rows, key=lambda row: (-row.total_ns, row.name))[:count]
