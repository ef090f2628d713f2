"""Records of a host: its topology, its fingerprint, what NVML answers, the locality probe and the preflight checks."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from bench.records.base import Count, Number, Positive, Record

# A set of CPUs or nodes as the kernel writes it: "0-3,8". The empty set is "" or "none".
CpuList = Annotated[str, Meta(pattern=r"^(none|\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*)?(?!\n)$", max_length=1 << 15)]


# Part of paths in sysfs.
PciBusId = Annotated[str, Meta(pattern=r"^([0-9A-Fa-f][0-9A-Fa-f:.]{0,31})?(?!\n)$")]

# No kernel has CPUs or nodes with higher numbers.
MOST_NUMBERS = 1 << 20


def parse_cpulist(text: str) -> tuple[int, ...]:
    """The numbers of a kernel list, ascending. Raise ValueError on anything else."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part in ("", "none"):
            continue
        first, _, last = part.partition("-")
        if int(last or first) >= MOST_NUMBERS:
            raise ValueError(f"{part} in a list of CPUs or nodes")
        numbers.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def format_cpulist(numbers: Iterable[int]) -> str:
    """Write a set of numbers as the kernel does, or "none" if it is empty."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges) or "none"


def bits(mask: int) -> tuple[int, ...]:
    """The numbers of the bits that are set, ascending."""
    return tuple(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def within(cpus: str, others: str) -> bool:
    """Whether the second kernel list has every number of the first. Raise ValueError if one is no list."""
    return set(parse_cpulist(cpus)) <= set(parse_cpulist(others))


class NodeKind(StrEnum):
    CPU_AND_MEMORY = "cpu+memory"
    CPU_ONLY = "cpu only"
    MEMORY_ONLY = "memory only"
    EMPTY = "empty"


class Node(Record, frozen=True, kw_only=True):
    """One NUMA node. cpus: online; allowed_cpus: of these, the ones this process may be bound to.

    distances: ACPI SLIT distances by node id (10 = itself). gpu_memory: indices of the GPUs whose own memory it is.
    """

    id: Count
    cpus: CpuList = ""
    allowed_cpus: CpuList = ""
    memory_bytes: Count = 0
    memory_allowed: bool = True
    distances: dict[int, int] = {}
    gpu_memory: tuple[Count, ...] = ()

    @property
    def cpu_ids(self) -> tuple[int, ...]:
        return parse_cpulist(self.cpus)

    @property
    def allowed_cpu_ids(self) -> tuple[int, ...]:
        return parse_cpulist(self.allowed_cpus)

    @property
    def kind(self) -> NodeKind:
        if self.cpu_ids:
            return NodeKind.CPU_AND_MEMORY if self.memory_bytes else NodeKind.CPU_ONLY
        return NodeKind.MEMORY_ONLY if self.memory_bytes else NodeKind.EMPTY

    @property
    def usable(self) -> bool:
        """Whether a process may be bound to it, CPUs and memory."""
        return bool(self.allowed_cpu_ids and self.memory_bytes and self.memory_allowed)


class Agreement(StrEnum):
    """Whether the sources of a GPU's nearest node name the same one, or the measured node is the reported one."""

    AGREED = "agreed"
    REPORTED = "reported"
    """By one source only."""
    ONLY_NODE = "only_node"
    """The host has one node with CPUs, and is not a virtual machine, which may hide nodes."""
    DISAGREED = "disagreed"
    UNKNOWN = "unknown"


class LocalitySource(StrEnum):
    """Who reports the NUMA nodes nearest to a GPU."""

    SYSFS = "sysfs numa_node"
    NVML_MEMORY = "NVML memory affinity"
    NVML_CPU = "NVML CPU affinity"
    NCCL = "NCCL topology file"


class AnswerState(StrEnum):
    """Whether an answer counts; those that do not say nothing about the nearest node."""

    COUNTS = "counts"
    NONE = "none"
    EVERY_NODE = "every_node"
    """It names every node whose CPUs this process may use, as in a virtual machine or where a job's cpuset cuts it."""
    NO_CPUS = "no_cpus"
    """It names a node without CPUs."""
    OFFLINE = "offline"
    """It names a node that is not online."""
    HIDDEN_NODES = "hidden_nodes"
    """It numbers the nodes of the physical host, of which the kernel of this virtual machine does not report all."""


class LocalityAnswer(Record, frozen=True, kw_only=True):
    """The nodes that a source reports as nearest to a GPU, and their CPUs where the source lists them."""

    state: AnswerState = AnswerState.NONE
    nodes: tuple[Count, ...] = ()
    cpus: CpuList = ""


class GpuFacts(Record, frozen=True, kw_only=True):
    """What NVML answers for one GPU, and a study keeps of it; None where it refused."""

    uuid: str | None = None
    name: str = "unknown GPU"
    link_generation: Count | None = None
    link_generation_max: Count | None = None
    link_width: Count | None = None
    link_width_max: Count | None = None
    mig: bool | None = None
    ecc: bool | None = None


class Gpu(GpuFacts, frozen=True, kw_only=True):
    """One GPU, by its index in PCI bus order.

    node: the nearest NUMA node if the answers agree, or the only one, else None: never a default.
    visible: False if CUDA_VISIBLE_DEVICES excludes it: then it is not this user's.
    clocks: the policy that decides the clocks, as text that can be compared.
    """

    index: Count
    pci_bus_id: str = ""
    node: Count | None = None
    agreement: Agreement = Agreement.UNKNOWN
    answers: dict[LocalitySource, LocalityAnswer] = {}
    memory_bytes: Count | None = None
    clocks: str = ""
    visible: bool = True


class Topology(Record, frozen=True, kw_only=True):
    """Nodes by ascending id (ids may have gaps) and GPUs in PCI bus order.

    numa: False if the kernel reports no nodes; then node 0 is the whole machine.
    silent_gpus: PCI ids of NVIDIA GPUs that sysfs lists while NVML is missing (no driver, or a container without it).
    core_kinds: CPUs by kind of core, the fastest kind first; () where all cores are of one kind.
    """

    nodes: tuple[Node, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    numa: bool = True
    driver_version: str | None = None
    cuda_driver_version: str | None = None
    nvml_error: str | None = None
    silent_gpus: tuple[str, ...] = ()
    core_kinds: tuple[CpuList, ...] = ()

    @property
    def visible_gpus(self) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in self.gpus if gpu.visible)

    def node(self, node_id: int) -> Node | None:
        return next((node for node in self.nodes if node.id == node_id), None)

    def gpu(self, index: int) -> Gpu | None:
        return next((gpu for gpu in self.gpus if gpu.index == index), None)

    def local_node(self, gpu: int) -> int | None:
        """The node that the sources agree to be nearest to the GPU; None if unknown, never a default."""
        known = self.gpu(gpu)
        return known.node if known else None


class Fingerprint(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What of a host can change its numbers, as short texts that can be compared; "" where it was not recorded.

    host is for the reader and never compared. kernel_parameters: those of the boot that can change speed. cpu_part: of
    a CPU that has no model name. synthetic: what made the numbers up, in an example.
    """

    host: str = ""
    kernel: str = ""
    machine: str = ""
    cpu: str = ""
    cpu_part: str = ""
    kernel_parameters: str = ""
    nodes: str = ""
    governor: str = ""
    smt: str = ""
    numa_balancing: str = ""
    hugepages: str = ""
    hypervisor: str = ""
    container: str = ""
    driver: str = ""
    cuda_driver: str = ""
    gpus: str = ""
    gpu_clocks: str = ""
    python: str = ""
    torch: str = ""
    timm: str = ""
    nsys: str = ""
    constraints: str = ""
    synthetic: str = ""


class FingerprintChange(Record, frozen=True, kw_only=True):
    """One fact in which two fingerprints differ; "" where it was not recorded. fact: a field of Fingerprint."""

    fact: str
    before: str
    after: str


class Host(Topology, frozen=True, kw_only=True):
    """topology.json: the host as it was when the study began. host: its name."""

    host: str = ""
    fingerprint: Fingerprint = Fingerprint()


# Answers of NVML.


class ThrottleReason(StrEnum):
    """What slows a GPU down; idle and user-set clocks do not count."""

    POWER_CAP = "power cap"
    HARDWARE = "hardware slowdown"
    THERMAL_SOFTWARE = "thermal slowdown (software)"
    THERMAL_HARDWARE = "thermal slowdown (hardware)"
    POWER_BRAKE = "power brake"


class NvmlClocks(Record, frozen=True, kw_only=True):
    graphics_max_mhz: Count | None = None
    graphics_application_mhz: Count | None = None


class RemappedRows(Record, frozen=True, kw_only=True):
    """Rows of GPU memory that were replaced after errors; pending: at the next reset; failed: no spare row left."""

    corrected: Count = 0
    uncorrected: Count = 0
    pending: Count = 0
    failed: Count = 0


class VirtualizationMode(StrEnum):
    """How a GPU is given to this system (nvmlGpuVirtualizationMode_t)."""

    NONE = "none"
    PASSTHROUGH = "passthrough"
    VGPU = "vgpu"
    """A share of a GPU in a virtual machine."""
    HOST_VGPU = "host_vgpu"
    """This system shares the GPU out to virtual machines."""
    HOST_VSGA = "host_vsga"


class NvmlGpu(GpuFacts, frozen=True, kw_only=True):
    """All of NVML's answers for one GPU.

    numa_node: of the GPU's own memory, where that is a node of the host. minor: N of its device file /dev/nvidiaN.
    """

    pci_bus_id: PciBusId
    minor: Count | None = None
    memory_affinity: CpuList | None = None
    cpu_affinity: CpuList | None = None
    numa_node: int | None = None
    virtualization: VirtualizationMode | None = None
    ecc_uncorrected: Count | None = None
    remapped_rows: RemappedRows | None = None
    throttle_reasons: tuple[ThrottleReason, ...] | None = None
    performance_state: int | None = None
    persistence: bool | None = None
    processes: tuple[int, ...] = ()
    memory_total_bytes: Count | None = None
    memory_used_bytes: Count | None = None
    power_limit_mw: Count | None = None
    clocks: NvmlClocks = NvmlClocks()


class Nvml(Record, frozen=True, kw_only=True):
    """All that NVML answers for a host, GPUs in PCI bus order. error: why there is no NVML, None if there is."""

    error: str | None = None
    driver_version: str | None = None
    cuda_driver_version: Count | None = None
    confidential_computing: bool | None = None
    gpus: tuple[NvmlGpu, ...] = ()


# The locality probe: probe_before.json and probe_after.json.


class HiddenNodes(StrEnum):
    """Whether a host that reports one node has two for a GPU, and why not."""

    NOT_PROBED = "not_probed"
    """The GPU is split by MIG."""
    SEVERAL_REPORTED = "several_reported"
    """The host reports several nodes with CPUs: they were compared instead."""
    TOO_FEW_CPUS = "too_few_cpus"
    ONE_GROUP = "one_group"
    SMALL_GROUP = "small_group"
    CLOSE_GROUPS = "close_groups"
    UNSTABLE_LATENCIES = "unstable_latencies"
    FOUND = "found"


class Distance(StrEnum):
    """What the latency of two groups of CPUs follows, as seen with the CUDA context on the other group."""

    GPU = "gpu"
    DRIVER_MEMORY = "driver_memory"
    NO_GROUPS = "no_groups"
    """No groups were found from the other side."""
    GROUPS_CHANGED = "groups_changed"


class GroupEvidence(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The numbers behind a HiddenNodes. p_value: of the dip test, both scans combined.

    scan: 1 or 2, the scan that smaller_share, gap and gap_needed are of. smaller_share: share of the CPUs that is in
    the smaller group. gap: relative distance of the groups' median latencies. shift: how far a group's median latency
    moved from one scan to the other, relative.
    """

    cpus: Count = 0
    p_value: Number | None = None
    scan: Count | None = None
    smaller_share: Number | None = None
    gap: Number | None = None
    gap_needed: Number | None = None
    shift: Number | None = None


class HiddenGroups(Record, frozen=True, kw_only=True):
    """Two groups of CPUs by latency. centres_us: median latencies, fast group first.

    rand_index: the adjusted Rand index of the groups of two scans. holds: whether CPUs stay in their group; if not,
    the virtual CPUs move, and no placement can be held.
    """

    fast: CpuList
    slow: CpuList
    centres_us: tuple[Positive, Positive]
    rand_index: Number
    holds: bool
    distance: Distance


class Probed(Record, frozen=True, kw_only=True):
    """The probe of one GPU.

    answers: of the sources that reported reported_node. near_nodes: the set that is nearer by latency than all others,
    the nearest first, () where none is. measured_node: the only one of them, None where they are several or none.
    latency_us: the median, where one node is reported. scans_us: latency by CPU of each scan; with several nodes those
    of a context on the first node come first.
    """

    index: Count
    pci_bus_id: str = ""
    uuid: str | None = None
    reported_node: Count | None = None
    answers: dict[LocalitySource, LocalityAnswer] = {}
    measured_node: Count | None = None
    near_nodes: tuple[Count, ...] = ()
    agreement: Agreement = Agreement.UNKNOWN
    latency_us_by_node: dict[int, Positive] = {}
    latency_us: Positive | None = None
    hidden_nodes: HiddenNodes
    evidence: GroupEvidence = GroupEvidence()
    hidden_groups: HiddenGroups | None = None
    scans_us: tuple[dict[int, Positive], ...] = ()


class Probe(Record, frozen=True, kw_only=True):
    """Measured locality of a host. error: why it could not be measured, "" if it was.

    cuda: nodes (with CPUs), cpus (that were tried), gpus. can_hold: whether hidden groups hold, None where several
    nodes are reported. cpu: copy_gb_s by CPU node and memory node, None where the kernel refused.
    """

    device: str = "cuda"
    error: str = ""
    nodes: tuple[Count, ...] = ()
    cpus: CpuList = ""
    per_cpu_s: Number | None = None
    gpus: tuple[Probed, ...] = ()
    can_hold: bool | None = None
    copy_gb_s: dict[int, dict[int, Positive | None]] = {}
    duration_s: Number | None = None


class LocalityChangeKind(StrEnum):
    GPU_GONE = "gpu_gone"
    GPU_NEW = "gpu_new"
    NEAREST_NODE = "nearest_node"
    GROUPS_APPEARED = "groups_appeared"
    GROUPS_VANISHED = "groups_vanished"
    CPUS_CHANGED_GROUPS = "cpus_changed_groups"


class LocalityChange(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One difference between the probes before and after a study. nodes: nearest by measurement, before and after."""

    kind: LocalityChangeKind
    gpu: Count | None = None
    pci_bus_id: str = ""
    nodes: tuple[Count | None, Count | None] | None = None
    rand_index: Number | None = None


# The preflight: preflight.json.


class CheckState(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class CheckName(StrEnum):
    """One trap that makes a NUMA study fail or report wrong numbers."""

    DRIVER = "driver"
    NODES = "nodes"
    GPU_NODE = "gpu_node"
    GPU_BUSY = "gpu_busy"
    MIG = "mig"
    VIRTUALIZATION = "virtualization"
    CONFIDENTIAL_COMPUTING = "confidential_computing"
    IOMMU = "iommu"
    ECC = "ecc"
    THROTTLING = "throttling"
    LINK = "link"
    BINDING = "binding"
    CPUSET = "cpuset"
    ISOLATED_CPUS = "isolated_cpus"
    CORES = "cores"
    NUMA_BALANCING = "numa_balancing"
    NODE_MEMORY = "node_memory"
    LOCKED_MEMORY = "locked_memory"
    GOVERNOR = "governor"
    NSYS = "nsys"
    PERF_PERMISSION = "perf_permission"
    DISK = "disk"


class Check(Record, frozen=True, kw_only=True):
    """One line of the preflight. fact and remedy are English; remedy is "" where there is nothing to do.

    command: a line for a shell that does it or, where a person has to decide, shows what it is about.
    """

    name: CheckName
    state: CheckState
    fact: str
    remedy: str = ""
    command: str = ""


class Preflight(Record, frozen=True, kw_only=True):
    checks: tuple[Check, ...] = ()
