"""Placements on a host that reports one node: groups of its CPUs, named by the study or found by the probe.

Where the memory is relative to them is not known, so what they compare is CPUs only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.host.probe import measured_locality
from bench.records.host import HiddenNodes, Probe, Topology, format_cpulist, parse_cpulist
from bench.records.study import Placement
from bench.study.settings import shown

CPU_GROUPS = "cpu-groups"
"""As placements: the groups that the probe finds."""
_NAME_THEM = 'name the groups, as placements: ["0-7", "8-15"]'
_WHY_NONE = {
    HiddenNodes.NOT_PROBED: "is split by MIG, which is not probed",
    HiddenNodes.TOO_FEW_CPUS: "has too few CPUs for two groups",
    HiddenNodes.ONE_GROUP: "has the same latency from all CPUs",
    HiddenNodes.SMALL_GROUP: "is far from few CPUs only",
    HiddenNodes.CLOSE_GROUPS: "has two groups of CPUs too close in latency",
    HiddenNodes.UNSTABLE_LATENCIES: "has other latencies in each scan",
}


def read_cpu_groups(value: Sequence[Any], where: str) -> tuple[str, ...]:
    """Lists of CPUs that have none in common, as the kernel writes them. Raise StudyError."""
    groups: list[str] = []
    taken: set[int] = set()
    for index, item in enumerate(value):
        try:
            cpus = set(parse_cpulist(item)) if isinstance(item, str) else set()
        except ValueError:
            cpus = set()
        if not cpus:
            raise StudyError(f'found {shown(item)}, allowed is a list of CPUs, as "0-7,16"', f"{where}[{index}]")
        if both := taken & cpus:
            what = f"CPUs {format_cpulist(both)} are in two groups"
            raise StudyError(what, f"{where}[{index}]", "give each CPU to one group")
        taken |= cpus
        groups.append(format_cpulist(cpus))
    return tuple(groups)


def numbered(groups: Sequence[str]) -> tuple[Placement, ...]:
    """Their placements: number of the group, and the node of the memory, which is the only one."""
    return tuple((number, 0) for number in range(len(groups)))


def found_groups(topology: Topology, device: str, name: str, root: Path = Path("/")) -> tuple[str, ...]:
    """The two groups that the probe finds, that of the lowest CPU first. Raise StudyError where there are none."""
    where = f"{name}: placements {CPU_GROUPS}"
    _check_one_node(topology, where)
    if root != Path("/"):
        raise StudyError("a recorded host cannot be probed", where, _NAME_THEM)
    if device == "cpu" or not topology.visible_gpus:
        raise StudyError("the probe finds groups of CPUs by copies of a GPU: this host has none", where, _NAME_THEM)
    probe = measured_locality("cuda")
    for gpu in probe.gpus:
        if gpu.hidden_groups:
            groups = gpu.hidden_groups.fast, gpu.hidden_groups.slow
            first, second = sorted(groups, key=lambda cpus: parse_cpulist(cpus)[0])
            return first, second
    raise StudyError(f"the probe found no groups of CPUs: {_why_none(probe)}", where, _NAME_THEM)


def _why_none(probe: Probe) -> str:
    reasons = (f"GPU {gpu.index} {_WHY_NONE.get(gpu.hidden_nodes, gpu.hidden_nodes)}" for gpu in probe.gpus)
    return probe.error or "; ".join(reasons)


def check_groups(groups: Sequence[str], topology: Topology, name: str, of_command: bool) -> None:
    """Raise StudyError for groups that this host cannot compare."""
    where = f"{name}: placements"
    if of_command:
        raise StudyError("a command is bound to nodes, not to groups of CPUs", where, "name nodes")
    _check_one_node(topology, where)
    allowed = {cpu for node in topology.nodes for cpu in node.allowed_cpu_ids}
    for index, group in enumerate(groups):
        if missing := set(parse_cpulist(group)) - allowed:
            what = f"CPUs {format_cpulist(missing)} are not here, or outside this process's cpuset"
            raise StudyError(what, f"{where}[{index}]", f"this process may use {format_cpulist(allowed)}")


def _check_one_node(topology: Topology, where: str) -> None:
    nodes = [node.id for node in topology.nodes if node.cpu_ids]
    if nodes != [0]:
        what = f"this host reports nodes {format_cpulist(nodes)}: groups of CPUs are for hosts that report one, node 0"
        raise StudyError(what, where, "use numa_nodes: all")
