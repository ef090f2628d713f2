"""Starting and stopping the profiler around the window of a traced run."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from bench.workload.cell import Cell
from bench.workload.failures import CRASHED, RunFailure


def make_capture(cell: Cell, trace: Path | None) -> AbstractContextManager[object]:
    """nsys on a GPU opens its capture range; nsys on the cpu device records the whole process; torch writes
    `trace`, a Chrome trace (.json or .json.gz)."""
    if cell.profiler == "torch":
        if trace is None:
            raise RunFailure(CRASHED, "a traced run with profiler torch was given no --trace",
                             "pass --trace FILE.json.gz")
        return torch_profile(cell, trace)
    return cuda_profiler_range() if cell.device == "cuda" else nullcontext()


@contextmanager
def cuda_profiler_range() -> Iterator[None]:
    import torch

    torch.cuda.profiler.start()
    try:
        yield
    finally:
        torch.cuda.profiler.stop()


@contextmanager
def torch_profile(cell: Cell, trace: Path) -> Iterator[None]:
    """The trace appears whole, or not at all."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if cell.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        yield
    trace.parent.mkdir(parents=True, exist_ok=True)
    # The last suffix decides whether torch compresses it.
    temporary = trace.with_name(f".{os.getpid()}.{trace.name}")
    try:
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(trace)
    finally:
        temporary.unlink(missing_ok=True)
