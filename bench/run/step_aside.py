"""Keep the process that waits off the CPUs where the measured one runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bench.host.topology import Topology


@contextmanager
def step_aside(host: Topology, cpu_node: int, binding: str) -> Iterator[set[int]]:
    """Move this process to allowed CPUs outside cpu_node, if there are any; back at the end. Yields where it was."""
    before = os.sched_getaffinity(0)
    node = host.node(cpu_node) if binding != "none" else None
    elsewhere = before - set(node.cpus) if node else set()
    if elsewhere:
        os.sched_setaffinity(0, elsewhere)
    try:
        yield before
    finally:
        os.sched_setaffinity(0, before)
