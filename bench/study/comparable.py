"""Whether a study can compare on this host what it was asked to compare."""

import json
from collections import defaultdict

from bench.errors import NotHere
from bench.records.host import NodeKind, Topology, format_cpulist
from bench.records.study import Cell, Grid
from bench.study.constraints import why_no_gpu, why_no_placement
from bench.study.load import TASKS, StudyDefinition, shipped_names


def incomparable(definition: StudyDefinition, grid: Grid, topology: Topology) -> NotHere | None:
    """Why such a study does not start; None if it does.

    Where it has no two placements it may compare settings, or cells of a model that it lists twice.
    """
    if error := _named_but_absent(definition, grid, topology):
        return error
    here = defaultdict(list)
    for cell in _usable(grid):
        here[cell.gpu, cell.model].append(cell)
    if any(len(own) > len({cell.placement for cell in own}) for own in here.values()):
        return None
    return without_placements(definition, grid, topology)


def _named_but_absent(definition: StudyDefinition, grid: Grid, topology: Topology) -> NotHere | None:
    """What the command line itself names is meant, other than what a study that was written for several hosts names."""
    for cell in grid.cells:
        why = ""
        if "gpu_ids" in definition.given and cell.device == "cuda":
            why = why_no_gpu(topology, cell.gpu)
        if "placements" in definition.given and not cell.cpus:
            why = why or why_no_placement(topology, cell.placement)
        if why:
            return NotHere(why, cell.name, "name GPUs and nodes of this host, or all")
    return None


def without_placements(definition: StudyDefinition, grid: Grid, topology: Topology) -> NotHere | None:
    """If no two placements of a cell can run here, with a command that has some to compare.

    A study that names one placement compares something else.
    """
    asked = definition.placements
    several = isinstance(asked, str) or len(asked) > 1
    placements = defaultdict(set)
    for cell in _usable(grid):
        placements[cell.gpu, cell.model, cell.settings].add(cell.placement)
    if not several or any(len(own) > 1 for own in placements.values()):
        return None
    nodes = [node.id for node in topology.nodes if node.kind is NodeKind.CPU_AND_MEMORY]
    what = "no two placements to compare: "
    if len(nodes) > 1:
        option = "--numa-nodes all"
        if not isinstance(asked, str) and any(cpu_node != mem_node for cpu_node, mem_node in asked):
            pairs = [[cpu_node, mem_node] for cpu_node in nodes[:2] for mem_node in nodes[:2]]
            option = f"--placements '{json.dumps(pairs, separators=(',', ':'))}'"
        return NotHere(
            f"{what}this host has nodes {format_cpulist(nodes)}",
            definition.name,
            f"to measure all of them, {_with(definition, option)}",
        )
    alone = f"to measure it alone, {_with(definition, f'--numa-nodes {nodes[0]}')}" if nodes else ""
    if topology.visible_gpus and not definition.command:
        groups = _with(definition, "--placements cpu-groups")
        alone = f"to compare the groups of its CPUs that the probe finds, {groups}\n         {alone}"
    return NotHere(f"{what}this host has one node", definition.name, alone)


def _usable(grid: Grid) -> list[Cell]:
    return [cell for cell in grid.cells if not cell.reason]


def _with(definition: StudyDefinition, option: str) -> str:
    """Its command with an option; of a file whose path is not known here, the option."""
    by_name = {stem: task for task, stem in TASKS.items()}
    name = definition.name
    if name in by_name or name in shipped_names():
        return f"numastudy run {by_name.get(name, name)} {option}"
    return f"add {option}"
