"""What records a traced run, behind one small interface; torch is imported by none of it.

A report is named by its path without an ending: the ending is the profiler's own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.errors import StudyError
from bench.host.nsys import find_nsys
from bench.trace.errors import ProfilerError


class Profiler(Protocol):
    name: str

    def trace_path(self, report: Path) -> Path:
        """Where the trace is once collected."""

    def command(self, argv: Sequence[str], report: Path, device: str) -> list[str]:
        """The command that runs argv traced. Removes what an earlier attempt left. Raise ProfilerError."""

    def settle(self, report: Path) -> None:
        """End what the profiler may have left running, however the run ended. Always to be called after it."""

    def collect(self, report: Path, exit_code: int, log: str) -> Path | None:
        """After the run: the trace; None if the run failed for reasons of its own. Raise ProfilerError."""

    def export(self, report: Path, sqlite: Path) -> None:
        """Write the SQLite export, whole or not at all. Raise TraceError."""

    def discard(self, report: Path) -> None:
        """Remove the trace and what belongs to it."""


def get_profiler(name: str) -> Profiler:
    from bench.trace.profilers.nsys import Nsys
    from bench.trace.profilers.torch import Torch

    profilers: dict[str, Profiler] = {"nsys": Nsys(), "torch": Torch()}
    if name not in profilers:
        raise ProfilerError(f"unknown profiler {name!r}", advice="profiler is one of auto, nsys, torch")
    return profilers[name]


def choose_profiler(setting: str, device: str) -> str:
    """`setting`, or what auto stands for here: on cuda nsys where it is installed, else torch.

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
