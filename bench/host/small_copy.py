"""Time 64-byte copies to a GPU from chosen CPUs, through the CUDA driver itself: no torch to load.

usage: python -m bench.host.small_copy REQUEST_JSON      prints {"scans": [{bus id: {cpu: latency_us}}], "tick_us"}
"""

import ctypes
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise

COPY_BYTES = 64
WARM_COPIES = 20


class CudaError(RuntimeError):
    """A call of the CUDA driver failed; the message names the call and the error."""


class SmallCopy:
    """A context on one GPU, created on the CPU the caller is on, with 64 bytes pinned here and 64 there."""

    def __init__(self, cuda: ctypes.CDLL, pci_bus_id: str) -> None:
        self._cuda = cuda
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._stream, self._host, self._device = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
        call(cuda, "cuDeviceGetByPCIBusId", ctypes.byref(device), pci_bus_id.encode())
        call(cuda, "cuCtxCreate_v2", ctypes.byref(self._context), 0, device)
        call(cuda, "cuStreamCreate", ctypes.byref(self._stream), 1)
        call(cuda, "cuMemHostAlloc", ctypes.byref(self._host), ctypes.c_size_t(COPY_BYTES), 0)
        call(cuda, "cuMemAlloc_v2", ctypes.byref(self._device), ctypes.c_size_t(COPY_BYTES))

    def latency_us(self, duration_s: float) -> float:
        """The median time of a copy and its synchronisation. Raise CudaError: a call that fails is quick."""
        call(self._cuda, "cuCtxSetCurrent", self._context)
        copy, synchronise = self._cuda.cuMemcpyHtoDAsync_v2, self._cuda.cuStreamSynchronize
        arguments = (self._device, self._host, ctypes.c_size_t(COPY_BYTES), self._stream)
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


def scan(copies: dict[str, SmallCopy], cpus: list[int], per_cpu_s: float, seed: int) -> dict[str, dict[str, float]]:
    """Every CPU to every GPU, CPUs in random order: latency_us by bus id and CPU."""
    found: dict[str, dict[str, float]] = {bus_id: {} for bus_id in copies}
    for cpu in random.Random(seed).sample(cpus, len(cpus)):
        os.sched_setaffinity(0, {cpu})
        for bus_id, copy in copies.items():
            found[bus_id][str(cpu)] = copy.latency_us(per_cpu_s)
    return found


def clock_tick_us() -> float:
    """The smallest step that the clock was seen to make."""
    reads = [time.perf_counter_ns() for _ in range(1000)]
    steps = [b - a for a, b in pairwise(reads) if b > a]
    return min(steps, default=1) / 1e3


def call(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    if error := getattr(cuda, name)(*arguments):
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(error, ctypes.byref(text))
        raise CudaError(f"{name}: {(text.value or b'unknown error').decode()} ({error})")


def main(request: dict) -> dict:
    """request: bus_ids, cpus, per_cpu_s, scans, context_cpu, seed."""
    os.sched_setaffinity(0, {request["context_cpu"]})
    cuda = ctypes.CDLL("libcuda.so.1")
    call(cuda, "cuInit", 0)
    copies = {bus_id: SmallCopy(cuda, bus_id) for bus_id in request["bus_ids"]}
    scans = [
        scan(copies, request["cpus"], request["per_cpu_s"], request["seed"] + number)
        for number in range(request["scans"])
    ]
    return {"scans": scans, "tick_us": clock_tick_us()}


if __name__ == "__main__":
    try:
        print(json.dumps(main(json.loads(sys.argv[1]))))
    except (CudaError, OSError) as error:
        sys.exit(f"small_copy: {error}")
