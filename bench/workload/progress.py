"""The batch counter that the parent polls while a run goes on."""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

# Batches done in this phase, batches expected in it (0: unknown), phase.
LAYOUT = struct.Struct("<QII")

START, WARMUP, MEASURING, DONE = range(4)


class Progress:
    """Counts into a memory-mapped file that the parent made, or, without one, into memory of its own."""

    def __init__(self, path: Path | None = None) -> None:
        self._memory: mmap.mmap | bytearray = bytearray(LAYOUT.size)
        if path is not None:
            with open(path, "r+b") as file:
                self._memory = mmap.mmap(file.fileno(), LAYOUT.size)
        self._done, self._expected, self._phase = 0, 0, START
        self._store()

    def enter(self, phase: int, expected: int = 0) -> None:
        self._done, self._expected, self._phase = 0, min(expected, 2**32 - 1), phase
        self._store()

    def beat(self) -> None:
        """One batch more: a few hundred ns, no system call."""
        self._done += 1
        LAYOUT.pack_into(self._memory, 0, self._done, self._expected, self._phase)

    def counting(self, also: Callable[[], None] | None) -> Callable[[], None]:
        """A beat that calls `also` for every batch too."""
        if also is None:
            return self.beat
        beat = self.beat

        def both() -> None:
            also()
            beat()

        return both

    def _store(self) -> None:
        LAYOUT.pack_into(self._memory, 0, self._done, self._expected, self._phase)


def read_progress(data: bytes) -> tuple[int, int, int]:
    """Batches done, batches expected, phase."""
    done, expected, phase = LAYOUT.unpack_from(data)
    return done, expected, phase
