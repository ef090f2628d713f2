"""Run a profiler's own tools: bounded in time, nothing left behind."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from bench.trace.errors import ProfilerError


@dataclass(frozen=True)
class Finished:
    exit_code: int
    output: str


def run_tool(argv: Sequence[str], timeout_s: float) -> Finished:
    """Run to the end; output is stdout and stderr together. Raise ProfilerError if it cannot start or hangs."""
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
            f"{' '.join(argv[:2])} hung and was ended after {timeout_s:g} s",
            advice="try again; else use profiler: torch",
        ) from None
    finally:
        # nsys starts daemons of its own: the group goes, also when this process is told to stop.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Finished(process.returncode, output)


def last_line(output: str) -> str:
    """What a tool said last; progress bars rewrite one line, so a carriage return ends a line too."""
    lines = [line.strip() for line in output.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
