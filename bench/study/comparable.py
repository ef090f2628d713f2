"""Whether a study that compares placements has any to compare on this host."""

from collections import defaultdict

from bench.records.host import NodeKind, Topology, format_cpulist
from bench.records.study import Grid
from bench.study.load import TASKS, StudyDefinition, shipped_names


def without_pair(definition: StudyDefinition, grid: Grid, topology: Topology) -> list[str]:
    """A line with a command that has something to compare, if no two placements of a cell can run here; else none.

    A study that names one placement compares something else.
    """
    asked = definition.placements
    several = isinstance(asked, str) or len(asked) > 1
    placements = defaultdict(set)
    for cell in grid.cells:
        if not cell.reason:
            placements[cell.gpu, cell.model, cell.settings].add(cell.placement)
    if not several or any(len(own) > 1 for own in placements.values()):
        return []
    nodes = [node.id for node in topology.nodes if node.kind is NodeKind.CPU_AND_MEMORY]
    if len(nodes) > 1:
        here = f"this host has nodes {format_cpulist(nodes)}"
        return [
            f"no two placements to compare: {here}; to measure all of them, {_with(definition, '--numa-nodes all')}"
        ]
    what = "no two placements to compare: this host reports one node"
    if not topology.visible_gpus or definition.command:
        return [what]
    groups = _with(definition, "--placements cpu-groups")
    return [f"{what}; to compare the groups of its CPUs that the probe finds, {groups}"]


def _with(definition: StudyDefinition, option: str) -> str:
    """Its command with an option; of a file whose path is not known here, the option."""
    by_name = {stem: task for task, stem in TASKS.items()}
    name = definition.name
    if name in by_name or name in shipped_names():
        return f"numastudy run {by_name.get(name, name)} {option}"
    return f"add {option}"
