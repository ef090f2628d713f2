"""Which runs are compared with which."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bench.legacy.statistics import UNKNOWN, Comparison
from bench.legacy.verdicts import LAUNCH_BOUND, REST

# --- pairs
# From the cells of results.json to comparisons: which runs stand against which.

Record = dict[str, Any]
# What tells a reader which configuration a comparison is about.
TOLD_SETTINGS = (
    *("batch_size", "image_size", "dtype", "compile_model", "cuda_graph", "buffers", "device", "memory_size_mb"),
    *("host_memory", "copy_granularity", "direction", "preprocess_queue", "preprocess_node"),
    *("concurrent_gpus", "concurrent_load", "concurrent_placement"),
)


def runs_by_block(cell: Record) -> dict[int, Record]:
    """The timed ok runs of a cell by block. Of a block measured again the last one counts."""
    runs = [
        run
        for run in cell["runs"]
        if run["repeat"] != "traced" and run["status"] == "ok" and run.get("throughput_samples_s")
    ]
    runs.sort(key=lambda run: run.get("position") or 0)
    return {_block(run): run for run in runs}


def comparison(label: str, local: Record, remote: Record) -> tuple[Comparison, int]:
    """The pairs of two cells, and how many were set aside because one of the two runs was disturbed.

    Whether a run was disturbed comes from its monitor, never from its throughput. Where fewer than two
    undisturbed pairs are left all are used: the report marks them anyway.
    """
    sides = runs_by_block(local), runs_by_block(remote)
    blocks = sides[0].keys() & sides[1].keys()
    calm = {block for block in blocks if not any(side[block].get("disturbed") for side in sides)}
    if len(calm) < 2:
        calm = set(blocks)
    throughputs = [
        {block: float(side[block]["throughput_samples_s"]) for block in sorted(calm)} for side in sides
    ]
    return Comparison(label, class_of(local, remote), *throughputs), len(blocks) - len(calm)


def class_of(*cells: Record) -> str:
    """Of a comparison: that of its noisier cell."""
    known = {cell.get("noise_class") for cell in cells}
    return next((name for name in (LAUNCH_BOUND, UNKNOWN) if name in known), REST)


def identity(cell: Record, ignore: Iterable[str] = ()) -> tuple[str, ...]:
    """What must be equal for two cells to differ only in node (and in the settings to ignore)."""
    settings = {key: value for key, value in cell["settings"].items() if key not in set(ignore)}
    return (repr(cell["gpu"]), repr(sorted(cell["model"].items())), repr(sorted(settings.items())))


def occurrences(cells: Iterable[Record], key: Any) -> list[tuple[Record, Any]]:
    """Each cell with (its key, how many came before it with that key): a model listed twice counts twice."""
    seen: dict[Any, int] = {}
    numbered = []
    for cell in cells:
        name = key(cell)
        seen[name] = seen.get(name, -1) + 1
        numbered.append((cell, (name, seen[name])))
    return numbered


def told_settings(cell: Record) -> Record:
    return {key: cell["settings"][key] for key in TOLD_SETTINGS if key in cell["settings"]}


def throughputs(cell: Record) -> Mapping[int, float]:
    """By block; disturbed runs are left out unless that leaves fewer than two."""
    runs = runs_by_block(cell)
    chosen = counted(list(runs.items()), lambda one: bool(one[1].get("disturbed")))
    return {block: float(run["throughput_samples_s"]) for block, run in chosen}


def counted(runs: list[Any], was_disturbed: Callable[[Any], bool]) -> list[Any]:
    """Those that count in the figures of a cell: without the disturbed ones, unless that leaves fewer than two."""
    calm = [run for run in runs if not was_disturbed(run)]
    return calm if len(calm) > 1 else runs


def _block(run: Record) -> int:
    return int(run["block"] if run.get("block") is not None else run["repeat"])


# --- local
# Which node a penalty is counted from, and how that is known.

REPORTED, MEASURED, REFERENCE = "reported", "measured", "reference"
Record = dict[str, Any]


@dataclass(frozen=True)
class Local:
    """source: reported by the topology; measured (fastest beyond chance); reference (neither: lowest)."""

    node: int
    source: str


def local_nodes(cells: Sequence[Record], topology: Record) -> dict[int | None, Local]:
    """The local node of each GPU that has cells on it.

    A node that the topology reports but no cell of the GPU ran on is of no use as a reference: then it is
    the lowest node measured. topology: topology.json, of which gpus[].index and .node are read, and
    .measured_node, the nearest by small-copy latency, where a probe found one.
    """
    gpus = topology.get("gpus") or []
    reported = {gpu["index"]: gpu.get("node") for gpu in gpus}
    probed = {gpu["index"]: gpu.get("measured_node") for gpu in gpus}
    found: dict[int | None, Local] = {}
    for gpu in dict.fromkeys(cell["gpu"] for cell in cells):
        own = [cell for cell in cells if cell["gpu"] == gpu and cell["cpu_node"] == cell["mem_node"]]
        nodes = sorted({cell["mem_node"] for cell in own})
        on_gpu = any(cell["settings"].get("device") != "cpu" for cell in own)
        if not nodes:
            continue
        if on_gpu and reported.get(gpu) in nodes:
            found[gpu] = Local(reported[gpu], REPORTED)
        elif on_gpu and probed.get(gpu) in nodes:
            found[gpu] = Local(probed[gpu], MEASURED)
        elif (fastest := fastest_node(own)) is not None:
            found[gpu] = Local(fastest, MEASURED)
        else:
            found[gpu] = Local(nodes[0], REFERENCE)
    return found


def fastest_node(cells: Sequence[Record], alpha: float = 0.01) -> int | None:
    """The node that beats every other one beyond chance over all models together, or None.

    A node chosen because it came out fastest would make a penalty out of luck: hence the strict alpha, shared
    among the nodes, each of which could have come out fastest (Bonferroni). Launch-bound cells, being noise, have a
    say only where all are.
    """
    quiet = [cell for cell in cells if cell.get("noise_class") != LAUNCH_BOUND] or list(cells)
    nodes = sorted({cell["mem_node"] for cell in quiet})
    if len(nodes) < 2:
        return None
    rows = _block_means(quiet, nodes)
    if len(rows) < 3:
        return None
    best = int(np.argmax(rows.mean(axis=0)))
    for other in range(len(nodes)):
        if other == best:
            continue
        difference = rows[:, best] - rows[:, other]
        if difference.std() == 0:
            p = 0.0 if difference.mean() > 0 else 1.0
        else:
            p = float(stats.ttest_1samp(difference, 0, alternative="greater").pvalue)
        if p > alpha / len(nodes):
            return None
    return nodes[best]


def _block_means(cells: Sequence[Record], nodes: list[int]) -> np.ndarray:
    """Mean log throughput over models, blocks x nodes; of models and blocks that every node has."""
    by_key: dict[Any, dict[int, dict[int, float]]] = {}
    for cell, (key, again) in occurrences(cells, lambda cell: (identity(cell), cell["mem_node"])):
        by_key.setdefault((key[0], again), {})[key[1]] = dict(throughputs(cell))
    complete = [runs for runs in by_key.values() if set(runs) == set(nodes)]
    if not complete:
        return np.empty((0, len(nodes)))
    blocks = set.intersection(*(set(runs[node]) for runs in complete for node in nodes))
    return np.array(
        [
            [np.mean([np.log(runs[node][block]) for runs in complete]) for node in nodes]
            for block in sorted(blocks)
        ]
    ).reshape(-1, len(nodes))
