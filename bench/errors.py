"""The errors that a user may see. Each says what happened, where, and what to do next."""


class StudyError(Exception):
    """A condition reported to the user by name; any other exception that escapes is a bug.

    what:   what happened, in one sentence.
    where:  the file, key path, run or command it happened in.
    advice: what to do next.
    """

    exit_code = 2

    def __init__(self, what: str, where: str = "", advice: str = "") -> None:
        super().__init__(what, where, advice)
        self.what = what
        self.where = where
        self.advice = advice

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.advice:
            lines.append(f"  to do: {self.advice}")
        return "\n".join(lines)


class Problems:
    """Errors that are collected, each from a block of its own, and raised together: `with problems: check()`."""

    def __init__(self) -> None:
        self._found: list[StudyError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, StudyError):
            self._found.append(error)
        return isinstance(error, StudyError)

    def raise_any(self) -> None:
        """Raise the only error as it is, several as one StudyError with a line each."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            lines = [": ".join(filter(None, (error.where, error.what))) for error in self._found]
            advice = dict.fromkeys(error.advice for error in self._found if error.advice)
            raise StudyError("\n  ".join([f"{len(lines)} errors", *lines]), advice="\n         ".join(advice))


class HostChanged(StudyError):
    """The host is another one than when the study began: its runs cannot be continued."""


class NotHere(StudyError):
    """This host cannot measure what a study was asked to compare. Nothing ran; the exit code is that of failed runs."""

    exit_code = 30


class TraceError(StudyError):
    """A trace that is missing, damaged, or without the expected data. The outcome is trace_failed."""

    def __init__(self, what: str, where: str = "", advice: str = "measure the cell again") -> None:
        super().__init__(what, where, advice)


class ProfilerError(TraceError):
    """The profiler could not be run, or wrote nothing that can be read."""
