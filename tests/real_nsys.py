"""The real nsys, one test at a time on this machine.

All its processes share a table in /dev/shm, and one that is killed can take the agent of another along: "End of file",
seen in 1 of 90 runs beside one that was killed every second, and in none of 175 without.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.trace.nsys import Nsys
from bench.trace.profilers import Profiler

LOCK = Path(tempfile.gettempdir()) / "numastudy-tests-nsys.lock"
ATTEMPTS = 3  # chance has a part in nsys, as RunPipeline's two attempts know


@contextmanager
def alone() -> Iterator[None]:
    """Until no other test on this machine uses nsys."""
    # The descriptor is closed on exec: what a test leaves behind does not hold the lock.
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def traced(report: Path, program: str, exit_code: int = 0, nsys: str | None = None) -> tuple[int, str]:
    """(exit code, log) of a Python program under nsys, called with the exit code that it is to end with."""
    done = profiled(Nsys(), [sys.executable, "-c", program, str(exit_code)], report, exit_code, nsys)
    return done.returncode, done.stdout + done.stderr


def profiled(
    profiler: Profiler, program: list[str], report: Path, exit_code: int = 0, nsys: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The end of a program under a profiler, tried again where that is not the one expected."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(ATTEMPTS):
        first, *rest = profiler.command(program, report, "cpu")
        done = subprocess.run([nsys or first, *rest], env=environment, capture_output=True, text=True, timeout=280)
        profiler.settle(report)
        if done.returncode == exit_code:
            break
    return done
