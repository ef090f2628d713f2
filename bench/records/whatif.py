"""What `numastudy whatif --json` prints: how much slower host copies could slow the program of a trace."""

from enum import StrEnum

from bench.records.base import Count, Number, Record
from bench.records.trace import ExportTool


class Decision(StrEnum):
    """What a trace says about remote memory. UNKNOWN: not even the bounds hold."""

    CANNOT_MATTER = "cannot matter"
    CAN_MATTER = "can matter"
    UNKNOWN = "unknown"


class Refusal(StrEnum):
    """Why there is no estimate. Those of BOUNDS_FAIL make the bounds wrong too."""

    UNEXPLAINED = "unexplained"
    NO_CALLS = "no calls"
    INCOMPLETE = "incomplete"
    MANAGED_MEMORY = "managed memory"


BOUNDS_FAIL = frozenset((Refusal.INCOMPLETE, Refusal.MANAGED_MEMORY))


class LinkUse(Record, frozen=True, kw_only=True):
    """Host copies of one direction. busy_share, exposed_share: of the window; exposed: while no kernel ran.

    gb_s: bytes over the time in which at least one is copied (1e9 bytes/s). sizes: copies by the power of two of
    their bytes, rounded down.
    """

    bytes: Count
    copies: Count
    pageable: Count
    gb_s: Number | None
    busy_share: Number
    exposed_share: Number
    sizes: dict[int, Count] = {}


class Path(Record, frozen=True, kw_only=True):
    """Composition of the critical path, as shares of it; the sum is 1.

    api_calls, between_calls: time of the CPU. long_calls: what calls took beyond the usual, for no reason in the trace.
    lags: between a cause and its effect. unexplained: delays without a cause in the trace.
    """

    kernels: Number
    h2d: Number
    d2h: Number
    api_calls: Number
    between_calls: Number
    long_calls: Number
    lags: Number
    unexplained: Number


class Slower(Record, frozen=True, kw_only=True):
    """Loss of throughput if host copies took `factor` times as long: 1 - time / new time.

    at_least, at_most: bounds for the graph of this trace. estimate: range of the replays; None where it is refused.
    """

    factor: Number
    at_least: Number
    at_most: Number
    estimate: tuple[Number, Number] | None


class SlowerCpu(Record, frozen=True, kw_only=True):
    """Loss if all CPU time outside waits took `factor` times as long, as traced."""

    factor: Number
    at_least: Number
    at_most: Number


class GpuWhatIf(Record, frozen=True, kw_only=True):
    """One GPU. window_ms: from its first activity to the end of its last one. idle_share: nothing ran.

    late_launch_share: idle until an activity whose launch came late. short: few activities or little time, so that how
    the window begins and ends counts. cpu_free_ms: the window if the CPU took no time, a
    lower bound of the untraced time. copies, cpu: empty where not even bounds hold.
    """

    device: Count
    activities: Count
    window_ms: Number
    compute_share: Number
    idle_share: Number
    late_launch_share: Number
    collective_share: Number
    cpu_free_ms: Number
    h2d: LinkUse
    d2h: LinkUse
    path: Path
    copies: tuple[Slower, ...]
    cpu: tuple[SlowerCpu, ...]
    refusals: tuple[Refusal, ...] = ()
    short: bool = False
    text: str = ""


class WhatIf(Record, frozen=True, kw_only=True):
    """factor: of copies, on which `decision` rests. most: the largest bound of all GPUs at that factor; None where a
    bound does not hold.

    launches, recorded: calls that launch work while the GPU was traced, and those with an activity. cpu_factor: on all
    CPU time, with which a replay takes the untraced time; None without one. aligned_ns: by which the clock of a GPU was
    moved to that of the host.
    """

    trace: str
    tool: ExportTool
    decision: Decision
    factor: Number
    most: Number | None
    activities: Count
    calls: Count
    launches: Count
    recorded: Count
    has_event_records: bool
    traced_ms: Number
    untraced_ms: Number | None = None
    cpu_factor: Number | None = None
    aligned_ns: Count = 0
    gpus: tuple[GpuWhatIf, ...] = ()
    text: str = ""
