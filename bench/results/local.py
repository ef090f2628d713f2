"""Which node a penalty is counted from, and how that is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bench.results.pairs import identity, occurrences, throughputs
from bench.results.verdicts import LAUNCH_BOUND

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
