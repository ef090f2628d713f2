"""What records a traced run, behind one small interface. torch is not imported here.

A report is named by its path without an ending: the ending is the profiler's own.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from bench.errors import ProfilerError, StudyError
from bench.host.fingerprint import find_nsys
from bench.units import exact_seconds


class Profiler(Protocol):
    name: str

    def trace_path(self, report: Path) -> Path:
        """Where the trace is once collected."""

    def command(self, argv: Sequence[str], report: Path, device: str) -> list[str]:
        """The command that runs argv traced. Removes what an earlier attempt left. Raise ProfilerError."""

    def group_command(self, argv: Sequence[str], report: Path, reports: Sequence[Path], device: str) -> list[str]:
        """The same for a process that opens a capture for each of these reports. report: of the process."""

    def divide(self, report: Path, captured: Sequence[Path]) -> None:
        """After such a process: put the trace of each capture, in the order of the captures, under its own report."""

    def settle(self, report: Path) -> None:
        """End what the profiler may have left running, however the run ended. Always to be called after it."""

    def collect(self, report: Path, exit_code: int, log: str) -> Path | None:
        """After the run: the trace; None if the run failed for reasons of its own. Raise ProfilerError."""

    def export(self, report: Path, sqlite: Path) -> None:
        """Write the SQLite export, whole or not at all. Raise TraceError."""

    def discard(self, report: Path) -> None:
        """Remove the trace and what belongs to it."""


def get_profiler(name: str) -> Profiler:
    from bench.trace.nsys import Nsys

    profilers: dict[str, Profiler] = {"nsys": Nsys(), "torch": Torch()}
    if name not in profilers:
        raise ProfilerError(f"unknown profiler {name!r}", advice="profiler is one of auto, nsys, torch")
    return profilers[name]


def choose_profiler(setting: str, device: str) -> str:
    """`setting`, or the profiler that auto means here: on cuda nsys where it is installed, else torch.

    device: cuda or cpu. Raise StudyError for a profiler that would record nothing there.
    """
    if setting == "nsys" and device == "cpu":
        raise StudyError(
            "profiler nsys records what CUDA does, and on the cpu device (auto where there is no GPU) that is nothing",
            "profiler",
            "set profiler to auto, which is torch here",
        )
    if setting != "auto":
        return get_profiler(setting).name
    return "nsys" if device == "cuda" and find_nsys() else "torch"


# The profilers' own tools: bounded in time, no process left behind.


def run_tool(argv: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run to the end, with stderr in stdout. Raise ProfilerError if it cannot start or hangs."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ProfilerError(f"cannot run {argv[0]}: {error.strerror}", advice="install Nsight Systems again") from None
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise ProfilerError(
            f"{' '.join(argv[:2])} hung and was ended after {exact_seconds(timeout_s)}",
            advice="try again; else use profiler: torch",
        ) from None
    finally:
        # nsys starts daemons of its own: the group goes, also when this process is stopped.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(argv, process.returncode, output)


def last_line(output: str) -> str:
    """The last line of output; progress bars rewrite one line, so a carriage return ends a line too."""
    lines = [line.strip() for line in output.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


class Torch:
    """torch.profiler: the measured process itself writes a Chrome trace."""

    name = "torch"

    def trace_path(self, report: Path) -> Path:
        return report.parent / f"{report.name}.trace.json.gz"

    def command(self, argv: Sequence[str], report: Path, device: str) -> list[str]:
        self.discard(report)
        return [*argv, "--trace", str(self.trace_path(report))]

    def group_command(self, argv: Sequence[str], report: Path, reports: Sequence[Path], device: str) -> list[str]:
        for one in reports:
            self.discard(one)
        return [*argv, *(word for one in reports for word in ("--trace", str(self.trace_path(one))))]

    def divide(self, report: Path, captured: Sequence[Path]) -> None:
        """Each capture has written its own file."""

    def settle(self, report: Path) -> None:
        """It runs inside the measured process and ends with it."""

    def collect(self, report: Path, exit_code: int, log: str) -> Path | None:
        trace = self.trace_path(report)
        if exit_code != 0:
            return None
        if not trace.exists() or not trace.stat().st_size:
            raise ProfilerError(
                "the run went well and torch.profiler left no trace", str(trace), "see the run's log; measure it again"
            )
        return trace

    def export(self, report: Path, sqlite: Path) -> None:
        from bench.trace.torch_trace import convert

        convert(self.trace_path(report), sqlite)

    def discard(self, report: Path) -> None:
        self.trace_path(report).unlink(missing_ok=True)
