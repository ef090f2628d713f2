"""The numbers of one run: from the file that the command wrote, or from its output."""

from dataclasses import dataclass
from pathlib import Path

from bench.records.command import Command
from bench.records.metric import Measured, Read
from bench.run.child import log_tail
from bench.run.metrics import NoMetric, match_metrics, read_metrics, wall_metric
from bench.storage import read_regular

LARGEST_BYTES = 1 << 20
# Those of vLLM may list every request.
_LARGEST_OF_VLLM = 64 << 20


@dataclass(frozen=True)
class Output:
    """What one start of a program writes to its logs, stdout and stderr, behind what earlier attempts wrote.

    begins: the sizes of the logs before it.
    """

    logs: tuple[Path, Path]
    begins: tuple[int, int]

    @classmethod
    def of(cls, logs: tuple[Path, Path], append: bool) -> "Output":
        stdout, stderr = (log.stat().st_size if append and log.exists() else 0 for log in logs)
        return cls(logs, (stdout, stderr))

    @property
    def stdout(self) -> str:
        return _text(self.logs[0], self.begins[0])

    @property
    def text(self) -> str:
        return "\n".join(map(_text, self.logs, self.begins))

    def tail(self) -> list[str]:
        """The last lines of stderr, or of stdout if that is empty."""
        return log_tail(self.logs[1], self.begins[1]) or log_tail(self.logs[0], self.begins[0])


def measured(command: Command, result: Path, output: Output, seconds: float | None) -> Measured:
    """What the command measured. result: the file that NUMASTUDY_RESULT named. Raise NoMetric."""
    if command.metrics:
        patterns = {name: (one.regex, one.unit, one.better) for name, one in command.metrics.items()}
        return match_metrics(output.text, patterns, command.primary)
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
    return read_metrics(command.read, output.stdout, command.primary)


def _result(path: Path, read: Read) -> str:
    most = _LARGEST_OF_VLLM if read is Read.VLLM else LARGEST_BYTES
    try:
        return read_regular(path, most).decode(errors="replace")
    except OSError as error:
        raise NoMetric(f"the result cannot be read: {error.strerror}") from None


def _text(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")
