"""What a trace says: the metrics of docs/metrics.md, and how complete the trace is.

`latency/<cell>.json` holds the keys of `Metrics` beside those of a stage; `numastudy analyze --json` adds `per_batch`.
"""

from enum import StrEnum

from bench.records.base import Count, Direction, Number, Record


class Regime(StrEnum):
    LAUNCH_BOUND = "launch-bound"
    STALLED = "stalled"
    TRANSFER_BOUND = "transfer-bound"
    COMPUTE_BOUND = "compute-bound"
    BALANCED = "balanced"


class Bottleneck(StrEnum):
    """The stage that is busy longest; of equals the one that comes first."""

    H2D = "h2d"
    COMPUTE = "compute"
    D2H = "d2h"


class Copies(Record, frozen=True, kw_only=True):
    """Copies of one direction. busy_ns: length of the union of their intervals.

    bandwidth_gb_s: bytes over summed copy time. link_gb_s: bytes over busy_ns. Both are None if that time is 0.
    """

    bytes: Count
    copies: Count
    busy_ns: Count
    bandwidth_gb_s: Number | None
    link_gb_s: Number | None


class Compute(Record, frozen=True, kw_only=True):
    """What the device does beside copies from and to the host. busy_ns: length of the union of all of it."""

    kernels: Count
    graph_launches: Count
    memsets: Count
    device_copies: Count
    busy_ns: Count


class Complete(Record, frozen=True, kw_only=True):
    """How complete the trace of the window is. Refused unless recorded = launches and untimed = before_call = 0.

    launches: successful API calls that launch device work; None if the export does not name its calls.
    recorded: those of them that have an activity. untimed: activities without time. before_call: activities that start
    before the call that launched them. other_threads: activities that other threads of the process launched meanwhile.
    """

    launches: Count | None
    recorded: Count | None
    untimed: Count
    before_call: Count
    other_threads: Count


class TraceLatency(Record, frozen=True, kw_only=True):
    """Per batch, first H2D start to last D2H end, in us. A value that the batches cannot support is None; see reasons.

    count: batches with both copies. reasons: by name of the value, for readers only.
    """

    count: Count
    p50: Number | None
    p90: Number | None
    p99: Number | None
    max: Number | None
    reasons: dict[str, str]


class RegimeEvidence(Record, frozen=True, kw_only=True):
    """The numbers that the regime was decided from.

    late_idle_ns: length of the gaps that are late; late_share: its share of the idle time. call_idle_ns: the part of
    the late gaps before the launching call returned. rho: max(|H|, |D|) / |K|. None where the divisor is 0.
    """

    idle_share: Number
    late_idle_ns: Count
    late_share: Number | None
    call_idle_ns: Count
    call_share: Number | None
    rho: Number | None


class RemarkKind(StrEnum):
    """What a person should know about a trace."""

    PAGEABLE_COPIES = "pageable_copies"
    DEFAULT_STREAM_COPIES = "default_stream_copies"
    UNIFIED_MEMORY_COPIES = "unified_memory_copies"
    SEVERAL_DEVICES = "several_devices"
    OTHER_THREADS = "other_threads"


class TraceRemark(Record, frozen=True, kw_only=True):
    """count of total: copies of the direction, activities of the process, or devices.

    direction: of copies; None for remarks on something else, and for unified memory copies of both directions.
    """

    kind: RemarkKind
    count: Count
    total: Count
    direction: Direction | None = None


class TraceDevice(Record, frozen=True, kw_only=True):
    """A GPU that ran something in the window; id: the process's number of it. None: the export does not say."""

    id: int
    uuid: str | None
    name: str | None
    pci_bus_id: str | None


class LaunchGaps(Record, frozen=True, kw_only=True):
    """Gaps between consecutive kernels of one batch while the device was idle."""

    count: Count
    total_ns: Count
    max_ns: Count


class TopKernel(Record, frozen=True, kw_only=True):
    name: str
    calls: Count
    total_ns: Count


class ExportTool(Record, frozen=True, kw_only=True):
    """What wrote the export. version: of the product; schema: version of the tables. None: the export does not say."""

    product: str | None = None
    version: str | None = None
    schema: str | None = None


class Metrics(Record, frozen=True, kw_only=True):
    """The metrics of one trace. compute.busy_ns + exposed_copy_ns + idle_ns == window_ns, exactly.

    pipeline_efficiency: max(|H|, |D|, |K|) / |W| in situ, in (0, 1].
    """

    name: str
    batches: Count
    window_ns: Count
    h2d: Copies
    d2h: Copies
    compute: Compute
    overlap_ns: Count
    exposed_h2d_ns: Count
    exposed_d2h_ns: Count
    exposed_copy_ns: Count
    idle_ns: Count
    pipeline_efficiency: Number
    bottleneck: Bottleneck
    latency_us: TraceLatency
    regime: Regime
    regime_evidence: RegimeEvidence
    complete: Complete
    devices: list[TraceDevice]
    remarks: list[TraceRemark]
    launch_gaps: LaunchGaps
    top_kernels: list[TopKernel]
    export: ExportTool


class PerBatch(Record, frozen=True, kw_only=True):
    """What happened batch by batch: columns of ns in the order of the batches.

    latency_ns: first H2D start to last D2H end; None where one direction is not copied.
    *_ns: length of the union of the stage's activities of the batch.
    exposed_copy_ns: the batch's copies while nothing was being computed.
    idle_before_*_ns: idle time of the device that the stage's first activity ended, 0 if it was busy.
    launch_gap_ns: inside the batch's compute stage, time in which none of its kernels ran.
    """

    latency_ns: list[Count | None]
    h2d_ns: list[Count]
    compute_ns: list[Count]
    d2h_ns: list[Count]
    exposed_copy_ns: list[Count]
    idle_before_h2d_ns: list[Count]
    idle_before_compute_ns: list[Count]
    idle_before_d2h_ns: list[Count]
    launch_gap_ns: list[Count]
