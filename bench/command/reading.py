"""The numbers of one run: from the file that the command wrote, or from its output."""

from pathlib import Path

from bench.records.command import Command
from bench.records.metric import Measured, Read
from bench.run.metrics import NoMetric, match_metrics, read_metrics, wall_metric
from bench.storage import read_regular

LARGEST_BYTES = 1 << 20
# Those of vLLM may list every request.
_LARGEST_OF_VLLM = 64 << 20


def measured(command: Command, result: Path, logs: tuple[Path, Path], seconds: float | None) -> Measured:
    """What the command measured. result: the file that NUMASTUDY_RESULT named. Raise NoMetric."""
    if command.metrics:
        patterns = {name: (one.regex, one.unit, one.better) for name, one in command.metrics.items()}
        return match_metrics("\n".join(map(_log, logs)), patterns, command.primary)
    if command.read is Read.WALL:
        if seconds is None:
            raise NoMetric("the time of the command is not known")
        return wall_metric(seconds)
    if result.is_symlink():
        raise NoMetric("the result is a symbolic link, not a file")
    if result.exists():
        return read_metrics(command.read, _result(result, command.read), command.primary)
    if command.read is Read.JSON:
        raise NoMetric("no result: nothing was written to NUMASTUDY_RESULT")
    return read_metrics(command.read, _log(logs[0]), command.primary)


def _result(path: Path, read: Read) -> str:
    most = _LARGEST_OF_VLLM if read is Read.VLLM else LARGEST_BYTES
    try:
        return read_regular(path, most).decode(errors="replace")
    except OSError as error:
        raise NoMetric(f"the result cannot be read: {error.strerror}") from None


def _log(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")
