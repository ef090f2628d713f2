"""results.json, schema 2: every cell with its outcome, the comparisons between cells, and what they rest on.

Numbers and enums only. A field `text` holds the English of its entry for readers of the file: bench.report.text fills
it in when the file is written, and nothing reads it back.
"""

from enum import StrEnum

from bench.records.base import Record, Repeat
from bench.records.host import Check, Fingerprint, FingerprintChange, LocalityChange, Probed, Topology
from bench.records.metric import Better, Metric
from bench.records.run import Disturbance, Doubt, Latency, LinkCopy, Outcome, PlacementVerdict, Stages
from bench.records.study import Design, Model, Settings, Study
from bench.records.trace import Metrics

SCHEMA = 2

# Ends of an interval; not limited, because those of a penalty reach -1e304 where nothing is known.
Interval = tuple[float, float]
Value = str | int | float | bool | None


Values = dict[str, Value]


def negated(interval: Interval | None) -> Interval | None:
    """Of the same effect with the other sign: a loss as a change, and back."""
    return interval and (-interval[1], -interval[0])


class NoiseClass(StrEnum):
    """What the noise of a cell comes from: the CPU's launches, or anything else."""

    LAUNCH_BOUND = "launch-bound"
    DEVICE_BOUND = "device-bound"
    UNKNOWN = "unknown"


class CellState(StrEnum):
    """How far a cell has come; what is only missing is not a failure."""

    DONE = "done"
    FAILED = "failed"
    NOT_STARTED = "not_started"
    STARTED = "started"
    NOT_TRACED = "not_traced"
    TRACE_NOT_READ = "trace_not_read"


class Term(StrEnum):
    """What limits the time per batch; buffers: copy and compute of one device buffer."""

    H2D = "h2d"
    COMPUTE = "compute"
    D2H = "d2h"
    ISSUE = "issue"
    BUFFERS = "buffers"
    PREPARE = "prepare"


class Verdict(StrEnum):
    SAME = "SAME"
    SLOWER = "SLOWER"
    FASTER = "FASTER"
    UNDECIDED = "UNDECIDED"
    NOT_RESOLVABLE = "NOT RESOLVABLE"


DIFFERENT = (Verdict.SLOWER, Verdict.FASTER)


class Reason(StrEnum):
    """Why a comparison has its verdict."""

    WITHIN_MARGIN = "within_margin"
    DIFFERENT = "different"
    ONE_PAIR = "one_pair"
    FEW_REPEATS = "few_repeats"
    TOO_MANY_REPEATS_NEEDED = "too_many_repeats_needed"
    UNINFORMATIVE = "uninformative"
    NOT_MEASURED = "not_measured"


class Remedy(StrEnum):
    """What would make a comparison decidable; repeat: see repeats_needed.

    Where the CPU is the noise: a CUDA graph, with one fewer launches, and on the cpu device less work per batch.
    """

    REPEAT = "repeat"
    SEE_FAILED_RUNS = "see_failed_runs"
    USE_CUDA_GRAPH = "use_cuda_graph"
    REDUCE_LAUNCHES = "reduce_launches"
    REDUCE_CPU_WORK = "reduce_cpu_work"
    FIND_DISTURBANCE = "find_disturbance"


class CellRemarkKind(StrEnum):
    """The fields of a CellRemark that each kind has."""

    PROFILER_CHANGED_RATE = "profiler_changed_rate"  # ratio: traced over timed throughput
    HOST_CLOCK_DIFFERS = "host_clock_differs"  # ratio: host's timer over trace
    EVENT_CLOCK_DIFFERS = "event_clock_differs"  # ratio: events over trace
    BOUND_ABOVE_MEASURED = "bound_above_measured"  # term; ratio: the term in isolation over the measured time
    WARMUP_NOT_SETTLED = "warmup_not_settled"  # count of total runs; ratio: largest spread of the last windows
    DISTURBED_EXCLUDED = "disturbed_excluded"  # count of total runs
    DISTURBED_ALIKE = "disturbed_alike"  # count of total runs of crossings, which all count
    WINDOWS_DIFFER = "windows_differ"  # count of total runs; ratio: the largest difference between windows of a run
    STOPPED = "stopped"  # count of total runs; seconds: the longest time that a window took too long
    CARRY_OVER_DIFFERS = "carry_over_differs"  # ratio: that of the cell less that of the other cell; other
    HUGE_PAGES_DIFFER = "huge_pages_differ"  # ratio: the cell's share of rings in huge pages less the other's; other
    SECOND_ATTEMPT = "second_attempt"  # count of total runs; other: why the first attempt of the first one failed
    OF_OUTPUT = "of_output"  # count of total runs; other: the remark in the output of a command
    FROM_STORAGE = "from_storage"  # count of total runs; bytes: the most that one waited for
    PAGE_CACHE = "page_cache"  # count files of bytes; ratio: cached share after the last run; bytes_by_node: of that


class PenaltyKind(StrEnum):
    """What is remote: CPU and memory, or one of them."""

    NODE = "node"
    CPU = "cpu"
    MEMORY = "memory"


class Contrast(StrEnum):
    """Effects of a complete 2x2 design."""

    CPU = "cpu"
    MEMORY = "memory"
    INTERACTION = "interaction"


class LocalSource(StrEnum):
    """How the local node is known: the topology, the probe, the runs of odd blocks (then those of even blocks alone
    estimate what another node costs), or not at all (the lowest node is the reference)."""

    REPORTED = "reported"
    MEASURED = "measured"
    RUNS = "runs"
    REFERENCE = "reference"


class CeilingSource(StrEnum):
    """What measured the ceiling of a link: nvbandwidth's definition, copies of many sizes, or copies of one batch."""

    NVBANDWIDTH = "nvbandwidth"
    MICROBENCHMARK = "microbenchmark"
    ISOLATED_BATCH = "isolated_batch"


class AxisState(StrEnum):
    """matters: some line differs after correction; same: all lines are SAME."""

    MATTERS = "matters"
    SAME = "same"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not_measured"


class UndecidedReason(StrEnum):
    """one_pair: no uncertainty is known; probable: a line differs, but not after correction."""

    ONE_PAIR = "one_pair"
    PROBABLE = "probable"
    NOISE = "noise"


# Cells


class PeerRates(Record, frozen=True, kw_only=True):
    """A process that loaded another GPU during one run; nodes are None where it was not bound."""

    gpu: int
    cpu_node: int | None
    mem_node: int | None
    status: Outcome
    throughput_samples_s: float | None
    h2d_gb_s: float | None
    d2h_gb_s: float | None
    placement: PlacementVerdict | None


class PeerMeans(Record, frozen=True, kw_only=True):
    """The same over the timed runs of a cell: geometric means of the runs that have a rate."""

    gpu: int
    cpu_node: int | None
    mem_node: int | None
    runs: int
    failed: int
    throughput_samples_s: float | None
    h2d_gb_s: float | None
    d2h_gb_s: float | None


class CrossedRatio(Record, frozen=True, kw_only=True):
    """log_ratio: ln of this cell's throughput over the other's inside one process, the midmean of its half rounds.

    error: its standard error from the half rounds (Yuen 1974), None where they are too few.
    """

    log_ratio: float
    error: float | None


class CrossedRun(Record, frozen=True, kw_only=True):
    """The process of a crossing that this run is a part of; see bench.records.run.Crossing. ratios: by other cell.

    huge_pages: the share of its host rings that is in huge pages, None for CUDA's own memory.
    """

    id: str
    birth_cpu_node: int
    birth_mem_node: int
    rounds: int
    carry_over: float | None
    huge_pages: float | None = None
    ratios: dict[str, CrossedRatio]


class CellMetric(Record, frozen=True, kw_only=True):
    """What the runs of a command gave. value: of the primary metric, the geometric mean over the runs that count.

    runs: its values. spread: their relative standard deviation. others: the geometric means of the other metrics.
    """

    name: str
    unit: str
    better: Better
    value: float
    runs: tuple[float, ...]
    spread: float | None = None
    others: dict[str, Metric] = {}

    @property
    def primary(self) -> Metric:
        return Metric(value=self.value, unit=self.unit, better=self.better)


class CellRun(Record, frozen=True, kw_only=True):
    """crossing: None for a process that measured this cell only. metric: the primary one of a command's run.

    mean_samples_s: all samples over the time of all windows, where throughput_samples_s is the median of the windows.
    window_spread: of the time per batch between windows, relative (median absolute deviation, as of normal noise).
    windows_differ: by how much, where that is more than the process' own spread explains; stopped_s: the time that a
    window took too long, from a second on.
    """

    run: str
    repeat: Repeat
    status: Outcome
    reason: str
    block: int | None
    position: int | None
    attempts: int | None
    wall_s: float | None
    throughput_samples_s: float | None
    placement: PlacementVerdict | None
    disturbed: bool
    started_at: str | None
    mean_samples_s: float | None = None
    latency_p50_us: float | None = None
    latency_p99_us: float | None = None
    window_spread: float | None = None
    windows_differ: float | None = None
    stopped_s: float | None = None
    peers: tuple[PeerRates, ...] = ()
    crossing: CrossedRun | None = None
    metric: Metric | None = None

    @property
    def rate(self) -> float | None:
        """What runs are compared by, larger is better: samples/s, of a command see Metric.rate."""
        return self.metric.rate if self.metric else self.throughput_samples_s

    @property
    def value(self) -> float | None:
        """What is shown, in the unit of the cell."""
        return self.metric.value if self.metric else self.throughput_samples_s


class Extremes(Record, frozen=True, kw_only=True):
    least: float
    most: float


class TransferBytes(Record, frozen=True, kw_only=True):
    h2d: int
    d2h: int


class Clocks(Record, frozen=True, kw_only=True):
    """host_over_trace: the traced pass by the host's timer over the window of its trace, the same run.

    events_over_trace: median latency by CUDA events of the timed runs over that of the trace, which is another run;
    events_comparable: the profiler did not change the throughput. A ratio is None where one of the two is not known.
    """

    host_over_trace: float | None
    events_over_trace: float | None
    events_comparable: bool
    host_differs: bool
    events_differ: bool


class Bound(Record, frozen=True, kw_only=True):
    """The shortest possible time per batch and its terms. limit: the largest term; batch_us: the measured time.

    efficiency: bound_us / batch_us; None where the bound is longer by more than noise, because no pipeline beats its
    bound: something slowed a stage while it was measured in isolation.
    """

    bound_us: float
    terms_us: dict[Term, float]
    limit: Term
    batch_us: float
    efficiency: float | None

    @property
    def is_above_measured(self) -> bool:
        return self.efficiency is None


class CellRemark(Record, omit_defaults=True, frozen=True, kw_only=True):
    """What a reader should know of a cell before using its numbers; which fields a kind has: see CellRemarkKind."""

    kind: CellRemarkKind
    ratio: float | None = None
    count: int | None = None
    total: int | None = None
    term: Term | None = None
    other: str | None = None
    seconds: float | None = None
    bytes: int | None = None
    bytes_by_node: dict[int, int] = {}
    text: str = ""


class MeasuredCell(Record, frozen=True, kw_only=True):
    """A cell of the grid with its runs, export and metrics.

    differing_settings: those that are not the study's own, and heads where they are not those of the first model of
    this name; in the order of the suffixes of a cell's name. occurrence: 0, or 1 and more for a further cell with the
    same settings. reason, advice, log_tail: of the record that failed, as it was raised; of a cell that is only
    missing, filled in like text. throughput_samples_s: geometric mean over the timed runs that count, throughput_runs;
    of a crossed cell their median, and those count that were born on its own CPU node (all, if none was).
    throughput_spread: their relative standard deviation. mean_samples_s: likewise, of the runs' mean_samples_s.
    metric: of a command, in place of these. worst_p99_us: of the runs that count; latency_us has their median.
    perturbation: traced over timed throughput. waited_share: share of the measured batches that were not prepared in
    time, None without preprocessing. cpus: as of Cell.
    """

    name: str
    key: str
    gpu: int
    gpu_uuid: str | None
    cpu_node: int
    mem_node: int
    cpus: str = ""
    model: Model
    settings: Settings
    differing_settings: Values = {}
    occurrence: int = 0
    outcome: Outcome = Outcome.MISSING
    state: CellState = CellState.NOT_STARTED
    reason: str = ""
    advice: str = ""
    log_tail: tuple[str, ...] = ()
    failed_run: str | None = None
    failed_repeat: Repeat | None = None
    throughput_samples_s: float | None = None
    throughput_spread: float | None = None
    throughput_runs: tuple[float, ...] = ()
    metric: CellMetric | None = None
    mean_samples_s: float | None = None
    worst_p99_us: float | None = None
    latency_us: Latency | None = None
    solo_us: Stages | None = None
    compile_s: Extremes | None = None
    issue_us: float | None = None
    waited_share: float | None = None
    buffer_layout: str = "separate"
    bytes_per_batch: TransferBytes | None = None
    metrics: Metrics | None = None
    perturbation: float | None = None
    clocks: Clocks | None = None
    peers: tuple[PeerMeans, ...] = ()
    runs: tuple[CellRun, ...] = ()
    bound: Bound | None = None
    efficiency_solo: float | None = None
    noise_class: NoiseClass = NoiseClass.UNKNOWN
    remarks: tuple[CellRemark, ...] = ()
    text: str = ""

    @property
    def value(self) -> float | None:
        """What was measured, in `unit`; None without a run that counts."""
        return self.metric.value if self.metric else self.throughput_samples_s

    @property
    def values(self) -> tuple[float, ...]:
        """The same of each run that counts."""
        return self.metric.runs if self.metric else self.throughput_runs

    @property
    def spread(self) -> float | None:
        return self.metric.spread if self.metric else self.throughput_spread

    @property
    def rate(self) -> float | None:
        """What cells are compared by, larger is better: samples/s, of a command see Metric.rate."""
        lower = self.metric and self.metric.better is Better.LOWER
        return 1 / self.value if lower and self.value else self.value


# Comparisons

# Beyond this smallest detectable penalty no number is informative.
MAX_USEFUL_MDE = 0.9


class Judged(Record, frozen=True, kw_only=True):
    """A comparison and its verdict.

    design: of the runs compared. pairs: blocks, of a crossing processes, that both sides have. interval: None where
    one pair has no spread. mde: the smallest penalty that would be found with power 0.8. repeats_needed: that would
    decide. headline: the difference holds after Holm's correction over all tests of the study, from six pairs on (in a
    crossing five processes; from any number for a factor of two). hint: the English of remedy; like text it is filled
    in when the file is written.
    """

    verdict: Verdict | None = None
    reason: Reason = Reason.NOT_MEASURED
    remedy: Remedy | None = Remedy.SEE_FAILED_RUNS
    design: Design = "processes"
    interval: Interval | None = None
    pairs: int = 0
    mde: float | None = None
    repeats_needed: int | None = None
    p_difference: float | None = None
    headline: bool = False
    noise_class: NoiseClass = NoiseClass.UNKNOWN
    text: str = ""
    hint: str = ""

    @property
    def differs(self) -> bool:
        return self.verdict in DIFFERENT

    @property
    def is_probable(self) -> bool:
        """A difference that does not hold after correction, or is of too few pairs."""
        return self.differs and not self.headline

    @property
    def is_uninformative(self) -> bool:
        return self.mde is not None and self.mde >= MAX_USEFUL_MDE


class Measure(StrEnum):
    """What else of two cells is compared. Spreads are relative: between the windows of a run, and between the runs."""

    LATENCY_P50 = "latency_p50"
    LATENCY_P99 = "latency_p99"
    SPREAD_IN_RUNS = "spread_in_runs"
    SPREAD_BETWEEN_RUNS = "spread_between_runs"


class Change(Judged, frozen=True, kw_only=True):
    """Another measure of the same two cells: remote (or new) / local (or base) - 1, positive is worse.

    interval: likewise. verdict: SLOWER where the latency is longer or the cell less steady. margin: below it a change
    is SAME.
    """

    change: float
    margin: float
    p_adjusted: float | None = None


Changes = dict[Measure, Change]


class Effect(Judged, frozen=True, kw_only=True):
    """One contrast of a 2x2 design, as a penalty."""

    penalty: float


class BirthContrast(Record, frozen=True, kw_only=True):
    """Processes of a crossing that were born on `node`, against those born on `base_node`; intervals of 95 % (Welch).

    effect: throughput of both cells together over that of the others - 1: what only the process's start decides, as
    where the driver's own memory is. penalty_change: by how much the penalty is higher in the processes born on node.
    differs: the penalties of the births do, at 0.1 %, and the penalty is the mean over births. effect_holds,
    change_holds: the difference holds after Holm's correction over all tests of the study. An interval is None with
    fewer than two processes of a birth.
    """

    node: int
    base_node: int
    processes: tuple[int, int]
    effect: float
    interval: Interval | None
    penalty_change: float
    penalty_change_interval: Interval | None
    differs: bool
    p_effect: float | None = None
    p_change: float | None = None
    effect_holds: bool = False
    change_holds: bool = False


class Penalty(Judged, frozen=True, kw_only=True):
    """What a placement costs against the GPU's local node: 1 - throughput remote / local, interval likewise.

    settings: they identify the configuration for the reader. timed_runs: that succeeded, (local, remote), and
    disturbed_runs how many of them were disturbed: a node that disturbs more runs shows it here, not in the penalty.
    p_adjusted: p_difference after Holm's correction.
    effects: of a complete 2x2 design, on the entry where CPU and memory are remote. births: of a crossing. changes: of
    latency and steadiness, in one correction with the penalties of the study.
    """

    gpu: int
    model: str
    settings: Values
    local_node: int
    remote_node: int
    remote_cpu_node: int
    kind: PenaltyKind
    local_source: LocalSource
    local_cell: str
    remote_cell: str
    disturbed_pairs: int
    timed_runs: tuple[int, int] = (0, 0)
    disturbed_runs: tuple[int, int] = (0, 0)
    penalty: float | None = None
    p_adjusted: float | None = None
    effects: dict[Contrast, Effect] | None = None
    births: tuple[BirthContrast, ...] = ()
    changes: Changes = {}


class Recommendation(Record, frozen=True, kw_only=True):
    """Where to run a program that uses this GPU.

    node: the local one, unless another was significantly faster; the only one, if no other was measured; None if it is
    not known which is nearer. local_source: how the local node is known, None where nothing was compared. penalty,
    interval, verdict: of worst_cell, the cell on another node that loses most against this one. cpus: where groups of
    CPUs were compared, those to run on; node is then where the memory is, and local_node the number of a group.
    """

    gpu: int
    node: int | None
    cpus: str = ""
    local_node: int | None = None
    local_source: LocalSource | None = None
    worst_cell: str | None = None
    penalty: float | None = None
    interval: Interval | None = None
    verdict: Verdict | None = None
    text: str = ""


class Line(Judged, frozen=True, kw_only=True):
    """A cell against the one that differs in this axis only, paired by block.

    model: its name; along a part of its shape what the series shares, as vit32x*x512. settings: what both cells have
    that is not the study's own. effect: throughput over that of the base - 1, negative is slower; interval likewise.
    failed_cell: the cell without timed runs, where nothing was compared.
    """

    name: str
    base_cell: str
    gpu: int
    cpu_node: int
    mem_node: int
    model: str
    settings: Values
    value: Values
    effect: float | None = None
    failed_cell: str | None = None


class ModelSummary(Record, frozen=True, kw_only=True):
    """One value of an axis for one model, over its combinations with other settings, nodes and GPUs.

    low, high: of the lines that differ or, where none does, of all. interval: of a single line. bound: no line
    differs by more; None where one has no interval. lines: how many were compared.
    """

    model: str
    state: AxisState
    undecided_reason: UndecidedReason | None
    low: float | None
    high: float | None
    interval: Interval | None
    bound: float | None
    lines: int
    text: str = ""


class ValueSummary(Record, frozen=True, kw_only=True):
    value: Values
    models: tuple[ModelSummary, ...]
    text: str = ""


class AxisComparison(Record, frozen=True, kw_only=True):
    """Every value of a swept axis against the base.

    keys: settings that change together, mostly one; axis: their names joined. size: largest
    |ln(throughput / base)| of the lines that differ after correction; bound: no line differs by more, where all are
    SAME. is_speed: of a command whose metric is better lower: all effects are of its speed, the inverse of the metric.
    """

    axis: str
    keys: tuple[str, ...]
    base: Values
    values: tuple[Values, ...]
    lines: tuple[Line, ...] = ()
    summary: tuple[ValueSummary, ...] = ()
    state: AxisState = AxisState.NOT_MEASURED
    undecided_reason: UndecidedReason | None = None
    size: float = 0.0
    bound: float | None = None
    is_speed: bool = False


class Execution(Record, frozen=True, kw_only=True):
    """One set of execution settings of a model: those that differ from the study's own; is_base: none does.

    p_slower: of being slower than the fastest by chance, times the candidates, each of which could have been that;
    None for the fastest, and where too few runs were compared.
    """

    cell: str
    settings: Values
    dtype: str
    is_base: bool
    p_slower: float | None = None


class Fastest(Record, frozen=True, kw_only=True):
    """The fastest execution settings of a model, place and workload that was measured with several.

    settings: of the workload, what all candidates have that is not the study's own. candidates: how many were measured.
    effect, interval: against the base (None where that was not measured or is the fastest); the interval covers
    whichever candidate came out fastest. pairs: the most of its comparisons. rivals: those not slower after correction.
    same_dtype: the like among those with the study's own dtype, None where that is the fastest one's.
    """

    cell: str
    gpu: int
    cpu_node: int
    mem_node: int
    model: str
    settings: Values
    execution: Execution
    candidates: int
    throughput_samples_s: float
    base_cell: str | None
    effect: float | None
    interval: Interval | None
    pairs: int
    rivals: tuple[Execution, ...]
    same_dtype: "Fastest | None" = None


class Claims(Record, frozen=True, kw_only=True):
    """tests: of a difference, that were corrected together; hold: of these, after correction, at this level."""

    tests: int
    hold: int
    level: float


class Sum(Record, frozen=True, kw_only=True):
    """Geometric mean over runs of a figure of all busy GPUs."""

    value: float | None
    interval: Interval | None


class Total(Record, frozen=True, kw_only=True):
    """Sums over all busy GPUs, from the runs in which every one gave a figure.

    straggler: the time per batch of the slowest GPU over that of the median one; None where the others only copy.
    """

    runs: int
    throughput_samples_s: Sum
    h2d_gb_s: Sum
    d2h_gb_s: Sum
    straggler: Sum | None = None


class Contention(Record, frozen=True, kw_only=True):
    """A cell during which several GPUs were busy, or one in isolation that these are compared with.

    busy_gpus: the measured one included. load, placement: of the others, None in isolation. throughput and rates: of
    the measured GPU. settings: that are not the study's own, concurrency left out. isolated: the comparison with the
    cell in isolation.
    """

    cell: str
    gpu: int
    cpu_node: int
    mem_node: int
    model: str
    settings: Values
    busy_gpus: int
    load: str | None
    placement: str | None
    throughput_samples_s: float | None
    h2d_gb_s: float | None
    d2h_gb_s: float | None
    isolated: Line | None
    total: Total
    peers: tuple[PeerMeans, ...]


class Prediction(Record, frozen=True, kw_only=True):
    """The bracket in which the stages in isolation predict the penalty of remote memory to be: from all copies hidden
    that can be to nothing hidden. Where in it a pipeline is, they do not say.

    agrees: bracket and observed interval miss each other by no more than the study's margin.
    """

    remote_cell: str
    low: float
    high: float
    agrees: bool


class HiddenCopies(Record, frozen=True, kw_only=True):
    """Where the copy stops being hidden behind compute, over batch sizes of one model.

    batch_size: where it stops, by interpolation between the last hidden and the first exposed size; None where the
    sizes measured do not bracket it. computes: there is compute that could hide a copy. Each measured size is in one
    of the lists.
    """

    cells: tuple[str, ...]
    computes: bool
    batch_size: float | None
    hidden: tuple[int, ...]
    exposed: tuple[int, ...]
    cpu_paced: tuple[int, ...]
    text: str = ""


# What the numbers rest on


class LinkEntry(Record, frozen=True, kw_only=True):
    """The microbenchmarks of one GPU and placement. What was not measured is None, with its reason by key."""

    name: str
    gpu: int
    cpu_node: int
    mem_node: int
    status: Outcome
    reason: str
    device: str | None = None
    placement: PlacementVerdict | None = None
    copies: tuple[LinkCopy, ...] = ()
    nvbandwidth_h2d_gb_s: float | None = None
    nvbandwidth_d2h_gb_s: float | None = None
    small_copy_us: float | None = None
    launch_us: float | None = None
    reasons: dict[str, str] = {}


class ForeignFingerprint(Record, frozen=True, kw_only=True):
    """Runs under another fingerprint than the study's. changes: from the study's fingerprint (before) to theirs."""

    runs: tuple[str, ...]
    changes: tuple[FingerprintChange, ...]


class Trust(Record, frozen=True, kw_only=True):
    """Counts and names of the runs that are ok; timed_ok of them are timed.

    proved: runs whose certificate proves their placement; unproved: names of the others; unproved_reasons: by name.
    monitored: runs with a monitor; throttling_unknown: those of them whose GPU does not report throttling.
    noise: by noise class the median over cells of the relative standard deviation between runs of a cell.
    noise_floor: what an earlier SelfCheck of this host measured.
    """

    runs_ok: int
    timed_ok: int
    proved: int
    unproved: tuple[str, ...]
    unproved_reasons: dict[str, tuple[Doubt, ...]]
    monitored: int
    throttling_unknown: tuple[str, ...]
    throttled: tuple[str, ...]
    disturbed: tuple[str, ...]
    disturbed_by: dict[str, tuple[Disturbance, ...]]
    noise: dict[NoiseClass, float]
    noise_floor: float | None
    foreign_fingerprints: tuple[ForeignFingerprint, ...]


class Drift(Record, frozen=True, kw_only=True):
    """change: relative change of throughput from the first run to the last, as a straight line.

    range: highest less lowest fifth of the study (by time), which also shows a step or a warm-up. Both are fractions.
    """

    change: float
    interval: Interval
    range: float
    runs: int


class Crossings(Record, frozen=True, kw_only=True):
    """The timed processes of a study that measured several cells by turns.

    rounds: of a process. wall_s: of all processes; of it windows_s in measured windows and lead_ins_s in the batches
    before one, which is estimated from the window's own time per batch.
    """

    groups: int
    processes: int
    births: tuple[int, ...]
    rounds: Extremes
    wall_s: float
    windows_s: float
    lead_ins_s: float

    @property
    def share(self) -> float:
        """Of windows and lead-ins in the time that processes took."""
        return (self.windows_s + self.lead_ins_s) / self.wall_s if self.wall_s else 0.0


class Counts(Record, frozen=True, kw_only=True):
    """runs: those that the study asks for; outcomes: of cells that are not ok."""

    cells: int
    ok: int
    runs: int
    runs_ok: int
    outcomes: dict[Outcome, int] = {}


class Locality(Record, frozen=True, kw_only=True):
    """What the probe found on each GPU; changes: between the start and the end of the study, if repeated."""

    gpus: tuple[Probed, ...] = ()
    error: str = ""
    can_hold: bool | None = None
    repeated: bool = False
    changes: tuple[LocalityChange, ...] = ()


class Damage(Record, frozen=True, kw_only=True):
    """A record that could not be read. path: relative to the run directory."""

    path: str
    what: str


class Rules(Record, frozen=True, kw_only=True):
    """What the comparisons were judged by: a difference below margin is the same."""

    margin: float = 0.02
    max_repeats: int = 20
    confidence: float = 0.95


class AnySchema(Record, frozen=True, kw_only=True):
    """What the results of every version have in common."""

    schema: int | None = None


class Results(Record, frozen=True, kw_only=True):
    """study: resolved, as it was frozen. busy_s: wall time of all runs, measured_s: of it in measured windows.

    A process that measured several cells counts once. device_names: by GPU index. duration_s: from the first run to
    the last, a pause included. crossings: None where each process measured one cell.
    """

    schema: int = SCHEMA
    study: Study
    study_name: str
    run_directory: str
    created_at: str
    invocation: str
    host: str
    fingerprint: Fingerprint
    topology: Topology
    locality: Locality
    preflight: tuple[Check, ...]
    device: str
    device_names: dict[str, str]
    binding: str | None
    rules: Rules
    counts: Counts
    duration_s: float
    busy_s: float
    measured_s: float
    trust: Trust
    damaged: tuple[Damage, ...]
    cells: tuple[MeasuredCell, ...]
    penalties: tuple[Penalty, ...]
    recommendations: tuple[Recommendation, ...] = ()
    predictions: tuple[Prediction, ...]
    hidden_copies: tuple[HiddenCopies, ...]
    comparisons: tuple[AxisComparison, ...]
    fastest: tuple[Fastest, ...]
    contention: tuple[Contention, ...]
    links: tuple[LinkEntry, ...]
    drift: Drift | None
    crossings: Crossings | None = None
    claims: Claims | None = None

    @property
    def cpu_groups(self) -> dict[int, str]:
        """The CPUs of each group by its number, where groups of CPUs were compared."""
        return {cell.cpu_node: cell.cpus for cell in self.cells if cell.cpus}


# Beside results.json


class FailedCell(Record, frozen=True, kw_only=True):
    cell: str
    run: str | None
    outcome: Outcome
    reason: str
    advice: str


class Summary(Record, frozen=True, kw_only=True):
    """experiment_summary.json."""

    schema: int = SCHEMA
    study_name: str
    run_directory: str
    created_at: str
    invocation: str
    host: str
    device: str
    counts: Counts
    success_rate: float
    duration_s: float
    busy_s: float
    measured_s: float
    failures: tuple[FailedCell, ...]


class SelfComparison(Judged, frozen=True, kw_only=True):
    """A cell against its twin: (twin, first cell of its kind)."""

    cells: tuple[str, str]
    penalty: float


class ProcessSpread(Record, frozen=True, kw_only=True):
    """Relative standard deviation of throughput between the processes of one model on one GPU and placement.

    upper: its upper 80 % bound if the noise is normal. With heavier tails it holds less often: in 55 % with Student's
    noise of 3 degrees of freedom, in 37 % with bursts, which few runs do not show.
    """

    gpu: int
    cpu_node: int
    mem_node: int
    model: str
    noise_class: NoiseClass
    runs: int
    spread: float
    upper: float


class SelfCheck(Record, frozen=True, kw_only=True):
    """Cells compared with themselves. false_differences: pairs called SLOWER or FASTER.

    noise_floor: by model the largest upper bound of its spreads. study, measured_at: as remembered for the host.
    """

    comparisons: tuple[SelfComparison, ...]
    false_differences: tuple[tuple[str, str], ...]
    intervals_without_zero: int
    spreads: tuple[ProcessSpread, ...]
    noise_floor: dict[str, float]
    study: str = ""
    measured_at: str = ""
    text: str = ""
