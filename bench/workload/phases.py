"""Where the wall time of a run goes."""

import os
import time

from bench.owners import start_ticks

PHASES = ("interpreter", "imports", "device", "model", "compile", "buffers", "warmup", "measure", "finish")


class Phases:
    """Each mark ends a phase that began at the mark before; the first began when the process did."""

    def __init__(self, began: float | None = None) -> None:
        self._last = process_start() if began is None else began
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)

    def mark(self, phase: str) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.seconds[phase] += now - self._last
        self._last = now


def process_start() -> float:
    """When this process started, in seconds since boot (to the kernel's clock tick, 10 ms); see proc(5)."""
    return start_ticks(os.getpid()) / os.sysconf("SC_CLK_TCK")
