"""A study on a host: which cells there are, and which of them cannot run here."""

from collections import Counter

from bench.errors import StudyError
from bench.host.runnable import why_not_runnable
from bench.host.topology import Topology
from bench.study.cell import Cell, cell_name
from bench.study.model import Model
from bench.study.study import Study

# These belong to the study as a whole, not to a cell.
_STUDY_SETTINGS = ("repeats", "disturbed_repeats", "target_precision", "max_repeats", "margin", "retention")


def expand(study: Study, topology: Topology) -> list[Cell]:
    """GPU x placement x model, in the order of the study. `device`, `profiler`, `binding` must be resolved.

    Raise StudyError if an axis is empty on this host or no cell at all can run.
    """
    settings = {key: value for key, value in study.settings.items() if key not in _STUDY_SETTINGS}
    cells = []
    for gpu in _gpus(study, topology):
        known = topology.gpu(gpu) if settings["device"] == "cuda" else None
        for cpu_node, mem_node in _placements(study, topology):
            for model, suffixes in _with_suffixes(study.models):
                cells.append(
                    Cell(
                        name=cell_name(gpu, cpu_node, mem_node, model, suffixes),
                        gpu=gpu,
                        gpu_uuid=known.uuid if known else None,
                        cpu_node=cpu_node,
                        mem_node=mem_node,
                        model=model,
                        reason=why_not_runnable(topology, gpu, cpu_node, mem_node, settings["device"]) or "",
                        **settings,
                    )
                )
    if all(cell.reason for cell in cells):
        raise StudyError(
            f"no cell of {study.name} can run on this host: {cells[0].reason}",
            f"the first of {len(cells)} cells, {cells[0].name}",
            "choose GPUs and nodes that are here: --gpu-ids '[0]' --numa-nodes '[0]', or all",
        )
    return cells


def _gpus(study: Study, topology: Topology) -> list[int]:
    if not isinstance(study.gpu_ids, str):
        return list(study.gpu_ids)
    if study.settings["device"] == "cpu":
        return [0]
    return [gpu.index for gpu in topology.gpus]


def _placements(study: Study, topology: Topology) -> list[tuple[int, int]]:
    if not isinstance(study.placements, str):
        return list(study.placements)
    return [(node.id, node.id) for node in topology.nodes if node.kind == "cpu+memory"]


def _with_suffixes(models: tuple[Model, ...]) -> list[tuple[Model, tuple[str, ...]]]:
    """Tell models of one name apart: by their heads, and `_again` for the same model listed twice (an A/A check)."""
    first_heads: dict[str, int] = {}
    seen: Counter[Model] = Counter()
    named = []
    for model in models:
        suffixes = []
        if first_heads.setdefault(model.name, model.heads) != model.heads:
            suffixes.append(f"heads{model.heads}")
        seen[model] += 1
        if seen[model] > 1:
            suffixes.append("again" if seen[model] == 2 else f"again{seen[model] - 1}")
        named.append((model, tuple(suffixes)))
    return named
