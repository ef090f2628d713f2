"""How far a run is, for the process that started it, and where its wall time goes."""

import mmap
import os
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from bench.storage import start_ticks

PHASES = ("interpreter", "imports", "device", "model", "compile", "buffers", "warmup", "measure", "finish")
# Batches done in this phase, batches expected in it (0: unknown), phase; of a group the cell whose host memory is being
# allocated, from 1 (0: none).
LAYOUT = struct.Struct("<QIII")


class Phase(IntEnum):
    START = 0
    WARMUP = 1
    MEASURING = 2
    DONE = 3


class Progress:
    """The batch counter, in a memory-mapped file that the parent created or, without one, in memory of its own."""

    def __init__(self, path: Path | None = None) -> None:
        self._memory: mmap.mmap | bytearray = bytearray(LAYOUT.size)
        if path is not None:
            with open(path, "r+b") as file:
                self._memory = mmap.mmap(file.fileno(), LAYOUT.size)
        self._done, self._expected, self._phase, self._allocating = 0, 0, Phase.START, 0
        self._store()

    def allocate(self, cell: int | None) -> None:
        """That memory of this cell of the group is being allocated, for whoever kills this process meanwhile; None: of
        none any more."""
        self._allocating = 0 if cell is None else cell + 1
        self._store()

    def enter(self, phase: Phase, expected: int = 0) -> None:
        self._done, self._expected, self._phase = 0, min(expected, 2**32 - 1), phase
        self._store()

    def beat(self) -> None:
        """Count one batch: a few hundred ns, no system call."""
        self._done += 1
        LAYOUT.pack_into(self._memory, 0, self._done, self._expected, self._phase, self._allocating)

    def counting(self, also: Callable[[], None] | None) -> Callable[[], None]:
        """A beat that calls `also` for every batch too."""
        beat = self.beat
        if also is None:
            return beat

        def both() -> None:
            also()
            beat()

        return both

    def _store(self) -> None:
        LAYOUT.pack_into(self._memory, 0, self._done, self._expected, self._phase, self._allocating)


def read_progress(data: bytes) -> tuple[int, int, int]:
    """Batches done, batches expected, phase."""
    done, expected, phase, _ = LAYOUT.unpack_from(data)
    return done, expected, phase


def read_allocating(data: bytes) -> int | None:
    """The cell of the group whose memory is being allocated."""
    *_, cell = LAYOUT.unpack_from(data)
    return cell - 1 if cell else None


class PhaseTimes:
    """Where the wall time of a run goes.

    Each mark ends a phase that began at the mark before; the first phase began when the process did.
    """

    def __init__(self, began: float | None = None) -> None:
        self._last = process_start() if began is None else began
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)

    def mark(self, phase: str) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.seconds[phase] += now - self._last
        self._last = now


def process_start() -> float:
    """When this process started, in seconds since boot (to the kernel's clock tick, 10 ms); see proc(5)."""
    return (start_ticks(os.getpid()) or 0) / os.sysconf("SC_CLK_TCK")
