"""Judge the facts of a host: one check for each trap that makes a NUMA study fail or report wrong numbers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from bench.host.topology import describe_answers
from bench.records.base import Count, Record
from bench.records.host import (
    Check,
    CheckName,
    CheckState,
    NodeKind,
    Nvml,
    NvmlGpu,
    RemappedRows,
    Topology,
    VirtualizationMode,
    format_cpulist,
)
from bench.records.run import Failure
from bench.units import byte_size

PROCESS_BYTES = 3 << 30
"""Host memory of a run besides its pool: torch, CUDA and what the driver mirrors of them (2.1-2.6 GiB measured)."""
DISK_LOW_BYTES, DISK_FULL_BYTES = 5 << 30, 512 << 20
HIDDEN_USE_BYTES = 4 << 30
"""GPU memory in use beyond what a driver reserves for itself: another process, if a hidden one."""
_NOT_TRIED = "not tried on a recorded host"
ACTIVE_STATE = 2  # performance states P0-P2: the link runs at full speed; P8 is idle


class Tried(Record, frozen=True, kw_only=True):
    """What only trying can answer; a recorded host may have it in live.json.

    pinning_refused: why the driver does not pin more than the limit of locked memory, where a study needs more.
    bind_failure: of a refused trial bind. cpus_failure: of one that binds CPUs only. pages_refused: why the kernel does
    not report where pages are. nsys_importer: whether nsys can turn its stream into a .nsys-rep.
    """

    bind_failure: Failure | None = None
    cpus_failure: Failure | None = None
    pages_refused: str = ""
    pinning_refused: str = ""
    nsys: str | None = None
    nsys_importer: bool = False
    disk_free_bytes: Count


@dataclass(frozen=True)
class Facts:
    """One host, as the preflight judges it. node_free_bytes: by node id. pool_bytes: the host batches of one run.

    locked_bytes: soft limit; None: unlimited. more_locked: how to raise it. nsys_installation: a line for a shell, or
    "". iommu_modes, redirecting_bridges: by index of the GPU, as bench.host.pci reads them.
    """

    topology: Topology
    nvml: Nvml
    node_free_bytes: Mapping[int, int]
    numa_balancing: str
    memory_demotion: bool
    governors: tuple[str, ...]
    perf_event_paranoid: int | None
    affinity: tuple[int, ...]
    hypervisor: str
    container: str
    own_pid: int
    iommu_modes: Mapping[int, str]
    redirecting_bridges: Mapping[int, tuple[str, ...] | None]
    isolated_cpus: tuple[int, ...]
    locked_bytes: int | None
    more_locked: str
    nsys_installation: str
    tried: Tried | None
    pool_bytes: int

    @property
    def visible_gpus(self) -> list[tuple[int, NvmlGpu]]:
        """Index and NVML's answers of the GPUs that this user may measure."""
        return [(gpu.index, self.nvml.gpus[gpu.index]) for gpu in self.topology.visible_gpus]


@dataclass(frozen=True)
class Finding:
    """As in Check."""

    state: CheckState
    fact: str
    remedy: str = ""
    command: str = ""


def checks(facts: Facts) -> tuple[Check, ...]:
    """Judge a host; one check per trap, always in this order. Each has the name of its function."""
    judges: tuple[Callable[[Facts], Finding], ...] = (
        *(driver, nodes, gpu_node, gpu_busy, mig, virtualization, confidential_computing),
        *(iommu, ecc, throttling, link),
        *(binding, cpuset, isolated_cpus, cores, numa_balancing, node_memory, locked_memory),
        *(governor, nsys, perf_permission, disk),
    )
    of_gpus = (gpu_busy, mig, virtualization, confidential_computing, ecc, throttling, link)
    without = _ok("no GPU") if not facts.topology.gpus else None
    found = ((judge, without if without and judge in of_gpus else judge(facts)) for judge in judges)
    return tuple(Check(name=CheckName(judge.__name__), **asdict(finding)) for judge, finding in found)


def driver(facts: Facts) -> Finding:
    if facts.topology.gpus:
        topology = facts.topology
        versions = f"driver {topology.driver_version}, CUDA {topology.cuda_driver_version}"
        hidden = len(topology.gpus) - len(topology.visible_gpus)
        excluded = f", {hidden} excluded by CUDA_VISIBLE_DEVICES" if hidden else ""
        return _ok(f"{len(topology.gpus)} GPU(s){excluded}, {versions}")
    if facts.topology.silent_gpus:
        return _warning(
            f"GPU(s) at {', '.join(facts.topology.silent_gpus)} without NVML: {facts.topology.nvml_error}",
            "install the NVIDIA driver, or start the container with its GPUs (--gpus all)",
            "sudo modprobe nvidia && nvidia-smi",
        )
    return _ok("no GPU: studies run on the cpu device")


def nodes(facts: Facts) -> Finding:
    if not facts.topology.numa:
        return _warning(
            "the kernel reports no NUMA nodes; the whole machine counts as node 0",
            "use a kernel with CONFIG_NUMA, not started with numa=off",
            'grep -o "numa=[^ ]*" /proc/cmdline; grep CONFIG_NUMA= /boot/config-$(uname -r)',
        )
    groups: dict[str, list[int]] = {}
    for node in facts.topology.nodes:
        owners = ", ".join(map(str, node.gpu_memory))
        groups.setdefault(f"memory of GPU {owners}" if owners else node.kind, []).append(node.id)
    named = (f"node{'s' if len(ids) > 1 else ''} {format_cpulist(ids)} {kind}" for kind, ids in groups.items())
    return _ok("; ".join(named))


def gpu_node(facts: Facts) -> Finding:
    unsure = [gpu for gpu in facts.topology.visible_gpus if gpu.node is None]
    if not unsure:
        known = "; ".join(f"GPU {gpu.index} near node {gpu.node}" for gpu in facts.topology.visible_gpus)
        return _ok(known or "no GPU")
    fact = "; ".join(f"GPU {gpu.index} {gpu.agreement}: {describe_answers(gpu.answers)}" for gpu in unsure)
    virtual = f" (hypervisor: {facts.hypervisor})" if facts.hypervisor != "none" else ""
    return _warning(fact + virtual, "measure the nearest node of each GPU", "numastudy probe")


def gpu_busy(facts: Facts) -> Finding:
    busy: dict[int, str] = {}
    pids: list[int] = []
    for index, gpu in facts.visible_gpus:
        others = [pid for pid in gpu.processes if pid != facts.own_pid]
        used = gpu.memory_used_bytes or 0
        if others:
            busy[index] = f"GPU {index} is used by process {', '.join(map(str, others))}"
            pids += others
        elif used > HIDDEN_USE_BYTES:
            busy[index] = f"GPU {index} has {byte_size(used)} in use by a process not visible here"
    remedy = "stop it, or exclude the GPU (gpu_ids): it disturbs every run"
    shows = f"ps -o pid,user,etime,args -p {','.join(map(str, pids))}" if pids else f"nvidia-smi -i {_ids(busy)}"
    return _warn_if([*busy.values()], "no other process", remedy, shows)


def mig(facts: Facts) -> Finding:
    split = {gpu.index: f"GPU {gpu.index} is split by MIG" for gpu in facts.topology.visible_gpus if gpu.mig}
    remedy = "switch MIG off while the GPU is idle; until then its cells are not_runnable"
    return _warn_if([*split.values()], "off", remedy, f"sudo nvidia-smi -i {_ids(split)} -mig 0")


def virtualization(facts: Facts) -> Finding:
    shared = [
        f"GPU {index} is {_SHARED[mode]}"
        for index, gpu in facts.visible_gpus
        if (mode := gpu.virtualization) in _SHARED and mode is not None
    ]
    whole = [index for index, gpu in facts.visible_gpus if gpu.virtualization is VirtualizationMode.PASSTHROUGH]
    fine = "GPUs of this system itself"
    if whole:
        fine = f"GPU {format_cpulist(whole)} passed through to this virtual machine; its nodes may not be the host's"
    remedy = "measure a whole GPU: others use the same one, at times that are not known here"
    return _warn_if(shared, fine, remedy, "nvidia-smi -q | grep -A 2 Virtualization")


_SHARED = {
    VirtualizationMode.VGPU: "a vGPU, a share of a GPU",
    VirtualizationMode.HOST_VGPU: "shared out as vGPUs",
    VirtualizationMode.HOST_VSGA: "shared out to virtual machines (vSGA)",
}


def confidential_computing(facts: Facts) -> Finding:
    if not facts.nvml.confidential_computing:
        return _ok("off")
    return _warning(
        "on: copies are encrypted on the CPU and go through buffers of the driver, wherever the pool is",
        "compare with hosts in the same mode only; without that mode, copies and the cost of a wrong node differ",
        "nvidia-smi conf-compute -f",
    )


def iommu(facts: Facts) -> Finding:
    """Strict translation costs time whenever memory is unmapped. Redirection concerns copies between GPUs only."""
    strict = [index for index, mode in facts.iommu_modes.items() if mode == "DMA"]
    modes = sorted({mode for mode in facts.iommu_modes.values() if mode})
    fine = f"default domain {', '.join(modes)}" if modes else "not used, or not visible"
    bridges = sorted({bridge for found in facts.redirecting_bridges.values() for bridge in found or ()})
    if len(facts.topology.gpus) > 1 and bridges:
        fine += f"; bridges that redirect copies between GPUs (ACS): {', '.join(bridges)}"
    found = f"GPU {format_cpulist(strict)}: the IOMMU translates, in strict mode"
    remedy = "boot with iommu=pt, or with iommu.strict=0"
    command = "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&iommu=pt /' /etc/default/grub && sudo update-grub"
    return _warn_if([found] if strict else [], fine, remedy, command)


def ecc(facts: Facts) -> Finding:
    broken, pending = [], []
    reset: dict[int, None] = {}
    for index, gpu in facts.visible_gpus:
        rows = gpu.remapped_rows or RemappedRows()
        if gpu.ecc_uncorrected or rows.failed or rows.pending:
            reset[index] = None
        if gpu.ecc_uncorrected:
            broken.append(f"GPU {index}: {gpu.ecc_uncorrected} uncorrected ECC errors since the driver started")
        if rows.failed:
            broken.append(f"GPU {index}: a row remapping failed")
        if rows.pending:
            pending.append(f"GPU {index}: a row remapping is pending until a reset")
    command = f"sudo nvidia-smi -i {_ids(reset)} -r"
    if broken:
        return Finding(CheckState.ERROR, "; ".join(broken), "reset the GPU, and have it tested", command)
    return _warn_if(pending, "no uncorrected errors", "reset the GPU before the study", command)


def throttling(facts: Facts) -> Finding:
    slowed = [
        f"GPU {index}: {', '.join(gpu.throttle_reasons)}" for index, gpu in facts.visible_gpus if gpu.throttle_reasons
    ]
    remedy = "fix cooling or the power limit, then start"
    return _warn_if(slowed, "none", remedy, "nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE")


def link(facts: Facts) -> Finding:
    """Below its maximum: a narrow link always; a slow one only if the GPU is active, since idle links slow down."""
    slow = []
    for index, gpu in facts.visible_gpus:
        width, most = gpu.link_width, gpu.link_width_max
        generation, best = gpu.link_generation, gpu.link_generation_max
        state = gpu.performance_state
        active = state is not None and state <= ACTIVE_STATE
        if width and most and width < most:
            slow.append(f"GPU {index}: link x{width} of x{most}")
        if active and generation and best and generation < best:
            slow.append(f"GPU {index}: link generation {generation} of {best} in P{state}")
    fine = "at full width; runs check the generation under load"
    shows = "sudo lspci -vv -d 10de: | grep -E '^[0-9a-f]|LnkCap:|LnkSta:'"
    return _warn_if(slow, fine, "reseat the card, check BIOS and slot", shows)


def binding(facts: Facts) -> Finding:
    if facts.tried is None:
        return _ok(_NOT_TRIED)
    where = f" (container: {facts.container})" if facts.container != "none" else ""
    findings, remedies = [], []
    if cpus := facts.tried.cpus_failure:
        findings.append(f"CPUs and memory cannot be bound: {cpus.reason}")
        remedies.append(cpus.advice)
    elif memory := facts.tried.bind_failure:
        findings.append(f"memory cannot be bound, CPUs can: {memory.reason}")
        remedies.append(memory.advice)
    if facts.tried.pages_refused:
        findings.append(f"pages cannot be queried, so no placement is proved: {facts.tried.pages_refused}")
        remedies.append("allow move_pages in the container (--cap-add SYS_NICE)")
    fine = "a trial bind of CPUs and memory works, and pages can be queried"
    tries = "numactl --cpunodebind=0 --membind=0 grep allowed_list /proc/self/status"
    return _warn_if([text + where for text in findings], fine, "; ".join(remedies), tries)


def cpuset(facts: Facts) -> Finding:
    all_nodes = facts.topology.nodes
    cut = [
        f"node {node.id}: {len(node.allowed_cpu_ids)} of {len(node.cpu_ids)} CPUs allowed"
        for node in all_nodes
        if len(node.allowed_cpu_ids) < len(node.cpu_ids)
    ]
    cut += [
        f"node {node.id}: memory not allowed" for node in all_nodes if node.memory_bytes and not node.memory_allowed
    ]
    cpus = {cpu for node in all_nodes for cpu in node.allowed_cpu_ids}
    if not cut and facts.affinity and not cpus - set(facts.isolated_cpus) <= set(facts.affinity):
        cut.append(f"this process is restricted to CPUs {format_cpulist(facts.affinity)} (taskset?)")
    return _warn_if(
        cut,
        f"all {len(cpus)} CPUs and all memory nodes",
        "ask for whole nodes (Slurm: --exclusive --mem=0, srun --cpu-bind=none; Docker: no --cpuset-*)",
        "grep -E '(Cpus|Mems)_allowed_list' /proc/self/status",
    )


def isolated_cpus(facts: Facts) -> Finding:
    cpus = {cpu for node in facts.topology.nodes for cpu in node.allowed_cpu_ids} & set(facts.isolated_cpus)
    if not cpus:
        return _ok("none")
    fact = f"CPUs {format_cpulist(cpus)} are isolated (isolcpus): a bound run has them too, and no load balancing there"
    remedy = "boot without isolcpus=, or use a cpuset without these CPUs"
    return _warning(fact, remedy, 'grep -o "isolcpus=[^ ]*" /proc/cmdline')


def cores(facts: Facts) -> Finding:
    kinds = facts.topology.core_kinds
    if not kinds:
        return _ok("all of one kind")
    fact = f"{len(kinds)} kinds of cores, the fastest first: CPUs {'; '.join(kinds)}. Runs are bound to the fastest"
    remedy = "compare only with hosts of the same kind; other kinds are not measured"
    return _warning(fact, remedy, "lscpu --extended")


def numa_balancing(facts: Facts) -> Finding:
    found, commands = [], []
    if facts.numa_balancing != "0":
        found.append("automatic NUMA balancing is on: it moves and unmaps pages during runs")
        commands.append("sudo sysctl -w kernel.numa_balancing=0")
    slower = [node.id for node in facts.topology.nodes if node.kind is NodeKind.MEMORY_ONLY]
    if facts.memory_demotion and slower:
        found.append(
            f"memory demotion is on: it may move cold pages to node {format_cpulist(slower)}, which has no CPUs"
        )
        commands.append("echo 0 | sudo tee /sys/kernel/mm/numa/demotion_enabled")
    remedy = "switch it off until the study has ended"
    return _warn_if(found, "off", remedy, " && ".join(commands))


def node_memory(facts: Facts) -> Finding:
    needed = facts.pool_bytes + PROCESS_BYTES
    # A node of other memory (CXL, a GPU's own) is judged like any other: cells may name it.
    small = {node: free for node, free in facts.node_free_bytes.items() if free < needed}
    if not small:
        return _ok(f"at least {byte_size(needed)} on every node with memory")
    fact = "; ".join(f"node {node} has {byte_size(free)}" for node, free in small.items())
    fact += f"; a bound run of this pool needs about {byte_size(needed)}, or it is killed"
    state = CheckState.ERROR if len(small) == len(facts.node_free_bytes) else CheckState.WARNING
    return Finding(state, fact, "free memory there, or lower memory_size_mb", "numastat -m")


def locked_memory(facts: Facts) -> Finding:
    """NVIDIA's driver does not count what it pins as locked: only a driver that does makes the limit one."""
    if facts.locked_bytes is None:
        return _ok("not limited")
    limit = f"limited to {byte_size(facts.locked_bytes)} (ulimit -l)"
    if facts.tried and facts.tried.pinning_refused:
        fact = f"{limit}, and the driver pins no more than that: {facts.tried.pinning_refused}"
        return Finding(CheckState.ERROR, fact, facts.more_locked, "grep 'Max locked memory' /proc/self/limits")
    counted = "pools that CUDA pins do not count" if facts.visible_gpus else "nothing is locked without a GPU"
    return _ok(f"{limit}: {counted}")


def governor(facts: Facts) -> Finding:
    slow = [name for name in facts.governors if name != "performance"]
    return _warn_if(
        [f"CPU frequency governor: {', '.join(slow)}"] if slow else [],
        "performance" if facts.governors else "not reported by the host",
        "set it to performance until the study has ended",
        "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    )


def nsys(facts: Facts) -> Finding:
    if facts.tried is None:
        return _ok(_NOT_TRIED)
    if not facts.topology.gpus and facts.tried.nsys is None:
        return _ok("not installed, and not needed without a GPU")
    if facts.tried.nsys is None:
        return _warning(
            "nsys is not installed: torch.profiler traces instead",
            "install Nsight Systems (developer.nvidia.com/nsight-systems)",
            facts.nsys_installation or "find / -name nsys -type f 2>/dev/null",
        )
    if not facts.tried.nsys_importer:
        return _warning(
            f"{facts.tried.nsys} has no QdstrmImporter: it would leave a .qdstrm and exit 0",
            "install all of Nsight Systems: QdstrmImporter is in its host folder (host-linux-x64)",
            facts.nsys_installation or "find / -name QdstrmImporter 2>/dev/null",
        )
    return _ok(facts.tried.nsys)


def perf_permission(facts: Facts) -> Finding:
    level = facts.perf_event_paranoid
    if facts.tried is None or facts.tried.nsys is None or level is None or level <= 2:
        return _ok(f"perf_event_paranoid {level}" if level is not None else "not limited")
    return _warning(
        f"perf_event_paranoid is {level}: nsys may refuse to start",
        "lower it to 2",
        "sudo sysctl -w kernel.perf_event_paranoid=2",
    )


def disk(facts: Facts) -> Finding:
    if facts.tried is None:
        return _ok(_NOT_TRIED)
    free = facts.tried.disk_free_bytes
    fact = f"{byte_size(free)} free for the run directory"
    if free >= DISK_LOW_BYTES:
        return _ok(fact)
    state = CheckState.ERROR if free < DISK_FULL_BYTES else CheckState.WARNING
    return Finding(state, fact, "free disk space, or choose another --output-dir", "df -h .")


def _ok(fact: str) -> Finding:
    return Finding(CheckState.OK, fact)


def _warning(fact: str, remedy: str, command: str) -> Finding:
    return Finding(CheckState.WARNING, fact, remedy, command)


def _warn_if(findings: Sequence[str], fact_if_none: str, remedy: str, command: str) -> Finding:
    return _warning("; ".join(findings), remedy, command) if findings else _ok(fact_if_none)


def _ids(gpus: Iterable[int]) -> str:
    """As nvidia-smi -i takes them."""
    return ",".join(map(str, gpus))
