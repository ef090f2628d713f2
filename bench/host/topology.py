"""The host's NUMA nodes and GPUs, read from a live machine or from a recorded tree of the same files."""

import re
from collections.abc import Mapping
from pathlib import Path

from bench.host.gpus import clock_policy, read_nvml
from bench.records.host import (
    Agreement,
    Gpu,
    LocalitySource,
    Node,
    Nvml,
    NvmlGpu,
    Topology,
    format_cpulist,
    parse_cpulist,
)

_NODES = "sys/devices/system/node"


def read_topology(root: Path = Path("/"), nvml: Nvml | None = None) -> Topology:
    """Read sysfs, procfs and NVML. Under another root than "/" NVML's answers are those of root/nvml.json.

    nvml: answers that the caller already has. Raise DamagedRecord if root/nvml.json is invalid.
    """
    nvml = nvml or read_nvml(root)
    allowed_cpus = _allowed(root, "cpus")
    nodes = _read_nodes(root, allowed_cpus, _allowed(root, "mems"))
    numa = bool(nodes)
    nodes = nodes or (_whole_machine(root, allowed_cpus),)
    cuda = nvml.cuda_driver_version
    return Topology(
        nodes=nodes,
        gpus=tuple(_gpu(root, nodes, index, answers) for index, answers in enumerate(nvml.gpus)),
        numa=numa,
        driver_version=nvml.driver_version,
        cuda_driver_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        nvml_error=nvml.error,
        silent_gpus=_pci_gpus(root) if nvml.error else (),
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
    online = parse_cpulist(read_text(root / _NODES / "online"))
    nodes = []
    for node_id in online:
        folder = root / _NODES / f"node{node_id}"
        cpus = parse_cpulist(read_text(folder / "cpulist"))
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


def _whole_machine(root: Path, allowed_cpus: set[int] | None) -> Node:
    cpus = parse_cpulist(read_text(root / "sys/devices/system/cpu/online")) or tuple(sorted(allowed_cpus or {0}))
    return Node(
        id=0,
        cpus=_cpulist(cpus),
        allowed_cpus=_cpulist(_within(cpus, allowed_cpus)),
        memory_bytes=meminfo(root, 0).get("MemTotal", 0),
        distances={0: 10},
    )


def _within(cpus: tuple[int, ...], allowed: set[int] | None) -> tuple[int, ...]:
    return cpus if allowed is None else tuple(cpu for cpu in cpus if cpu in allowed)


def _cpulist(cpus: tuple[int, ...]) -> str:
    return format_cpulist(cpus) if cpus else ""


def _gpu(root: Path, nodes: tuple[Node, ...], index: int, answers: NvmlGpu) -> Gpu:
    nearest = nearest_nodes(root, nodes, answers)
    node, agreement = judge_nearest(nearest)
    return Gpu(
        index=index,
        pci_bus_id=answers.pci_bus_id,
        uuid=answers.uuid,
        name=answers.name,
        node=node,
        agreement=agreement,
        answers=nearest,
        link_generation=answers.link_generation,
        link_generation_max=answers.link_generation_max,
        link_width=answers.link_width,
        link_width_max=answers.link_width_max,
        mig=answers.mig,
        ecc=answers.ecc,
        clocks=clock_policy(answers),
    )


def nearest_nodes(root: Path, nodes: tuple[Node, ...], gpu: NvmlGpu) -> dict[LocalitySource, tuple[int, ...]]:
    """The nodes nearest to a GPU by source; () where a source gives no answer.

    Only nodes with CPUs count (a GPU's own memory may be a node too). An NVML answer that names every one of them is no
    answer, also where there is only one: that is what a virtual machine reports.
    """
    by_cpu = {cpu: node.id for node in nodes for cpu in node.cpu_ids}
    with_cpus = set(by_cpu.values())
    sysfs = read_text(root / "sys/bus/pci/devices" / gpu.pci_bus_id / "numa_node").strip()
    by_memory = set(parse_cpulist(gpu.memory_affinity or "")) & with_cpus
    by_cpus = {by_cpu[cpu] for cpu in parse_cpulist(gpu.cpu_affinity or "") if cpu in by_cpu}
    return {
        LocalitySource.SYSFS: (int(sysfs),) if sysfs and int(sysfs) >= 0 else (),
        LocalitySource.NVML_MEMORY: tuple(sorted(by_memory)) if by_memory != with_cpus else (),
        LocalitySource.NVML_CPU: tuple(sorted(by_cpus)) if by_cpus != with_cpus else (),
    }


def judge_nearest(answers: Mapping[LocalitySource, tuple[int, ...]]) -> tuple[int | None, Agreement]:
    """The node that all answers have in common, if it is a single one; else None and why."""
    common = common_nodes(answers)
    if common is None:
        return None, Agreement.UNKNOWN
    if len(common) == 1:
        return common.pop(), Agreement.AGREED
    return None, Agreement.UNKNOWN if common else Agreement.DISAGREED


def common_nodes(answers: Mapping[LocalitySource, tuple[int, ...]]) -> set[int] | None:
    """The nodes that all answers name; None if there is no answer."""
    given = [set(nodes) for nodes in answers.values() if nodes]
    return set.intersection(*given) if given else None


def describe_answers(answers: Mapping[LocalitySource, tuple[int, ...]]) -> str:
    """The answers of all sources as text: "sysfs numa_node reports 1; no answer from NVML CPU affinity"."""
    given = [f"{source} reports {format_cpulist(nodes)}" for source, nodes in answers.items() if nodes]
    silent = ", ".join(source for source, nodes in answers.items() if not nodes)
    text = "; ".join([*given, *([f"no answer from {silent}"] if silent else [])])
    common = common_nodes(answers) or ()
    return f"narrowed only to nodes {format_cpulist(common)}: {text}" if len(common) > 1 else text


def _allowed(root: Path, kind: str) -> set[int] | None:
    """The CPUs or memory nodes (kind: "cpus", "mems") of the cpuset, else of /proc/self/status; None if unknown.

    The cpuset comes first: a bind can widen a narrow affinity (taskset) again, but not a cpuset.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        base, name = root / "sys/fs/cgroup", f"cpuset.{kind}.effective"
        if controllers == "cpuset":
            base, name = base / "cpuset", f"cpuset.effective_{kind}"
        elif controllers:
            continue
        # A container sees its own group at the mount point, whatever the path is.
        for folder in (base / path.lstrip("/"), base):
            if numbers := parse_cpulist(read_text(folder / name)):
                return set(numbers)
    label = "Cpus_allowed_list:" if kind == "cpus" else "Mems_allowed_list:"
    for line in read_text(root / "proc/self/status").splitlines():
        if line.startswith(label):
            return set(parse_cpulist(line.removeprefix(label)))
    return None


def _pci_gpus(root: Path) -> tuple[str, ...]:
    devices = root / "sys/bus/pci/devices"
    return tuple(
        device.name
        for device in sorted(devices.iterdir() if devices.is_dir() else ())
        if read_text(device / "vendor").strip() == "0x10de"
        and read_text(device / "class").startswith(("0x0300", "0x0302"))
    )


def read_text(path: Path) -> str:
    """The text of a file of the kernel; "" where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
