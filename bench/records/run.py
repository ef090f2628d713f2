"""What a run and the other stages of a cell leave on disk: run, export and link records, and the child's result."""

from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from bench.errors import StudyError
from bench.records.base import (
    AtLeastOne,
    Count,
    DamagedRecord,
    Direction,
    Name,
    Number,
    Positive,
    Record,
    Repeat,
    plain,
    read,
)
from bench.records.host import Fingerprint, Probe
from bench.records.metric import Measured, Metric
from bench.records.study import TRACED, Cell, run_name
from bench.records.where import MemoryKind, ProcessPlace
from bench.storage import write_json

# 2: typed records; reasons of doubt and of disturbance have a kind.
SCHEMA = 2


class Outcome(StrEnum):
    """What became of a run or of another stage. MISSING: there is no record yet."""

    OK = "ok"
    OOM = "oom"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    BIND_FAILED = "bind_failed"
    MISPLACED = "misplaced"
    TRACE_FAILED = "trace_failed"
    GPU_LOST = "gpu_lost"
    NOT_RUNNABLE = "not_runnable"
    MISSING = "missing"


# A second try can help only where chance had a part.
RETRIED = frozenset({Outcome.CRASHED, Outcome.TRACE_FAILED})
# A timed run that ended in one of these ways is not repeated: the next one would end alike.
LASTING = frozenset({Outcome.OOM, Outcome.TIMEOUT, Outcome.BIND_FAILED, Outcome.GPU_LOST})


class Failure(Record, frozen=True, kw_only=True):
    """Why something was not measured: one sentence, what to do, and the end of the process's log, if there is one."""

    status: Outcome
    reason: str
    advice: str = ""
    log_tail: list[str] = []


class Stage(Record, frozen=True, kw_only=True):
    """Every stage of a cell writes a record, on success or failure.

    invocation: the call of luigi that wrote it. by_grid: the grid already says that the cell cannot run on this host.
    source: what identifies the run that this stage worked on, empty for a run itself.
    """

    schema: int = SCHEMA
    status: Outcome
    reason: str = ""
    advice: str = ""
    invocation: str = ""
    by_grid: bool = False
    source: str = ""

    @property
    def ok(self) -> bool:
        return self.status is Outcome.OK

    def is_final(self, invocation: str) -> bool:
        """Whether this call of luigi need not repeat the stage: it succeeded, cannot run here, or this call tried it.

        What only a run found missing (free huge pages, for example) may be available at the next call.
        """
        return self.ok or self.by_grid or self.invocation == invocation


class ProcessId(Record, frozen=True, kw_only=True):
    """Of a crossing: the same in all runs of the process."""

    id: str


class Head(Stage, frozen=True, kw_only=True):
    """The part of a stage's record that progress and task states need; without what is large.

    state: of a stage of the whole study, RunDirectory.state() when it was written.
    """

    state: str = ""
    started_at: str = ""
    ended_at: str = ""
    wall_s: Number = 0.0
    attempts: Count = 0
    crossing: ProcessId | None = None

    @property
    def origin(self) -> str:
        """What identifies the run behind this record, by which a later stage knows that it is up to date."""
        return self.source or self.started_at


# The child's result.


class Latency(Record, frozen=True, kw_only=True):
    """Latency of a batch in us. A percentile that the sample does not support is None, with its reason.

    quantiles: 101 values, percent 0 to 100.
    """

    count: Count = 0
    p50: Number | None = None
    p90: Number | None = None
    p99: Number | None = None
    max: Number | None = None
    reasons: dict[str, str] = {}
    quantiles: list[Number | None] = []


class Window(Record, frozen=True, kw_only=True, omit_defaults=True):
    """start_ns: on the monotonic performance counter. minor_faults: pages that the process touched first, or copied.

    The rest is of a crossing: turn, from 0, in its round; threads moved for it, and how long that took; lead_batches
    ran before the window in the same flow.
    """

    batches: AtLeastOne
    duration_s: Positive
    start_ns: int = 0
    minor_faults: Count = 0
    round: Count | None = None
    turn: Count | None = None
    moved: Count = 0
    move_us: Count = 0
    lead_batches: Count = 0

    @property
    def batch_s(self) -> float:
        return self.duration_s / self.batches


class Warmup(Record, frozen=True, kw_only=True):
    """spread: relative range of the time per batch over the last windows; None if there were too few."""

    batches: Count = 0
    duration_s: Number = 0.0
    settled: bool = True
    spread: Number | None = None


class Stages(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Time per batch in us of each stage in isolation; 0 for a stage that the cell does not have.

    prepare: CPU time of the preprocessing thread, where there is one.
    """

    h2d: Number | None = None
    compute: Number | None = None
    d2h: Number | None = None
    prepare: Number | None = None


class Device(Record, frozen=True, kw_only=True):
    """type: cuda or cpu. uuid as nvidia-smi prints it, pci_bus_id as sysfs does."""

    type: str | None = None
    name: str | None = None
    uuid: str | None = None
    pci_bus_id: str | None = None
    capability: str | None = None


class Versions(Record, frozen=True, kw_only=True):
    python: str | None = None
    torch: str | None = None
    cuda: str | None = None
    timm: str | None = None


class Compilation(Record, frozen=True, kw_only=True):
    """mode: of torch.compile. compile_s: None for a model without compute, for which there is nothing to compile."""

    mode: str = ""
    compile_s: Number | None = None


class Preprocessing(Record, frozen=True, kw_only=True):
    """The thread that prepares batches; cpus: where it may run."""

    queue_batches: Count = 0
    threads: Count = 1
    cpus: str = ""


class HugePages(Record, frozen=True, kw_only=True):
    """Bytes of normal memory in huge pages; None where there is no such buffer, or it is CUDA's own memory."""

    inputs: Count | None = None
    outputs: Count | None = None


class HostBuffers(Record, frozen=True, kw_only=True):
    """Kinds of host memory that copies use. synchronous_copies: a copy blocks the CPU until it is done."""

    kind: str = ""
    inputs: str = ""
    outputs: str = ""
    synchronous_copies: bool = False
    huge_pages: HugePages = HugePages()


# The placement certificate.


class PlacementVerdict(StrEnum):
    """PROVED: every observation agrees with the cell. MISPLACED: one contradicts it.

    UNPROVED: none contradicts it, but not everything could be observed. NOT_BOUND: there is nothing to prove.
    """

    PROVED = "proved"
    MISPLACED = "misplaced"
    UNPROVED = "unproved"
    NOT_BOUND = "not_bound"


class DoubtKind(StrEnum):
    NOT_BOUND = "not_bound"
    THREADS = "threads"
    PREPROCESSING_THREAD = "preprocessing_thread"
    ISSUING_CPUS = "issuing_cpus"
    POLICY = "policy"
    PAGES = "pages"
    PAGES_UNKNOWN = "pages_unknown"
    BETWEEN_WINDOWS = "between_windows"
    NOT_OBSERVED = "not_observed"


class Doubt(Record, frozen=True, kw_only=True):
    """Why the placement is not proved: the kind groups runs, the text names CPUs, pages and nodes."""

    kind: DoubtKind
    text: str


class ThreadGroup(Record, frozen=True, kw_only=True):
    """Threads that may run on the same CPUs; examples: names of up to three."""

    allowed_cpus: str
    threads: Count
    examples: list[str] = []


class Policy(Record, frozen=True, kw_only=True):
    """A memory policy, as get_mempolicy(2) reports it."""

    mode: str
    nodes: list[Count] = []


class ThreadsObserved(Record, frozen=True, kw_only=True):
    """None: could not be observed."""

    start: list[ThreadGroup] | None = None
    end: list[ThreadGroup] | None = None


class PolicyObserved(Record, frozen=True, kw_only=True):
    """None: could not be observed."""

    start: Policy | None = None
    end: Policy | None = None


class BufferObserved(Record, frozen=True, kw_only=True):
    """start, end: pages by node ("0", "1", ...), "absent" and "unknown"; None: could not be observed."""

    bytes: Count
    pages: Count
    policy: Policy | None = None
    start: dict[str, Count] | None = None
    end: dict[str, Count] | None = None


class HugePageModes(Record, frozen=True, kw_only=True):
    private: str | None = None
    shared: str | None = None


class Certificate(Record, frozen=True, kw_only=True):
    """Where the kernel reported the process and its buffers before and after the measured windows.

    cpus_seen: batches issued from each CPU. share_on_node: share of each buffer's pages on the cell's memory node.
    glances: cheap looks between the windows of a crossing; strays: what they saw elsewhere.
    """

    verdict: PlacementVerdict | None = None
    reasons: list[Doubt] = []
    not_covered: list[str] = []
    binding: str = ""
    cpu_node: int | None = None
    mem_node: int | None = None
    node_cpus: str | None = None
    preprocess_cpus: str | None = None
    cpus_seen: dict[str, Count] = {}
    threads: ThreadsObserved = ThreadsObserved()
    policy: PolicyObserved = PolicyObserved()
    buffers: dict[str, BufferObserved] = {}
    share_on_node: dict[str, Number | None] = {}
    code_pages: dict[str, dict[str, Count]] | None = None
    transparent_huge_pages: HugePageModes = HugePageModes()
    numa_balancing: str | None = None
    system_counters: dict[str, int] = {}
    main_thread_migrations: int | None = None
    involuntary_switches: int | None = None
    glances: Count = 0
    strays: list[Doubt] = []
    problems: list[str] = []
    cost_ms: Number | None = None


class Mode(StrEnum):
    """How a cell is executed: without a profiler, under one, or as load beside a measured process.

    CROSSED: all cells of a group by turns in one process, without a profiler. TRACED is of one cell, or of a group.
    """

    TIMED = "timed"
    CROSSED = "crossed"
    TRACED = "traced"
    LOAD = "load"


class SubjectFacts(Record, frozen=True, kw_only=True):
    """What a model from elsewhere takes and returns: type and shape of each tensor, as "float32 [10, 3, 224, 224]".

    made_contiguous: the outputs that each forward pass copies, because they are not in one piece. redrawn_weights:
    those that were all zero. repeatable: whether two calls on the same inputs gave the same bits.
    """

    inputs: list[str]
    outputs: list[str]
    made_contiguous: list[Count] = []
    redrawn_weights: Count = 0
    repeatable: bool = True


class Result(Record, frozen=True, kw_only=True):
    """What the measured process reports. Sizes in bytes on the link; ring lengths in batches.

    compile: None if compilation was not requested. latency_us, issue_us, solo_us: of timed runs only.
    subject: of a model from elsewhere.
    """

    mode: Mode = Mode.TIMED
    throughput_samples_s: Positive
    latency_us: Latency | None = None
    issue_us: Number | None = None
    solo_us: Stages | None = None
    buffer_layout: str | None = None
    batches_per_pass: Count | None = None
    subject: SubjectFacts | None = None
    bytes_in_per_batch: Count | None = None
    bytes_out_per_batch: Count | None = None
    input_ring_batches: Count | None = None
    output_ring_batches: Count | None = None
    output_checksum: Number | None = None
    device: Device = Device()
    versions: Versions = Versions()
    compile: Compilation | None = None
    preprocess: Preprocessing | None = None
    host_memory: HostBuffers | None = None
    warmup: Warmup = Warmup()
    windows: list[Window] = []
    device_allocations_in_windows: int | None = None
    waited_batches_in_windows: int | None = None
    compilations_in_windows: int | None = None
    certificate: Certificate | None = None
    phases_s: dict[str, Number] = {}


# The monitor, which watches a run from outside.


class DisturbanceKind(StrEnum):
    THROTTLED = "throttled"
    OTHER_PROCESSES = "other_processes"
    LINK_GENERATION = "link_generation"
    CLOCK = "clock"
    OTHER_CPU_LOAD = "other_cpu_load"
    GPU_NOT_FREE = "gpu_not_free"


class Disturbance(Record, frozen=True, kw_only=True):
    """Why a run counts as disturbed: the kind groups runs, the text has the numbers. Never derived from throughput."""

    kind: DisturbanceKind
    text: str


class Spread(Record, frozen=True, kw_only=True):
    """Over the samples of a run."""

    min: Number
    p10: Number
    p50: Number
    max: Number


class Monitor(Record, frozen=True, kw_only=True):
    """at_work: samples in which the GPU was busy. throttle_known: whether the GPU reports throttling.

    foreign_cpus: CPUs' worth of work by other processes on the CPUs of the run.
    """

    samples: Count = 0
    rate_hz: Number | None = None
    at_work: Count = 0
    throttle_known: bool | None = None
    throttle_reasons: list[str] = []
    throttle_shares: dict[str, Number] = {}
    other_processes: list[int] = []
    foreign_cpus: Number | None = None
    sm_clock_mhz: Spread | None = None
    memory_clock_mhz: Spread | None = None
    temperature_c: Spread | None = None
    power_w: Spread | None = None
    link_generation: Spread | None = None
    link_width: Spread | None = None
    disturbed: list[Disturbance] = []


class RunHead(Head, frozen=True, kw_only=True):
    """The head of a run's record, and what disturbed the run."""

    monitor: Monitor | None = None

    @property
    def disturbed(self) -> bool:
        return bool(self.monitor and self.monitor.disturbed)


# Stages.


class StartMethod(StrEnum):
    """A new interpreter, or a fork of one that has imported torch."""

    EXEC = "exec"
    FORK = "fork"


class Peer(Record, frozen=True, kw_only=True):
    """A process that kept another GPU busy during a run. Its nodes are None if it was not bound.

    result: beside a crossing, of the turns of the run's cell: the windows that overlap them, the throughput in them.
    """

    gpu: Count
    gpu_uuid: str | None = None
    cpu_node: Count | None = None
    mem_node: Count | None = None
    status: Outcome
    reason: str = ""
    advice: str = ""
    log_tail: list[str] = []
    command: list[str] = []
    exit_code: int | None = None
    result: Result | None = None


class Crossing(Record, frozen=True, kw_only=True):
    """One process that measured all cells of a group by turns; each cell has a Run of its own with the same crossing.

    group: the cells' common name; process: its number among those of the group, from 1; id: the same in all runs of the
    process. birth_cpu_node, birth_mem_node: where it was started; its driver structures and heap are there. placements:
    the cells, each a side, in the order in which their rings were allocated. rounds: each an order of the sides and its
    mirror. batches: of each window of the sides with the batch size of the fastest; lead_batches: before one of another
    side. pilot_pace_s: seconds per batch of the fastest, that both were chosen by; a window has its own. threads: of
    the process after the last window. born_bytes: resident before the rings, by node. error: by cell, the process' own
    standard error of its ln ratio to the first of placements (Yuen 1974). carry_over: by cell, the median ln of the
    second over the first window of a stay. observer_cpus: where this program waited meanwhile: away from all nodes of
    the group, or not away from any. captured: of a traced process, the cells whose captures were opened, in that order.
    """

    group: Name
    process: AtLeastOne
    id: str
    birth_cpu_node: Count
    birth_mem_node: Count
    placements: list[Name] = []
    rounds: Count = 0
    batches: Count = 0
    lead_batches: Count = 0
    pilot_pace_s: Number | None = None
    threads: Count = 0
    born_bytes: dict[MemoryKind, dict[int, Count]] = {}
    error: dict[str, Number] = {}
    carry_over: dict[str, Number] = {}
    observer_cpus: str = ""
    captured: list[Name] = []


# Of a crossing, in seconds: all windows with their lead-ins, where their noise asks for no more; and each.
MEASURE_S, WINDOW_S, LEAD_S = 1.5, 0.02, 0.02


class Group(Record, frozen=True, kw_only=True):
    """What one process of a crossing is asked to do: the file that it reads. Times in seconds.

    measure_s: all windows with their lead-ins, where their noise asks for no more. solo: also measure the stages in
    isolation. seed: of the schedule.
    """

    crossing: Crossing
    cells: list[Cell]
    measure_s: Positive = MEASURE_S
    window_s: Positive = WINDOW_S
    lead_s: Positive = LEAD_S
    seed: int = 0
    solo: bool = True


class CrossedCell(Record, frozen=True, kw_only=True):
    """What a crossing gave for one cell: exactly one of the two."""

    cell: Name
    result: Result | None = None
    failure: Failure | None = None


class Program(Record, frozen=True, kw_only=True):
    """The file that a command started. modified: UTC, ISO 8601."""

    path: str
    bytes: Count
    modified: str


class CachedFile(Record, frozen=True, kw_only=True):
    """A large file that a command read, after it ended: how much of it was in the page cache, and on which nodes.

    From a sample of its pages. cached_by_node: {} where the kernel does not tell. elsewhere: this host has
    another file at the path, or none: it is a container's, or was removed.
    """

    path: str
    bytes: Count
    cached_bytes: Count
    cached_by_node: dict[int, Count] = {}
    elsewhere: bool = False


class CommandResult(Record, frozen=True, kw_only=True):
    """What one run of a command gave. certificate: by looks from outside; its glances are those at threads alone.

    measured: None where nothing could be read. seconds: that the command took. ready_s: until its server was ready.
    processes: as the last look at their pages saw them. page_looks: how many there were. client: its command line, of
    a command with a server. storage_bytes: what its processes waited for to come from the storage, as the kernel counts
    it; None where it was ended. files: large ones that were evicted, or that it was seen with.
    """

    measured: Measured | None = None
    certificate: Certificate | None = None
    seconds: Number | None = None
    ready_s: Number | None = None
    page_looks: Count = 0
    processes: tuple[ProcessPlace, ...] = ()
    client: list[str] = []
    program: Program | None = None
    evicted_files: Count = 0
    storage_bytes: Count | None = None
    files: tuple[CachedFile, ...] = ()
    warmup_runs: Count = 0


class Run(Stage, frozen=True, kw_only=True):
    """One run of one cell; ValueError if the record contradicts itself. position, block: place in the measuring order.

    started_at, ended_at: UTC, ISO 8601. wall_s: of the process, without the time that it waited for the host.
    log: its output is in logs/<log>.stdout and .stderr; the runs of a crossing share one.
    failed_before: why the attempt before the last one failed.
    exit_code: as subprocess reports it, negative for a signal; None if nothing was started.
    result: of the pipeline; of_command: of a command.
    """

    run: Name
    cell: Name
    repeat: Repeat
    position: Count | None = None
    block: Count | None = None
    group: str = ""
    log: str = ""
    attempts: Count = 0
    failed_before: str = ""
    started_at: str = ""
    ended_at: str = ""
    wall_s: Number = 0.0
    start: StartMethod = StartMethod.EXEC
    command: list[str] = []
    exit_code: int | None = None
    timed_out: bool = False
    log_tail: list[str] = []
    fingerprint: Fingerprint = Fingerprint()
    result: Result | None = None
    of_command: CommandResult | None = None
    monitor: Monitor | None = None
    peers: list[Peer] = []
    crossing: Crossing | None = None

    def __post_init__(self) -> None:
        if self.ok and self.result is None and self.metric is None:
            raise ValueError("status ok, but no result")
        if self.run != run_name(self.cell, self.repeat):
            raise ValueError("run, cell and repeat contradict each other")

    @property
    def timed(self) -> bool:
        return self.repeat != TRACED

    @property
    def metric(self) -> Metric | None:
        """The primary metric of a command."""
        measured = self.of_command.measured if self.of_command else None
        return measured.metrics.get(measured.primary) if measured else None

    @property
    def rate(self) -> float | None:
        """What runs are compared by, larger is better: samples/s of the pipeline, of a command see Metric.rate."""
        if self.metric:
            return self.metric.rate
        return self.result.throughput_samples_s if self.result else None

    @property
    def certificate(self) -> Certificate | None:
        if self.of_command:
            return self.of_command.certificate
        return self.result.certificate if self.result else None

    @property
    def disturbed(self) -> bool:
        return bool(self.monitor and self.monitor.disturbed)


class Export(Stage, frozen=True, kw_only=True):
    """The trace of a cell as SQLite; sqlite: its file name, if it was made."""

    cell: str = ""
    profiler: str = ""
    sqlite: Name | None = None
    sqlite_bytes: Count | None = None
    wall_s: Number = 0.0


class LinkCopy(Record, frozen=True, kw_only=True):
    """Copies of one size. direction both: the rate of each direction while the other is busy. GB = 1e9 bytes."""

    direction: Direction
    bytes: Count
    median_gb_s: Positive
    count: Count = 0


class LinkResult(Record, frozen=True, kw_only=True):
    """nvbandwidth_*: by nvbandwidth's definition. What was not measured is None, with its reason by key."""

    copies: list[LinkCopy] = []
    nvbandwidth_h2d_gb_s: Positive | None = None
    nvbandwidth_d2h_gb_s: Positive | None = None
    launch_us: Number | None = None
    small_copy_us: Number | None = None
    reasons: dict[str, str] = {}
    device: Device = Device()
    versions: Versions = Versions()
    host_memory: HostBuffers | None = None
    certificate: Certificate | None = None
    measured_s: Number | None = None
    process_s: Number | None = None


class Link(Stage, frozen=True, kw_only=True):
    """The link between a GPU and the memory of a placement."""

    gpu: Count
    cpu_node: Count
    mem_node: Count
    wall_s: Number = 0.0
    command: list[str] = []
    log_tail: list[str] = []
    result: LinkResult | None = None


# Stages of a whole study. state: RunDirectory.state() when it was written; with another state it is out of date.


class ProbeStage(Stage, frozen=True, kw_only=True):
    """probe_before.json and probe_after.json: measured locality before the first run and after the last."""

    state: str = ""
    found: Probe


class Demand(Stage, frozen=True, kw_only=True):
    """demand.json: timed repeats by cell, for the cells that need more than the study's repeats.

    state: "" while the runs that were asked for are still being measured.
    """

    state: str = ""
    repeats: dict[str, Count] = {}


class ReportStage(Stage, frozen=True, kw_only=True):
    """report.json: the report was written. in_history: whether the study could be added to the history."""

    state: str = ""
    in_history: bool = True


class ChildReport(Record, frozen=True, kw_only=True):
    """The file that a measured process writes: its result, or the named failure; of a crossing one for each cell."""

    result: Result | None = None
    link: LinkResult | None = None
    failure: Failure | None = None
    crossing: Crossing | None = None
    crossed: list[CrossedCell] = []


Kind = TypeVar("Kind")


def read_record(path: Path, kind: type[Kind]) -> Kind | None:
    """The record, or None if it is missing or damaged: the stage is then repeated."""
    try:
        return read(path, kind)
    except (OSError, DamagedRecord):
        return None


def read_head(path: Path) -> RunHead | None:
    """The head of a stage's record, from memory while the file is unchanged; None if it is missing or damaged.

    A study has thousands of records, and its progress is asked for often.
    """
    try:
        stamp = path.stat()
    except OSError:
        return None
    return _head(path, stamp.st_ino, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=200_000)
def _head(path: Path, _inode: int, _mtime_ns: int, _bytes: int) -> RunHead | None:
    return read_record(path, RunHead)


def write_record(path: Path, record: Record) -> None:
    """Whole or not at all. Raise StudyError if the file system refuses, ValueError for NaN."""
    if not path.parent.exists():
        raise StudyError("the run directory was removed", str(path.parent), "start the study again")
    write_json(path, plain(record))
