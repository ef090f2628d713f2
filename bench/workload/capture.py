"""Starting and stopping the profiler around the window of a traced run."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.files import MOST_NAME, whole_file
from bench.owners import owner
from bench.workload.cell import Cell
from bench.workload.failures import CRASHED, RunFailure


def make_capture(cell: Cell, trace: Path | None) -> AbstractContextManager[object]:
    """nsys on a GPU opens its capture range; nsys on the cpu device records the whole process; torch writes
    `trace`, a Chrome trace (.json or .json.gz)."""
    if cell.profiler == "torch":
        if trace is None:
            raise RunFailure(
                CRASHED, "a traced run with profiler torch was given no --trace", "pass --trace FILE.json.gz"
            )
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
    """The trace appears whole, or not at all; what a killed process leaves is known as its own (bench/files.py)."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if cell.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        yield
    prefix = f".{trace.name[:MOST_NAME]}.{owner()}."
    with whole_file(trace) as temporary, TemporaryDirectory(prefix=prefix, suffix=".part", dir=trace.parent) as folder:
        # In a folder, since the last suffix decides whether torch compresses it.
        exported = Path(folder, trace.name)
        profiler.export_chrome_trace(str(exported))
        exported.replace(temporary)
