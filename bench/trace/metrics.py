"""Contract metrics and regime of one trace."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import units
from bench.errors import TraceError
from bench.trace.intervals import Intervals, Times, gaps, join, overlap
from bench.trace.reader import Activities, Kind, Trace

# --- regime
# The regime of a trace, decided in integers (DESIGN.md, "Regime").

LAUNCH_BOUND, STALLED = "launch-bound", "stalled"
TRANSFER_BOUND, COMPUTE_BOUND, BALANCED = "transfer-bound", "compute-bound", "balanced"


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
) -> tuple[str, dict[str, Any]]:
    """(regime, the numbers it was decided from); rho is None where nothing was computed.

    call_idle_ns does not decide: it is the part of the late gaps in which the CPU was still on its way to the launch.
    """
    copy_ns, compute_ns = max(h2d.length, d2h.length), compute.length
    evidence = {
        "idle_share": idle_ns / window_ns,
        "late_idle_ns": late.gap_ns,
        "late_share": late.gap_ns / idle_ns if idle_ns else None,
        "call_idle_ns": late.call_ns,
        "call_share": late.call_ns / idle_ns if idle_ns else None,
        "rho": copy_ns / compute_ns if compute_ns else None,
    }
    if 5 * idle_ns >= window_ns:
        return (LAUNCH_BOUND if 2 * late.gap_ns >= idle_ns else STALLED), evidence
    if 4 * copy_ns >= 5 * compute_ns:
        return TRANSFER_BOUND, evidence
    return (COMPUTE_BOUND if 5 * copy_ns <= 4 * compute_ns else BALANCED), evidence


# --- metrics
# The contract metrics of one trace (DESIGN.md). Pure; exact integers until the last division.

def metrics(trace: Trace) -> dict[str, Any]:
    """The keys of the contract, and with `regime` the `regime_evidence` it was decided from.

    compute.kernels counts all of K: kernels, graph launches, memsets, device-to-device copies.
    """
    activities = trace.activities
    first, last = int(activities.start.min()), int(activities.end.max())
    h2d, d2h, compute = (activities.union(kind) for kind in Kind)
    copies = join(h2d, d2h)
    idle = gaps(join(copies, compute), first, last)
    window_ns, longest = last - first, max(h2d.length, d2h.length, compute.length)
    overlap_ns = overlap(copies, compute)
    decided, evidence = regime(window_ns, idle.length, lateness(idle, activities), h2d, d2h, compute)
    return {
        "batches": len(trace.window.batch_start),
        "window_ns": window_ns,
        "h2d": _copies(activities, Kind.H2D, h2d),
        "d2h": _copies(activities, Kind.D2H, d2h),
        "compute": {"kernels": len(activities.of(Kind.COMPUTE)), "busy_ns": compute.length},
        "overlap_ns": overlap_ns,
        "exposed_h2d_ns": h2d.length - overlap(h2d, compute),
        "exposed_d2h_ns": d2h.length - overlap(d2h, compute),
        "exposed_copy_ns": copies.length - overlap_ns,
        "idle_ns": idle.length,
        "pipeline_efficiency": longest / window_ns,
        "bottleneck": _bottleneck(h2d, d2h, compute),
        "latency_us": _latency_us(trace),
        "regime": decided,
        "regime_evidence": evidence,
    }


def latencies(trace: Trace) -> Times:
    """ns from the first H2D start to the last D2H end, per batch in order; empty where one direction is not copied."""
    activities, count = trace.activities, len(trace.window.batch_start)
    h2d, d2h = (_in_batches(activities, kind) for kind in (Kind.H2D, Kind.D2H))
    if not (len(h2d) and len(d2h)):
        return np.empty(0, np.int64)
    first = np.full(count, np.iinfo(np.int64).max)
    last = np.full(count, np.iinfo(np.int64).min)
    np.minimum.at(first, activities.batch[h2d], activities.start[h2d])
    np.maximum.at(last, activities.batch[d2h], activities.end[d2h])
    return last - first


def exact_sum(values: Times) -> int:
    """A sum that cannot overflow: the halves of up to 2**31 values fit 64 bits."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def check_conservation(
    found: dict[str, Any], bytes_in_per_batch: int, bytes_out_per_batch: int, batches: int | None = None
) -> None:
    """Raise TraceError (outcome trace_failed), saying both numbers, unless the trace holds every batch and byte.

    found: result of `metrics`. batches: of the traced pass, where known.
    """
    if batches is not None and found["batches"] != batches:
        raise TraceError(f"the trace has {found['batches']} batches, the run made {batches}")
    for name, per_batch in (("h2d", bytes_in_per_batch), ("d2h", bytes_out_per_batch)):
        expected = found["batches"] * per_batch
        if found[name]["bytes"] != expected:
            raise TraceError(
                f"{name.upper()} copies of the trace carry {found[name]['bytes']} bytes, "
                f"{found['batches']} batches x {per_batch} bytes are {expected}"
            )


def _latency_us(trace: Trace) -> dict[str, Any]:
    values = latencies(trace)
    found = units.summary(np.sort(values), scale=1000)
    if not len(values):
        found["reasons"] = dict.fromkeys(("p50", "p90", "p99", "max"), "the batches are copied one way only")
    return found


def _in_batches(activities: Activities, kind: Kind) -> NDArray[np.intp]:
    return np.flatnonzero((activities.kind == kind) & (activities.batch >= 0))


def _copies(activities: Activities, kind: Kind, busy: Intervals) -> dict[str, Any]:
    chosen = activities.of(kind)
    size = exact_sum(activities.bytes[chosen])
    copying = exact_sum(activities.end[chosen] - activities.start[chosen])
    return {
        "bytes": size,
        "copies": len(chosen),
        "busy_ns": busy.length,
        # Bytes per ns are GB/s. Copies that took no time have no rate.
        "bandwidth_gb_s": size / copying if copying else None,
        "link_gb_s": size / busy.length if busy.length else None,
    }


def _bottleneck(h2d: Intervals, d2h: Intervals, compute: Intervals) -> str:
    """The largest; of equals the one that comes first in the pipeline."""
    busy = {"h2d": h2d.length, "compute": compute.length, "d2h": d2h.length}
    return max(busy, key=lambda stage: busy[stage])
