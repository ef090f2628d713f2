"""The regime of a trace, decided in integers (DESIGN.md, "Regime")."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.trace.intervals import Intervals
from bench.trace.model import Activities

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
