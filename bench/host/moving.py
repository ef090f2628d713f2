"""Moving this whole process to other CPUs while it runs."""

import os
from collections.abc import Collection

from bench.records.host import parse_cpulist
from bench.records.study import Cell

# Every look finds only threads that were started since the one before.
MOST_LOOKS = 20


def move_threads(cpus: Collection[int]) -> int:
    """Let every thread of this process run on `cpus` and nowhere else; return how many had to be moved.

    A thread inherits the CPUs of the one that starts it, so this looks until no thread may run elsewhere.
    Raise OSError where it is forbidden, or where new threads keep coming.
    """
    wanted, moved = set(cpus), 0
    for _ in range(MOST_LOOKS):
        elsewhere = 0
        for thread in map(int, os.listdir("/proc/self/task")):
            try:
                if os.sched_getaffinity(thread) != wanted:
                    os.sched_setaffinity(thread, wanted)
                    elsewhere += 1
            except ProcessLookupError:  # it ended in between
                continue
        if not elsewhere:
            return moved
        moved += elsewhere
    raise OSError(f"threads that may run outside CPUs {sorted(wanted)} keep coming")


def cell_cpus(cell: Cell) -> frozenset[int]:
    """Of its group of CPUs, or of its node. Raise OSError where there is no such node."""
    return frozenset(parse_cpulist(cell.cpus)) if cell.cpus else node_cpus(cell.cpu_node)


def node_cpus(node: int) -> frozenset[int]:
    """Raise OSError where there is no such node."""
    with open(f"/sys/devices/system/node/node{node}/cpulist") as file:
        return frozenset(parse_cpulist(file.read().strip()))
