"""Copy bandwidth from the memory of each node, by CPUs of each node: what the cpu device has of locality.

usage: python -m bench.host.node_copy CPU_LIST MEMORY_NODE      prints GB/s (GB = 1e9 bytes)
"""

import ctypes
import mmap
import os
import statistics
import sys
import time

from bench.host.cpulist import parse_cpulist
from bench.host.memory_calls import bind_memory

BUFFER_BYTES = 64 << 20
COPIES = 7


def copy_gb_s(mem_node: int, nbytes: int = BUFFER_BYTES) -> float:
    """The median of some copies between two buffers on a node, by the CPU that calls. Raise OSError if refused."""
    buffers = [mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
    source, target = (ctypes.addressof(ctypes.c_char.from_buffer(buffer)) for buffer in buffers)
    for address in (source, target):
        bind_memory(address, nbytes, mem_node)
        ctypes.memset(address, 1, nbytes)
    times = []
    for _ in range(COPIES):
        start = time.perf_counter()
        ctypes.memmove(target, source, nbytes)
        times.append(time.perf_counter() - start)
    return nbytes / statistics.median(times) / 1e9


if __name__ == "__main__":
    os.sched_setaffinity(0, parse_cpulist(sys.argv[1]))
    print(copy_gb_s(int(sys.argv[2])))
