"""The host's NUMA nodes and GPUs, read from a live machine or from a recorded tree of the same files."""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

from msgspec import structs

from bench.host.environment import hypervisor, read_text
from bench.host.gpus import clock_policy, read_nvml, visible_indices
from bench.host.nccl_topology import NcclTopology, read_nccl_topology
from bench.host.recorded import checked
from bench.records.host import (
    Agreement,
    AnswerState,
    Gpu,
    GpuFacts,
    LocalityAnswer,
    LocalitySource,
    Node,
    Nvml,
    NvmlGpu,
    Topology,
    bits,
    format_cpulist,
    parse_cpulist,
)
from bench.units import listed

_NODES = "sys/devices/system/node"
KIND_RATIO = 1.15
"""Cores of one kind differ in speed by less than this."""


def read_topology(root: Path = Path("/"), nvml: Nvml | None = None) -> Topology:
    """Read sysfs, procfs and NVML. Under another root than "/" NVML's answers are those of root/nvml.json, and
    CUDA_VISIBLE_DEVICES of this process has no meaning.

    nvml: answers that the caller already has. Raise DamagedRecord if a recorded host is invalid.
    """
    with checked(root):
        return _read(root, nvml)


def _read(root: Path, nvml: Nvml | None) -> Topology:
    nvml = nvml or read_nvml(root)
    nccl = read_nccl_topology(root)
    allowed_cpus = _allowed_cpus(root)
    nodes = _read_nodes(root, allowed_cpus, _allowed_mems(root))
    numa = bool(nodes)
    nodes = nodes or (_whole_machine(root, allowed_cpus),)
    virtual = hypervisor(root) != "none"
    visible = visible_indices(nvml.gpus, os.environ.get("CUDA_VISIBLE_DEVICES") if root == Path("/") else None)
    cuda = nvml.cuda_driver_version
    return Topology(
        nodes=tuple(structs.replace(node, gpu_memory=_gpus_with_memory(root, node, nvml)) for node in nodes),
        gpus=tuple(
            structs.replace(_gpu(root, nodes, nccl, virtual, index, answers), visible=index in visible)
            for index, answers in enumerate(nvml.gpus)
        ),
        numa=numa,
        driver_version=nvml.driver_version,
        cuda_driver_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        nvml_error=nvml.error,
        silent_gpus=_pci_gpus(root) if nvml.error else (),
        core_kinds=core_kinds(root),
    )


def meminfo(root: Path, node: int) -> dict[str, int]:
    """Bytes by name from the meminfo file of a node, or of the machine where the kernel reports no such node.

    {} where there is no such file.
    """
    folder = root / f"{_NODES}/node{node}"
    text = read_text((folder if folder.is_dir() else root / "proc") / "meminfo")
    # "MemFree: 1 kB", of a node "Node 0 MemFree: 1 kB".
    values = re.findall(r"^(?:Node +\d+ +)?([\w()]+): +(\d+) kB", text, re.MULTILINE)
    return {name: int(kibibytes) * 1024 for name, kibibytes in values}


def free_bytes(root: Path, node: int) -> int:
    """Memory that a new process could get on a node: free pages, and page cache, which is reclaimed first."""
    values = meminfo(root, node)
    return values.get("MemFree", 0) + values.get("Active(file)", 0) + values.get("Inactive(file)", 0)


def _read_nodes(root: Path, allowed_cpus: set[int] | None, allowed_mems: set[int] | None) -> tuple[Node, ...]:
    online = parse_cpulist(read_text(root / _NODES / "online")) or _numbered(root / _NODES, "node")
    # Some kernels list offline CPUs with their node.
    online_cpus = set(_online_cpus(root)) or None
    nodes = []
    for node_id in online:
        folder = root / _NODES / f"node{node_id}"
        cpus = _within(_node_cpus(folder), online_cpus)
        distances = map(int, read_text(folder / "distance").split())
        nodes.append(
            Node(
                id=node_id,
                cpus=_cpulist(cpus),
                allowed_cpus=_cpulist(_within(cpus, allowed_cpus)),
                memory_bytes=meminfo(root, node_id).get("MemTotal", 0),
                memory_allowed=allowed_mems is None or node_id in allowed_mems,
                # The kernel writes one distance per online node, in their order, without the ids.
                distances=dict(zip(online, distances, strict=False)),
            )
        )
    return tuple(nodes)


def _gpus_with_memory(root: Path, node: Node, nvml: Nvml) -> tuple[int, ...]:
    """The GPUs whose own memory is this node: by NVML, by the driver, or as a node without CPUs in NVML's affinity."""
    if node.cpu_ids:
        return ()
    return tuple(
        index
        for index, gpu in enumerate(nvml.gpus)
        if node.id in (gpu.numa_node, _numa_status(root, gpu)) or node.id in parse_cpulist(gpu.memory_affinity or "")
    )


def _numa_status(root: Path, gpu: NvmlGpu) -> int | None:
    status = read_text(root / "proc/driver/nvidia/gpus" / gpu.pci_bus_id / "numa_status")
    match = re.search(r"^Node:\s*(\d+)$", status, re.MULTILINE)
    return int(match[1]) if match else None


def core_kinds(root: Path) -> tuple[str, ...]:
    """CPUs by kind of core, the fastest kind first; () where all cores are of one kind.

    By the capacity that the kernel gives each CPU (Arm), by the PMUs of hybrid x86 CPUs, else by the maximum frequency.
    Single cores that may run somewhat faster are not a kind of their own.
    """
    pmus = [parse_cpulist(read_text(root / f"sys/devices/{name}/cpus")) for name in ("cpu_core", "cpu_atom")]
    if all(pmus):
        return tuple(map(format_cpulist, pmus))
    cpus = _online_cpus(root)
    for file in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = {cpu: read_text(root / f"sys/devices/system/cpu/cpu{cpu}/{file}") for cpu in cpus}
        if speeds and all(speed.isdigit() for speed in speeds.values()):
            return _kinds_by_speed({cpu: int(speed) for cpu, speed in speeds.items()})
    return ()


def _kinds_by_speed(speeds: Mapping[int, int]) -> tuple[str, ...]:
    ordered = sorted(speeds, key=lambda cpu: (-speeds[cpu], cpu))
    kinds = [[ordered[0]]]
    for before, cpu in pairwise(ordered):
        if speeds[before] > KIND_RATIO * speeds[cpu]:
            kinds.append([])
        kinds[-1].append(cpu)
    return tuple(map(format_cpulist, kinds)) if len(kinds) > 1 else ()


def cpus_to_bind(root: Path, node: int) -> str:
    """The CPUs to bind a process to that belongs on a node; "" where the number of the node is enough for numactl.

    numactl knows only nodes with memory. Of several kinds of cores, a process is bound to the fastest.
    """
    allowed = _within(_node_cpus(root / f"{_NODES}/node{node}"), _allowed_cpus(root))
    fastest = [cpu for kind in core_kinds(root)[:1] for cpu in parse_cpulist(kind) if cpu in allowed]
    if fastest:
        return format_cpulist(fastest)
    return format_cpulist(allowed) if allowed and not meminfo(root, node).get("MemTotal") else ""


def allows_memory(root: Path, node: int) -> bool:
    """Whether a node has memory that this process may use."""
    allowed = _allowed_mems(root)
    return bool(meminfo(root, node).get("MemTotal")) and (allowed is None or node in allowed)


def _whole_machine(root: Path, allowed_cpus: set[int] | None) -> Node:
    cpus = _online_cpus(root) or tuple(sorted(allowed_cpus or {0}))
    return Node(
        id=0,
        cpus=_cpulist(cpus),
        allowed_cpus=_cpulist(_within(cpus, allowed_cpus)),
        memory_bytes=meminfo(root, 0).get("MemTotal", 0),
        distances={0: 10},
    )


def _online_cpus(root: Path) -> tuple[int, ...]:
    """Kernels without a list have a file for each CPU that can be taken offline."""
    folder = root / "sys/devices/system/cpu"
    return parse_cpulist(read_text(folder / "online")) or tuple(
        cpu for cpu in _numbered(folder, "cpu") if read_text(folder / f"cpu{cpu}/online") != "0"
    )


def _node_cpus(folder: Path) -> tuple[int, ...]:
    """Kernels before 2.6.25 have a mask only: "00000000,0000ffff"."""
    mask = int(read_text(folder / "cpumap").replace(",", "") or "0", 16)
    return parse_cpulist(read_text(folder / "cpulist")) or bits(mask)


def _numbered(folder: Path, name: str) -> tuple[int, ...]:
    """The numbers of the folders name0, name1, ... for kernels that do not list what is online."""
    numbers = (path.name.removeprefix(name) for path in folder.glob(f"{name}[0-9]*") if path.is_dir())
    return tuple(sorted(int(number) for number in numbers if number.isdigit()))


def _within(cpus: tuple[int, ...], allowed: set[int] | None) -> tuple[int, ...]:
    return cpus if allowed is None else tuple(cpu for cpu in cpus if cpu in allowed)


def _cpulist(cpus: tuple[int, ...]) -> str:
    return format_cpulist(cpus) if cpus else ""


def _gpu(
    root: Path, nodes: tuple[Node, ...], nccl: NcclTopology | None, virtual: bool, index: int, answers: NvmlGpu
) -> Gpu:
    nearest = nearest_nodes(root, nodes, answers, nccl)
    node, agreement = judge_nearest(nearest, nodes, virtual)
    return Gpu(
        **{fact: getattr(answers, fact) for fact in GpuFacts.__struct_fields__},
        index=index,
        pci_bus_id=answers.pci_bus_id,
        node=node,
        agreement=agreement,
        answers=nearest,
        memory_bytes=answers.memory_total_bytes,
        clocks=clock_policy(answers),
    )


def nearest_nodes(
    root: Path, nodes: Sequence[Node], gpu: NvmlGpu, nccl: NcclTopology | None = None
) -> dict[LocalitySource, LocalityAnswer]:
    """The nodes nearest to a GPU by source, and whether the answer counts.

    Only nodes with CPUs count: a GPU's own memory may be a node too, and memory without CPUs is near no process.
    """
    sysfs = read_text(root / "sys/bus/pci/devices" / gpu.pci_bus_id / "numa_node")
    by_memory = parse_cpulist(gpu.memory_affinity or "")
    by_cpus = set(parse_cpulist(gpu.cpu_affinity or ""))
    with_cpus = tuple(node.id for node in nodes if node.cpu_ids)
    answers = {
        LocalitySource.SYSFS: _sysfs_answer((int(sysfs),) if sysfs and int(sysfs) >= 0 else (), nodes),
        LocalitySource.NVML_MEMORY: _nvml_answer(tuple(node for node in by_memory if node in with_cpus), nodes),
        LocalitySource.NVML_CPU: _nvml_answer(
            tuple(node.id for node in nodes if by_cpus.intersection(node.cpu_ids)), nodes
        ),
    }
    return answers if nccl is None else answers | {LocalitySource.NCCL: _nccl_answer(nccl, gpu.pci_bus_id, nodes)}


def _sysfs_answer(named: tuple[int, ...], nodes: Sequence[Node]) -> LocalityAnswer:
    known = {node.id: node for node in nodes}
    state = AnswerState.COUNTS if named else AnswerState.NONE
    if any(node not in known for node in named):
        state = AnswerState.OFFLINE
    elif any(not known[node].cpu_ids for node in named):
        state = AnswerState.NO_CPUS
    return LocalityAnswer(state=state, nodes=named)


def _nvml_answer(named: tuple[int, ...], nodes: Sequence[Node]) -> LocalityAnswer:
    """named: of nodes with CPUs. NVML cuts its answers to the cpuset of the process."""
    possible = {node.id for node in nodes if node.allowed_cpu_ids} or {node.id for node in nodes if node.cpu_ids}
    if not named:
        return LocalityAnswer()
    return LocalityAnswer(state=AnswerState.EVERY_NODE if possible <= set(named) else AnswerState.COUNTS, nodes=named)


def _nccl_answer(nccl: NcclTopology, pci_bus_id: str, nodes: Sequence[Node]) -> LocalityAnswer:
    """The file's node numbers are those of this host only where the kernel reports each of them, with CPUs."""
    place = nccl.places.get(pci_bus_id)
    if place is None:
        return LocalityAnswer()
    known = nccl.nodes <= {node.id for node in nodes if node.cpu_ids}
    state = AnswerState.COUNTS if known else AnswerState.HIDDEN_NODES
    return LocalityAnswer(state=state, nodes=(place.node,), cpus=place.cpus)


def judge_nearest(
    answers: Mapping[LocalitySource, LocalityAnswer], nodes: Sequence[Node], virtual: bool
) -> tuple[int | None, Agreement]:
    """The nearest node, and how it is known. virtual: in a virtual machine one node may be several of the host."""
    given = [set(answer.nodes) for answer in answers.values() if answer.state is AnswerState.COUNTS]
    with_cpus = [node.id for node in nodes if node.cpu_ids]
    offline = any(answer.state is AnswerState.OFFLINE for answer in answers.values())
    if len(with_cpus) == 1 and not virtual and not offline:
        return with_cpus[0], Agreement.ONLY_NODE
    if not given:
        return None, Agreement.UNKNOWN
    common = set.intersection(*given)
    if len(common) == 1:
        return common.pop(), Agreement.AGREED if len(given) > 1 else Agreement.REPORTED
    return None, Agreement.UNKNOWN if common else Agreement.DISAGREED


_IGNORED = {
    AnswerState.EVERY_NODE: "which is every node that this process may use",
    AnswerState.NO_CPUS: "which has no CPUs",
    AnswerState.OFFLINE: "which is not online",
    AnswerState.HIDDEN_NODES: "of the physical host, whose nodes this kernel does not all report",
}


def describe_answers(answers: Mapping[LocalitySource, LocalityAnswer]) -> str:
    """The answers of all sources: "sysfs numa_node reports 1; no answer from NVML CPU affinity"."""
    reports: dict[str, list[str]] = {}
    for source, answer in answers.items():
        if answer.nodes:
            cpus = f" (CPUs {answer.cpus})" if answer.cpus else ""
            ignored = f", {_IGNORED[answer.state]}" if answer.state in _IGNORED else ""
            reports.setdefault(f"{format_cpulist(answer.nodes)}{cpus}{ignored}", []).append(source)
    given = [
        f"{listed(sources)} {'reports' if len(sources) == 1 else 'report'} {what}" for what, sources in reports.items()
    ]
    silent = ", ".join(source for source, answer in answers.items() if not answer.nodes)
    return "; ".join([*given, *([f"no answer from {silent}"] if silent else [])])


def _allowed_cpus(root: Path) -> set[int] | None:
    """The CPUs of the nearest cpuset, else those of /proc/self/status; None if unknown.

    The cpuset comes first: a bind can widen a narrow affinity (taskset) again, but not a cpuset.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        base, name = root / "sys/fs/cgroup", "cpuset.cpus.effective"
        if controllers == "cpuset":
            base, name = base / "cpuset", "cpuset.effective_cpus"
        elif controllers:
            continue
        # A group without the controller is limited by its nearest ancestor that has it. A container sees its own group
        # at the mount point, whatever the path is.
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:
            group = PurePosixPath()
        for folder in (group, *group.parents):
            if numbers := parse_cpulist(read_text(base / folder / name)):
                return set(numbers)
    return cpu_affinity(root)


def cpu_affinity(root: Path) -> set[int] | None:
    """The CPUs that this process may run on; None if unknown."""
    return _from_status(root, "Cpus_allowed_list:")


def _allowed_mems(root: Path) -> set[int] | None:
    """The memory nodes that the kernel allows this process; None if unknown."""
    return _from_status(root, "Mems_allowed_list:")


def _from_status(root: Path, label: str) -> set[int] | None:
    for line in read_text(root / "proc/self/status").splitlines():
        if line.startswith(label):
            return set(parse_cpulist(line.removeprefix(label)))
    return None


def _pci_gpus(root: Path) -> tuple[str, ...]:
    devices = root / "sys/bus/pci/devices"
    return tuple(
        device.name
        for device in sorted(devices.iterdir() if devices.is_dir() else ())
        if read_text(device / "vendor") == "0x10de" and read_text(device / "class").startswith(("0x0300", "0x0302"))
    )
