"""What `numastudy where` finds about running processes: threads, memory policies and pages by node, and its verdict."""

from enum import StrEnum

from bench.records.base import Count, Number, Record
from bench.records.host import CpuList


class MemoryKind(StrEnum):
    """What backs a mapping of a process."""

    ANON = "anon"
    """Private anonymous memory: heap, stacks, transparent huge pages, and what cudaHostRegister pinned."""
    PINNED = "pinned"
    """Shared anonymous memory (/dev/zero): what cudaHostAlloc maps, and torch's pinned tensors are in."""
    SHARED = "shared"
    """memfd, /dev/shm and System V segments."""
    HUGE = "huge"
    """hugetlb pages."""
    DRIVER = "driver"
    """Mapped by the GPU's driver."""
    FILE = "file"
    """Page cache and libraries. It never decides: its pages are where the first reader was."""


DECISIVE = (MemoryKind.ANON, MemoryKind.PINNED, MemoryKind.SHARED, MemoryKind.HUGE)


class WhereVerdict(StrEnum):
    """Where a process tree is, against the nodes nearest to its GPU."""

    LOCAL = "local"
    REMOTE = "remote"
    """At most half of the memory is near, or there is little memory and no thread may run near."""
    MIXED = "mixed"
    UNSEEN = "unseen"
    """A part could not be observed, or the nearest node is unknown; nothing that was observed is elsewhere."""


class ProcessThreads(Record, frozen=True, kw_only=True):
    """Threads of a process that may run on the same CPUs.

    allowed_nodes: the nodes of these CPUs. examples: names of up to three. last_node: threads by the node of the CPU
    they last ran on; with --watch, of all that were seen there. cpu_ticks: CPU time by node while watched.
    """

    allowed_cpus: CpuList
    allowed_nodes: tuple[Count, ...] = ()
    threads: Count
    examples: tuple[str, ...] = ()
    last_node: dict[int, Count] = {}
    cpu_ticks: dict[int, Count] = {}


class Part(StrEnum):
    """What of a process may be impossible to observe."""

    THREADS = "threads"
    POLICIES = "policies"
    MEMORY = "memory"


class Unobserved(Record, frozen=True, kw_only=True):
    """error: the kernel's reason. denied: more permissions would help."""

    part: Part
    error: str
    denied: bool = False


class Problem(Record, frozen=True, kw_only=True):
    """What of a process is not near. part: threads or memory.

    Threads: how many may run on allowed_cpus. Memory: bytes_by_node of one kind.
    """

    part: Part
    threads: Count = 0
    allowed_cpus: CpuList = ""
    examples: tuple[str, ...] = ()
    kind: MemoryKind | None = None
    bytes_by_node: dict[int, Count] = {}
    text: str = ""


class ProcessPlace(Record, frozen=True, kw_only=True):
    """One process. An id is reused; with start_ticks (clock ticks from boot to its start) it is unique.

    pid_in_container: its id in its innermost PID namespace, if that differs. command: argv[0] up to the first space;
    arguments may hold secrets. policies: threads by memory policy, as numa_maps writes it. bytes: resident, by node;
    scaled from a sample if `sampled`. near_nodes: of all GPUs that it uses.
    """

    pid: Count
    pid_in_container: Count | None = None
    start_ticks: Count
    name: str
    command: str = ""
    gpus: tuple[Count, ...] = ()
    near_nodes: tuple[Count, ...] = ()
    threads: tuple[ProcessThreads, ...] = ()
    policies: dict[str, Count] = {}
    bytes: dict[MemoryKind, dict[int, Count]] = {}
    sampled: bool = False
    unobserved: tuple[Unobserved, ...] = ()
    problems: tuple[Problem, ...] = ()


class Near(Record, frozen=True, kw_only=True):
    """The nodes nearest to a GPU and who reports them; no nodes if unknown, never a default."""

    nodes: tuple[Count, ...] = ()
    source: str


class RemedyKind(StrEnum):
    THREADS = "threads"
    PAGES = "pages"
    RESTART = "restart"
    """Pinned pages do not move."""


class Remedy(Record, frozen=True, kw_only=True):
    """A line to paste into a shell."""

    kind: RemedyKind
    command: str


class GpuProcesses(Record, frozen=True, kw_only=True):
    """The processes of one GPU with what they started. index: None for those of no GPU.

    near_share: share of the decisive memory that is on the near nodes; None if unknown.
    """

    index: Count | None = None
    uuid: str | None = None
    name: str = ""
    near: Near
    verdict: WhereVerdict
    near_share: Number | None = None
    remedies: tuple[Remedy, ...] = ()
    processes: tuple[ProcessPlace, ...] = ()
    text: str = ""


class Where(Record, frozen=True, kw_only=True):
    """One look. nodes: CPUs by node. ended: processes that ended while they were observed."""

    at: str
    nodes: dict[int, CpuList]
    gpus: tuple[GpuProcesses, ...] = ()
    ended: Count = 0
    watched_s: Number = 0.0
    cost_ms: Number = 0.0
