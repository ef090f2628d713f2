"""What a program in a cell reads and writes: the cell, and its result or the named outcome it ended with instead."""

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import StudyError
from bench.records.base import DamagedRecord, Kind, read
from bench.records.run import ChildReport, CrossedCell, Failure, Outcome, write_record

LESS_MEMORY = "reduce batch_size or memory_size_mb"

# What torch writes of a failed allocation where it has no exception type of its own: pinned host memory
# (cudaHostAlloc), cuBLAS workspaces, the CPU allocator.
_OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    "can't allocate memory",
    "cannot allocate memory",
)

# cudaErrorECCUncorrectable, and what the driver says of a GPU that no longer answers (NVML_ERROR_GPU_IS_LOST, Xid 79).
_GPU_LOST_TEXTS = ("uncorrectable ecc error", "gpu is lost", "fallen off the bus")


class RunFailure(StudyError):
    """A run that could not be measured; `status` is the outcome in its record.

    crossed: of a crossing of which no cell can be measured, why for each of them.
    """

    exit_code = 3

    def __init__(self, status: Outcome, what: str, advice: str, crossed: Sequence[CrossedCell] = ()) -> None:
        super().__init__(what, "", advice)
        self.status, self.crossed = status, [*crossed]

    def record(self) -> Failure:
        return Failure(status=self.status, reason=self.what, advice=self.advice)


def read_input(path: Path, kind: type[Kind]) -> Kind:
    """The cell or group that this process is asked to measure. Raise RunFailure (crashed) for any other file."""
    try:
        return read(path, kind)
    except (DamagedRecord, OSError) as error:
        what = f"the {kind.__name__.lower()} cannot be read: {error}"
        raise RunFailure(Outcome.CRASHED, what, "write it with all its keys, as in cells/") from None


def write_report(path: Path, measure: Callable[[], ChildReport]) -> int:
    """Write what measure() returns, or the outcome of what it raised. Return the exit code, 0 or 3."""
    try:
        write_record(path, measure())
    except Exception as error:
        failure = log_failure(error)
        write_record(path, ChildReport(failure=failure.record(), crossed=failure.crossed))
        print(failure, file=sys.stderr)
        return failure.exit_code
    return 0


def failure_of_side(error: Exception) -> RunFailure:
    """Why one side of a process cannot be measured, which the others survive. Raise `error` again of a failed GPU."""
    if is_gpu_lost(error):
        raise error
    return log_failure(error)


def log_failure(error: Exception) -> RunFailure:
    """Its outcome; in the log of the run all of it, where the record has one line."""
    failure = name_failure(error)
    if failure.status is Outcome.CRASHED and failure is not error:
        traceback.print_exception(error)
    return failure


def name_failure(error: BaseException) -> RunFailure:
    """The outcome of any exception that ended a run.

    torch is not imported for this, since the failure may be that it cannot be: its out-of-memory exception is
    recognised by its name.
    """
    if isinstance(error, RunFailure):
        return error
    if isinstance(error, StudyError):
        where = f" ({error.where})" if error.where else ""
        return RunFailure(Outcome.CRASHED, f"{error.what}{where}", error.advice or "see the log of the run")
    text = f"{type(error).__name__}: {first_line(error)}"
    if is_gpu_lost(error):
        advice = "see the Xid in the kernel's log (dmesg); reset or replace the GPU, then start the study again"
        return RunFailure(Outcome.GPU_LOST, f"the GPU failed: {text}", advice)
    if is_out_of_memory(error):
        return RunFailure(Outcome.OOM, f"out of memory: {text}", LESS_MEMORY)
    return RunFailure(Outcome.CRASHED, text, "see the end of the run's .stderr log")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS)


def is_gpu_lost(error: BaseException) -> bool:
    """A fault of the device that no other run on it can be expected to survive."""
    return any(text in str(error).lower() for text in _GPU_LOST_TEXTS)


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else ""
