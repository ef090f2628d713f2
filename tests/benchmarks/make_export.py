"""Make a synthetic export of any size, schema of nsys 2025.3: python make_export.py OUT.sqlite [ACTIVITIES] [SEED].

A double-buffered eager run: per batch one H2D copy, 142 kernels, one D2H copy, each with its API call, and for every
third of them another call (cudaStreamIsCapturing, as torch makes them). With a seed, rows lie in random order.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.trace.export import ENUMS, TABLES, global_tid, write_export

PID, TID = 4242, 4243
THREAD, PROCESS = global_tid(PID, TID), global_tid(PID, 0)
PER_BATCH = 144
STEP_NS = 3000

# All columns of the version, so that a row is as long as a real one.
KERNEL = (
    "start", "end", "deviceId", "contextId", "greenContextId", "streamId", "correlationId", "globalPid",
    "demangledName", "shortName", "mangledName", "launchType", "cacheConfig", "registersPerThread", "gridX", "gridY",
    "gridZ", "blockX", "blockY", "blockZ", "staticSharedMemory", "dynamicSharedMemory", "localMemoryPerThread",
    "localMemoryTotal", "gridId", "sharedMemoryExecuted", "graphNodeId", "sharedMemoryLimitConfig",
)  # fmt: skip


def make_export(path: Path | str, activities: int, seed: int | None = None) -> None:
    """`activities` is rounded to whole batches of 144."""
    batches = max(1, round(activities / PER_BATCH))
    columns = TABLES | {"CUPTI_ACTIVITY_KIND_KERNEL": KERNEL}
    write_export(
        path,
        {
            "NVTX_EVENTS": list(_ranges(batches)),
            "CUPTI_ACTIVITY_KIND_RUNTIME": _ordered(_calls(batches), seed),
            "CUPTI_ACTIVITY_KIND_MEMCPY": _ordered(_copies(batches), seed),
            "CUPTI_ACTIVITY_KIND_KERNEL": _ordered(_kernels(batches), seed),
            "StringIds": [
                (1, "cudaLaunchKernel_v7000"),
                (2, "cudaMemcpyAsync_v3020"),
                (3, "cudaStreamIsCapturing_v10000"),
            ]
            + [(number, f"kernel_{number}") for number in range(10, 30)],
            "TARGET_INFO_GPU": [(0, "Synthetic GPU", "0000:00:06.0", "0d9bd60f-0000-0000-0000-000000000000")],
            **ENUMS,
        },
        columns,
    )


def _ordered(rows, seed):
    if seed is None:
        return rows
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows


def _begin(batch: int) -> int:
    return 10_000_000_000 + batch * PER_BATCH * STEP_NS


def _ranges(batches: int) -> Iterator[tuple]:
    yield (_begin(0) - 10, _begin(batches), 59, "test_double_buffer", THREAD, None)
    for batch in range(batches):
        start, end = _begin(batch) - 5, _begin(batch + 1) - 10
        yield (start, end, 59, f"test_batch_{batch}", THREAD, None)
        for place, stage in enumerate(("h2d", "compute", "d2h")):
            yield (start + place + 1, end - 3 + place, 59, f"test_{stage}_batch_{batch}", THREAD, None)


def _calls(batches: int) -> Iterator[tuple]:
    for batch in range(batches):
        for number in range(PER_BATCH):
            at, correlation = _begin(batch) + number * STEP_NS, (batch * PER_BATCH + number) * 2 + 100
            name = 2 if number in (0, PER_BATCH - 1) else 1
            yield (at, at + 2100, 0, THREAD, correlation, name, 0)
            if number % 3 == 0:
                yield (at + 2200, at + 2300, 0, THREAD, correlation + 1, 3, 0)


def _copies(batches: int) -> Iterator[tuple]:
    for batch in range(batches):
        for number, kind, size, stream in ((0, 1, 6_021_120, 13), (PER_BATCH - 1, 2, 256_000, 21)):
            start, correlation = _begin(batch) + number * STEP_NS + 4000, (batch * PER_BATCH + number) * 2 + 100
            ends = (1, 2) if kind == 1 else (2, 1)
            yield (start, start + size // 50 + batch % 500, 0, 1, stream, correlation, PROCESS, size, kind, *ends)


def _kernels(batches: int) -> Iterator[tuple]:
    for batch in range(batches):
        for number in range(1, PER_BATCH - 1):
            start, correlation = _begin(batch) + number * STEP_NS + 4000, (batch * PER_BATCH + number) * 2 + 100
            name = 10 + number % 20
            yield (
                start, start + 1900 + (batch * number) % 700, 0, 1, None, 17, correlation, PROCESS, name, name, name,
                1, 4, 78, 980, 16, 1, 128, 1, 1, 0, 7040, 0, 250871808, batch, 32768, None, 0,
            )  # fmt: skip


if __name__ == "__main__":
    make_export(
        sys.argv[1],
        int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000,
        int(sys.argv[3]) if len(sys.argv) > 3 else None,
    )
