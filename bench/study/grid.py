"""A study on a host: which cells there are, and which of them cannot run here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from msgspec import structs

from bench.errors import StudyError
from bench.host.binding import choose_binding
from bench.records.base import convert
from bench.records.host import NodeKind, Topology
from bench.records.study import Cell, Design, Grid, Placement, Settings, Slot, Study, StudySettings
from bench.study.axes import combinations, idle_excludes, name_cells
from bench.study.constraints import violation, why_not_here
from bench.study.cpu_groups import CPU_GROUPS, check_groups, found_groups, numbered
from bench.study.crossing import Births, births_of, pools_by_node, whole_sets, with_sides
from bench.study.load import StudyDefinition
from bench.study.order import measuring_order
from bench.trace.profilers import choose_profiler
from bench.units import byte_size


@dataclass(frozen=True)
class Expansion:
    """A study on this host, with nothing left at auto."""

    study: Study
    grid: Grid
    births: Births = field(default_factory=dict)


def expand_here(definition: StudyDefinition, topology: Topology, root: Path = Path("/")) -> Expansion:
    """Replace auto in device, profiler, binding and design; lay out the grid and the order. Raise StudyError.

    root: other than "/" for a recorded host, on which nothing is tried.

    Repeats become a multiple of the births of every group that is crossed.
    """
    asked = definition.settings.design
    # The benchmark of the link is of the pipeline's copies, and needs torch.
    without_link = {"measure_link": False} if definition.command else {}
    if definition.placements == CPU_GROUPS:
        found = found_groups(topology, definition.settings.device, definition.name, root)
        definition = replace(definition, placements=numbered(found), cpu_groups=found)
    if definition.cpu_groups:
        check_groups(definition.cpu_groups, topology, definition.name, definition.command is not None)
    numbers = {"placements": list(definition.placements), "cpu_groups": list(definition.cpu_groups)}
    grouped = numbers if definition.cpu_groups else {}
    resolved = _resolved(definition.settings, topology, root)
    study = convert(definition.as_json() | grouped | resolved | without_link, Study)
    definition = replace(definition, settings=structs.replace(study.settings, design=asked))
    cells = expand(definition, topology)
    _check_memory(cells, topology, study.name)
    if asked != "processes":
        cells = with_sides(cells, topology)
    births = _births(asked, cells, topology, study.name)
    study = structs.replace(
        study, design="crossing" if births else "processes", repeats=whole_sets(study.repeats, births)
    )
    return Expansion(study, Grid(cells=tuple(cells), order=tuple(order_of(study, cells, births))), births)


def _check_memory(cells: Sequence[Cell], topology: Topology, name: str) -> None:
    """Raise StudyError for host batches that no binding lets this host hold."""
    has = sum(node.memory_bytes for node in topology.nodes)
    for cell in cells:
        if cell.model.command:
            continue
        needs = sum(pools_by_node([cell]).values())
        if has and needs > has:
            raise StudyError(
                f"{cell.name} needs {byte_size(needs)} for its host batches; this host has {byte_size(has)}",
                f"{name}: memory_size_mb",
                "make memory_size_mb smaller",
            )


def order_of(study: Study, cells: Sequence[Cell], births: Births) -> list[Slot]:
    """The places of all runs that the study may need."""
    return measuring_order(
        [(cell.name, cell.group) for cell in cells],
        whole_sets(study.most_repeats, births),
        study.seed,
        families={cell.group: cell.family for cell in cells},
        traced=study.is_traced,
        births=births,
    )


def _births(asked: Design | Literal["auto"], cells: Sequence[Cell], topology: Topology, name: str) -> Births:
    if asked == "processes":
        return {}
    births, why = births_of(cells, topology)
    if asked == "crossing" and not births:
        advice = (
            "set design: processes; a crossing takes two cells that differ in their nodes, or in settings that a "
            "process can take turns in (docs/crossing.md)"
        )
        raise StudyError(f"design crossing: {why}", name, advice)
    return births


def _resolved(settings: StudySettings, topology: Topology, root: Path) -> dict[str, str]:
    """What can be auto, and why this binding."""
    device = ("cuda" if topology.visible_gpus else "cpu") if settings.device == "auto" else settings.device
    reason = f"binding {settings.binding} is set by the study"
    binding: str = settings.binding
    if binding == "auto":
        binding, reason = choose_binding("auto", topology, root)
    profiler = choose_profiler(settings.profiler, device)
    # Which groups can be crossed is known when there are cells.
    return {
        "device": device,
        "profiler": profiler,
        "binding": binding,
        "binding_reason": reason,
        "design": "processes",
    }


def expand(study: StudyDefinition, topology: Topology) -> list[Cell]:
    """GPU x placement x model x axes, in the order of the study. No setting may be auto.

    Raise StudyError if an axis is empty on this host or no cell at all can run.
    """
    base = study.settings
    asked = combinations(
        _gpus(study, topology), _placements(study, topology), study.models, study.axes, base, study.name
    )
    cells: list[Cell] = []
    advice = ""
    groups = study.cpu_groups
    for one, name, group in name_cells(asked, groups):
        settings = one.settings(base)
        # A device of auto is now known: what it cannot do is a property of the host, not an error of the study.
        why = violation(one.model, settings, study.axes.varied)
        if why and not cells:
            advice = why.advice
        node = (0, 0) if groups else one.placement
        known = topology.gpu(one.gpu) if base.device == "cuda" else None
        cells.append(
            Cell(
                name=name,
                gpu=one.gpu,
                gpu_uuid=known.uuid if known else None,
                cpu_node=one.placement[0],
                mem_node=one.placement[1],
                cpus=groups[one.placement[0]] if groups else "",
                model=one.model,
                group=group,
                reason=why.what if why else why_not_here(topology, one.gpu, node, settings),
                **_cell_settings(settings),
            )
        )
    if all(cell.reason for cell in cells):
        raise StudyError(
            f"no cell of {study.name} can run on this host: {cells[0].reason}",
            f"the first of {len(cells)} cells, {cells[0].name}",
            advice or _runnable_here(base, topology),
        )
    return cells


def _cell_settings(settings: Settings) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in Settings.__struct_fields__}


def idle_entries(study: StudyDefinition, topology: Topology) -> list[str]:
    """A line for each entry of exclude that drops nothing. Raise StudyError as expand does."""
    if not study.axes.exclude:
        return []
    places = _gpus(study, topology), _placements(study, topology)
    written = [_as_written(entry) for entry in study.axes.as_json()["exclude"]]
    return [
        f"exclude[{index}] drops nothing: {json.dumps(written[index])}"
        for index in idle_excludes(*places, study.models, study.axes, study.settings)
    ]


def _as_written(entry: dict[str, Any]) -> dict[str, Any]:
    """A placement with CPUs and memory on one node as that node."""
    places = entry.get("placements") or [[0, 1]]
    if any(cpu_node != mem_node for cpu_node, mem_node in places):
        return entry
    nodes = {"numa_nodes": [mem_node for _, mem_node in places]}
    return {key: value for key, value in entry.items() if key != "placements"} | nodes


def _runnable_here(base: Settings, topology: Topology) -> str:
    if base.device == "cuda" and not topology.visible_gpus:
        return "without a GPU: --device cpu, which copies between the memories of the nodes"
    return "choose GPUs and nodes of this host: --gpu-ids '[0]' --numa-nodes '[0]', or all"


def _gpus(study: StudyDefinition, topology: Topology) -> list[int]:
    if not isinstance(study.gpu_ids, str):
        return list(study.gpu_ids)
    if study.settings.device == "cpu":
        return [0]
    if not topology.gpus:
        why = f" ({topology.nvml_error})" if topology.nvml_error else ""
        raise StudyError(f"gpu_ids is all, and this host has no GPU{why}", study.name, "set device: cpu")
    if not topology.visible_gpus:
        advice = "clear CUDA_VISIBLE_DEVICES, or set device: cpu"
        raise StudyError("gpu_ids is all, and CUDA_VISIBLE_DEVICES excludes every GPU", study.name, advice)
    return [gpu.index for gpu in topology.visible_gpus]


def _placements(study: StudyDefinition, topology: Topology) -> list[Placement]:
    if not isinstance(study.placements, str):
        return list(study.placements)
    nodes = [(node.id, node.id) for node in topology.nodes if node.kind is NodeKind.CPU_AND_MEMORY]
    if not nodes:
        raise StudyError("the nodes are all, and none has both CPUs and memory", study.name, "name placements")
    return nodes
