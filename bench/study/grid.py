"""A study on a host: which cells there are, and which of them cannot run here."""

import json
from functools import cache

from bench.errors import StudyError
from bench.host.peers import why_no_peers
from bench.host.runnable import why_not_runnable
from bench.host.topology import Topology
from bench.study.axes import Combination, combinations, idle_excludes, named
from bench.study.cell import CELL_SETTINGS, Cell
from bench.study.constraints import Settings, contradiction
from bench.study.load import Study
from bench.study.settings import Placement


def expand(study: Study, topology: Topology) -> list[Cell]:
    """GPU x placement x model x axes, in the order of the study. `device`, `profiler`, `binding` must be resolved.

    Raise StudyError if an axis is empty on this host or no cell at all can run.
    """
    base = {key: study.settings[key] for key in CELL_SETTINGS}
    device = base["device"]

    @cache
    def why_not(gpu: int, cpu_node: int, mem_node: int) -> str | None:
        return why_not_runnable(topology, gpu, cpu_node, mem_node, device)

    def reason(gpu: int, cpu_node: int, mem_node: int, settings: Settings) -> str | None:
        yet = why_not(gpu, cpu_node, mem_node)
        if not yet and settings["preprocess_queue"] and settings["preprocess_node"] >= 0:
            yet = why_not(gpu, settings["preprocess_node"], mem_node)
        if not yet and settings["concurrent_gpus"] > 1:
            busy, placement = settings["concurrent_gpus"] - 1, settings["concurrent_placement"]
            yet = why_no_peers(topology, gpu, busy, placement, device)
        return yet

    found = combinations(
        _gpus(study, topology), _placements(study, topology), study.models, study.axes, base, study.name
    )
    cells = []
    for one, name, group in named(found, base):
        gpu, (cpu_node, mem_node), settings = one.gpu, one.placement, base | one.settings
        # A device of auto has become this host's: what cannot go together on it is no fault of the study.
        why = contradiction(one.model, settings, study.axes.varied)
        known = topology.gpu(gpu) if device == "cuda" else None
        cells.append(
            Cell(
                name=name,
                gpu=gpu,
                gpu_uuid=known.uuid if known else None,
                cpu_node=cpu_node,
                mem_node=mem_node,
                model=one.model,
                group=group,
                reason=why.what if why else reason(gpu, cpu_node, mem_node, settings) or "",
                **settings,
            )
        )
    if all(cell.reason for cell in cells):
        raise StudyError(
            f"no cell of {study.name} can run on this host: {cells[0].reason}",
            f"the first of {len(cells)} cells, {cells[0].name}",
            _what_would_run(found[0], base, study, topology),
        )
    return cells


def idle_entries(study: Study, topology: Topology) -> list[str]:
    """What a reader should know of the entries of exclude that drop nothing, one line each.

    Raise StudyError as expand does.
    """
    if not study.axes.exclude:
        return []
    base = {key: study.settings[key] for key in CELL_SETTINGS}
    places = _gpus(study, topology), _placements(study, topology)
    said = [_as_written(entry) for entry in study.axes.as_json()["exclude"]]
    return [
        f"exclude[{index}] drops nothing: {json.dumps(said[index])}"
        for index in idle_excludes(*places, study.models, study.axes, base)
    ]


def _as_written(entry: Settings) -> Settings:
    """Of nodes with CPUs and memory on them only their numbers."""
    places = entry.get("placements") or [[0, 1]]
    if any(cpu_node != mem_node for cpu_node, mem_node in places):
        return entry
    nodes = {"numa_nodes": [mem_node for _, mem_node in places]}
    return {key: value for key, value in entry.items() if key != "placements"} | nodes


def _what_would_run(first: Combination, base: Settings, study: Study, topology: Topology) -> str:
    """The advice where no cell can run, after the reason of the first one."""
    if why := contradiction(first.model, base | first.settings, study.axes.varied):
        return why.advice
    if base["device"] == "cuda" and not topology.gpus:
        return "without a GPU: --device cpu, which copies between the memories of the nodes"
    return "choose GPUs and nodes that are here: --gpu-ids '[0]' --numa-nodes '[0]', or all"


def _gpus(study: Study, topology: Topology) -> list[int]:
    if not isinstance(study.gpu_ids, str):
        return list(study.gpu_ids)
    if study.settings["device"] == "cpu":
        return [0]
    if not topology.gpus:
        why = f" ({topology.nvml_error})" if topology.nvml_error else ""
        raise StudyError(f"gpu_ids is all, and this host has no GPU{why}", study.name, "set device: cpu")
    return [gpu.index for gpu in topology.gpus]


def _placements(study: Study, topology: Topology) -> list[Placement]:
    if not isinstance(study.placements, str):
        return list(study.placements)
    found = [(node.id, node.id) for node in topology.nodes if node.kind == "cpu+memory"]
    if not found:
        raise StudyError("the nodes are all, and none has both CPUs and memory", study.name, "name placements")
    return found
