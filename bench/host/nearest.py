"""Which nodes are near a GPU: latencies of small copies from CPUs of each node, with a CUDA context born on each node.

What a copy takes depends on the distance of its CPU from the GPU, and on that from the memory of the context, which
lies where the context was created. A node is near only if it is so wherever that was.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Scan = Mapping[int, float]
NEARER_BY = 0.03
# Of naming a node that is not near, for all GPUs of a host together.
LEVEL = 0.01


def near_nodes(births: Sequence[Sequence[Scan]], cpus_of: Mapping[int, Sequence[int]], gpus: int) -> tuple[int, ...]:
    """The smallest set of nodes that are nearer than all others, the nearest first; () if no node is nearer.

    births: the scans (latency_us by CPU) with the context on one node, for each node. cpus_of: by node. gpus: that are
    probed, among which the level is shared. One is nearer than another if the median of its CPUs is lower with each
    birth, by NEARER_BY over all of them, and a rank test over CPUs agrees (Mann and Whitney, Ann. Math. Statist. 18
    (1947) 50). A CPU's value is the mean over births of its lowest latency: a third of single scans of a CPU is 15 %
    slower for no reason that lasts.
    """
    lowest = {
        node: np.log([[min(scan[cpu] for scan in scans) for cpu in cpus] for scans in births])
        for node, cpus in cpus_of.items()
    }
    of_cpus = {node: values.mean(axis=0) for node, values in lowest.items()}
    level = {node: float(np.median(values)) for node, values in of_cpus.items()}

    # It takes half a second to import, and reports import this module too.
    from scipy.stats import mannwhitneyu

    def is_nearer(node: int, other: int) -> bool:
        if level[other] - level[node] < np.log1p(NEARER_BY):
            return False
        if not (_medians(lowest[node]) < _medians(lowest[other])).all():
            return False
        test = mannwhitneyu(of_cpus[node], of_cpus[other], alternative="less")
        return bool(test.pvalue <= LEVEL / gpus)

    order = sorted(level, key=level.__getitem__)
    for size in range(1, len(order)):
        near, far = order[:size], order[size:]
        if all(is_nearer(node, other) for node in near for other in far):
            return tuple(near)
    return ()


def latency_us(births: Sequence[Sequence[Scan]], cpus: Sequence[int]) -> float:
    """The median over births and CPUs of the lowest latency."""
    return float(np.median([min(scan[cpu] for scan in scans) for scans in births for cpu in cpus]))


def _medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each birth."""
    medians: NDArray[np.float64] = np.median(values, axis=1)
    return medians
