"""Time copies from chosen CPUs, in a process of its own: of 64 bytes to GPUs, or large ones between nodes.

The CUDA driver is called directly: there is no torch to load.

usage: python -m bench.host.timed_copies REQUEST      prints SmallCopies or NodeCopies; both are JSON
"""

import ctypes
import mmap
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.host.memory_calls import bind_memory
from bench.records.base import AtLeastOne, Count, Positive, Record, decode
from bench.records.host import CpuList, parse_cpulist

SMALL_COPY_BYTES = 64
WARM_COPIES = 20
NODE_COPY_BYTES = 64 << 20
NODE_COPIES = 7


class SmallCopyRequest(Record, frozen=True, kw_only=True, tag="small_copies"):
    """From every CPU to every GPU, per_cpu_s each. context_cpu: where the CUDA contexts are created."""

    bus_ids: tuple[str, ...]
    cpus: Annotated[tuple[Count, ...], Meta(min_length=1)]
    per_cpu_s: Positive
    scans: AtLeastOne
    context_cpu: Count
    seed: int


class SmallCopies(Record, frozen=True, kw_only=True):
    """scans: latency_us by PCI bus id and CPU. tick_us: the resolution of the clock."""

    scans: tuple[dict[str, dict[int, Positive]], ...]
    tick_us: Positive


class NodeCopyRequest(Record, frozen=True, kw_only=True, tag="node_copies"):
    """Between two buffers in the memory of a node, by these CPUs."""

    cpus: CpuList
    mem_node: Count


class Request(Record, frozen=True, kw_only=True):
    copies: SmallCopyRequest | NodeCopyRequest


class NodeCopies(Record, frozen=True, kw_only=True):
    """GB = 1e9 bytes."""

    copy_gb_s: Positive


class CudaError(RuntimeError):
    """A call of the CUDA driver failed; the message names the call and the error."""


class SmallCopy:
    """A context on one GPU, created on the CPU the caller is on, with a pinned host buffer and one on the GPU."""

    def __init__(self, cuda: ctypes.CDLL, pci_bus_id: str) -> None:
        self._cuda = cuda
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._stream, self._host, self._device = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
        call(cuda, "cuDeviceGetByPCIBusId", ctypes.byref(device), pci_bus_id.encode())
        call(cuda, "cuCtxCreate_v2", ctypes.byref(self._context), 0, device)
        call(cuda, "cuStreamCreate", ctypes.byref(self._stream), 1)
        call(cuda, "cuMemHostAlloc", ctypes.byref(self._host), ctypes.c_size_t(SMALL_COPY_BYTES), 0)
        call(cuda, "cuMemAlloc_v2", ctypes.byref(self._device), ctypes.c_size_t(SMALL_COPY_BYTES))

    def latency_us(self, duration_s: float) -> float:
        """The median time of a copy and its synchronisation. Raise CudaError: a call that fails is quick."""
        call(self._cuda, "cuCtxSetCurrent", self._context)
        copy, synchronise = self._cuda.cuMemcpyHtoDAsync_v2, self._cuda.cuStreamSynchronize
        arguments = (self._device, self._host, ctypes.c_size_t(SMALL_COPY_BYTES), self._stream)
        failed = 0
        for _ in range(WARM_COPIES):
            failed = copy(*arguments) or synchronise(self._stream) or failed
        clock: Callable[[], int] = time.perf_counter_ns
        times = []
        end = clock() + int(duration_s * 1e9)
        while (start := clock()) < end:
            failed = copy(*arguments) or synchronise(self._stream) or failed
            times.append(clock() - start)
        if failed:
            raise CudaError(f"cuMemcpyHtoDAsync: error {failed}")
        return statistics.median(times) / 1e3


def call(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Raise CudaError if the driver refuses."""
    if error := getattr(cuda, name)(*arguments):
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(error, ctypes.byref(text))
        raise CudaError(f"{name}: {(text.value or b'unknown error').decode()} ({error})")


def small_copies(request: SmallCopyRequest) -> SmallCopies:
    """Raise CudaError, or OSError where there is no CUDA driver."""
    os.sched_setaffinity(0, {request.context_cpu})
    cuda = ctypes.CDLL("libcuda.so.1")
    call(cuda, "cuInit", 0)
    copies = {bus_id: SmallCopy(cuda, bus_id) for bus_id in request.bus_ids}
    scans = tuple(
        scan(copies, request.cpus, request.per_cpu_s, request.seed + number) for number in range(request.scans)
    )
    return SmallCopies(scans=scans, tick_us=clock_tick_us())


def scan(
    copies: Mapping[str, SmallCopy], cpus: Sequence[int], per_cpu_s: float, seed: int
) -> dict[str, dict[int, float]]:
    """Every CPU to every GPU, CPUs in random order: latency_us by bus id and CPU."""
    latencies: dict[str, dict[int, float]] = {bus_id: {} for bus_id in copies}
    for cpu in random.Random(seed).sample(cpus, len(cpus)):
        os.sched_setaffinity(0, {cpu})
        for bus_id, copy in copies.items():
            latencies[bus_id][cpu] = copy.latency_us(per_cpu_s)
    return latencies


def clock_tick_us() -> float:
    """The smallest step that the clock was seen to make."""
    reads = [time.perf_counter_ns() for _ in range(1000)]
    steps = [b - a for a, b in pairwise(reads) if b > a]
    return min(steps, default=1) / 1e3


def node_copies(request: NodeCopyRequest) -> NodeCopies:
    """Raise OSError where the CPUs or the memory are refused."""
    os.sched_setaffinity(0, parse_cpulist(request.cpus))
    return NodeCopies(copy_gb_s=copy_gb_s(request.mem_node))


def copy_gb_s(mem_node: int, nbytes: int = NODE_COPY_BYTES) -> float:
    """The median of some copies between two buffers on a node, by the calling CPU. Raise OSError if refused."""
    buffers = [mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
    source, target = (ctypes.addressof(ctypes.c_char.from_buffer(buffer)) for buffer in buffers)
    for address in (source, target):
        bind_memory(address, nbytes, mem_node)
        ctypes.memset(address, 1, nbytes)
    times = []
    for _ in range(NODE_COPIES):
        start = time.perf_counter()
        ctypes.memmove(target, source, nbytes)
        times.append(time.perf_counter() - start)
    return nbytes / statistics.median(times) / 1e9


def main(raw: bytes) -> SmallCopies | NodeCopies:
    request = decode(raw, Request).copies
    return small_copies(request) if isinstance(request, SmallCopyRequest) else node_copies(request)


if __name__ == "__main__":
    try:
        print(msgspec.json.encode(main(sys.argv[1].encode())).decode())
    except (CudaError, OSError) as error:
        sys.exit(f"timed_copies: {error}")
