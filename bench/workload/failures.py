"""Why a run ended without numbers: a named outcome, never a bare traceback."""

from bench.errors import StudyError

OOM = "oom"
NOT_RUNNABLE = "not_runnable"
CRASHED = "crashed"

LESS_MEMORY = "reduce batch_size or memory_size_mb"

# How torch words a failed allocation where it has no exception type of its own: pinned host memory
# (cudaHostAlloc), cuBLAS workspaces, the CPU allocator.
_OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    "can't allocate memory",
    "cannot allocate memory",
)


class RunFailure(StudyError):
    """A run that could not be measured; `status` is the outcome its record gets."""

    exit_code = 3

    def __init__(self, status: str, what: str, advice: str) -> None:
        super().__init__(what, "", advice)
        self.status = status

    def record(self) -> dict[str, str]:
        return {"status": self.status, "reason": self.what, "advice": self.advice}


def name_failure(error: BaseException) -> RunFailure:
    """The outcome of any exception that ended a run.

    torch is not imported for this: its out-of-memory exception is known by its name, since the failure may
    be that torch cannot be imported.
    """
    if isinstance(error, RunFailure):
        return error
    if isinstance(error, StudyError):
        where = f" ({error.where})" if error.where else ""
        return RunFailure(CRASHED, f"{error.what}{where}", error.advice or "see the log of the run")
    text = f"{type(error).__name__}: {first_line(error)}"
    if is_out_of_memory(error):
        return RunFailure(OOM, f"out of memory: {text}", LESS_MEMORY)
    return RunFailure(CRASHED, text, "see the end of the run's .stderr log")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS)


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else ""
