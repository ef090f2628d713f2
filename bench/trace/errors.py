"""What can be wrong with a trace."""

from bench.errors import StudyError


class TraceError(StudyError):
    """A trace that is missing, damaged, or without the expected data. The outcome is trace_failed."""

    def __init__(self, what: str, where: str = "", advice: str = "measure the cell again") -> None:
        super().__init__(what, where, advice)


class ProfilerError(TraceError):
    """The profiler could not be run, or left nothing that can be read."""
