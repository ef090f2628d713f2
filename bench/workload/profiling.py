"""Named ranges and the profiler's capture, in traced runs only.

The names of ranges are a contract: test_double_buffer, and per batch test_batch_{i}, test_h2d_batch_{i},
test_compute_batch_{i}, test_d2h_batch_{i}; warm-up has the prefix warmup_.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from bench.records.run import Outcome
from bench.records.study import Cell
from bench.storage import MOST_NAME, process_identity, whole_file
from bench.workload.failures import RunFailure
from bench.workload.pipeline import Pipeline, Stage

WINDOW_PREFIX = "test_"
WARMUP_PREFIX = "warmup_"


class Ranges(Protocol):
    """Nested ranges of the calling thread."""

    def push(self, name: str) -> None: ...
    def pop(self) -> None: ...


class NvtxRanges:
    """NVTX from torch's CUDA build, else from the PyPI package nvtx (a CPU build of torch has no NVTX)."""

    def __init__(self) -> None:
        self.push, self.pop = nvtx_functions()


class RecordFunctionRanges:
    """User annotations of torch.profiler."""

    def __init__(self) -> None:
        from torch.profiler import record_function

        self._open: list[AbstractContextManager[Any]] = []
        self._record_function = record_function

    def push(self, name: str) -> None:
        annotation = self._record_function(name)
        annotation.__enter__()
        self._open.append(annotation)

    def pop(self) -> None:
        self._open.pop().__exit__(None, None, None)


def make_ranges(cell: Cell) -> Ranges:
    return RecordFunctionRanges() if cell.profiler == "torch" else NvtxRanges()


def nvtx_functions() -> tuple[Callable[[str], Any], Callable[[], Any]]:
    """Push and pop. Raise RunFailure (not_runnable) if no NVTX is installed."""
    import torch

    if hasattr(torch._C, "_nvtx"):
        return torch.cuda.nvtx.range_push, torch.cuda.nvtx.range_pop
    try:
        import nvtx
    except ImportError:
        raise RunFailure(
            Outcome.NOT_RUNNABLE,
            "profiler nsys on the cpu device needs the Python package nvtx",
            "pip install nvtx==0.2.10, or set profiler to torch",
        ) from None
    return nvtx.push_range, nvtx.pop_range


@contextmanager
def named(ranges: Ranges, name: str) -> Iterator[None]:
    ranges.push(name)
    try:
        yield
    finally:
        ranges.pop()


def annotated_step(pipeline: Pipeline, ranges: Ranges, prefix: str, count: int) -> Stage:
    """A step for the next `count` batches with their ranges, numbered from 0. The names are made here,
    outside the window. A direction that is not copied has no range."""
    first, stages = pipeline.next_batch, pipeline.single_stages()
    if not pipeline.copies.into:
        del stages["h2d"]
    if not pipeline.copies.back:
        del stages["d2h"]
    names = [
        (f"{prefix}batch_{index}", [(f"{prefix}{name}_batch_{index}", stage) for name, stage in stages.items()])
        for index in range(count)
    ]
    push, pop, ready, issued = ranges.push, ranges.pop, pipeline.ready, pipeline.issued

    def step(index: int, start: Any = None, end: Any = None) -> None:
        batch_name, parts = names[index - first]
        push(batch_name)
        ready(index)
        for name, stage in parts:
            push(name)
            stage(index, start, end)
            pop()
        issued(index)
        pop()

    return step


def make_capture(cell: Cell, trace: Path | None) -> AbstractContextManager[object]:
    """nsys on a GPU opens its capture range; nsys on the cpu device records the whole process; torch writes
    `trace`, a Chrome trace (.json or .json.gz)."""
    if cell.profiler == "torch":
        if trace is None:
            raise RunFailure(
                Outcome.CRASHED, "a traced run with profiler torch was given no --trace", "pass --trace FILE.json.gz"
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
    """The trace appears whole or not at all; a killed process leaves a temporary that is removed later (storage.py)."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if cell.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        yield
    prefix = f".{trace.name[:MOST_NAME]}.{process_identity()}."
    with whole_file(trace) as temporary, TemporaryDirectory(prefix=prefix, suffix=".part", dir=trace.parent) as folder:
        # In a folder, since the last suffix decides whether torch compresses it.
        exported = Path(folder, trace.name)
        profiler.export_chrome_trace(str(exported))
        exported.replace(temporary)
