"""Start windows of several processes together; progress counter for the parent."""

import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from bench.workload.failures import CRASHED, RunFailure

# --- barrier
# Processes that load the host together: they start their windows at once, and the measured one ends the others.
#
# In a folder of their own: ready-<pid> by each when it is warm, `done` by the measured one after its last window,
# stopped-<pid> by each peer when its device is idle again, failed-<pid> by whichever could not go on.

POLL_S = 0.002
STOP_TIMEOUT_S = 30.0
ADVICE = "the peers' results and logs say what became of them"


class Barrier:
    """`parties`: processes in all. `timeout_s`: what a process waits for the others to get ready."""

    def __init__(self, folder: Path, parties: int, timeout_s: float, stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
        self._folder, self._parties = folder, parties
        self._timeout_s, self._stop_timeout_s = timeout_s, stop_timeout_s

    def wait(self) -> None:
        """Return when all are ready. Raise RunFailure (crashed) if one failed, or did not come in time."""
        self._say("ready")
        end = time.monotonic() + self._timeout_s
        while (ready := self._count("ready")) < self._parties:
            self._raise_failure()
            if time.monotonic() > end:
                missing = f"{ready} of {self._parties} processes were ready after {self._timeout_s:g} s"
                raise RunFailure(CRASHED, f"a peer did not come: {missing}", f"raise timeout_s; {ADVICE}")
            time.sleep(POLL_S)

    def is_done(self) -> bool:
        """Whether the measured process has finished its windows, or nobody will: a process failed."""
        return (self._folder / "done").exists() or self._count("failed") > 0

    def finish(self) -> None:
        """By the measured process after its last window: end the peers, and return when all are idle.

        Raise RunFailure (crashed) if a peer had ended before: the windows were not loaded as the cell says.
        """
        (self._folder / "done").touch()
        end = time.monotonic() + self._stop_timeout_s
        while (stopped := self._count("stopped")) < self._parties - 1:
            self._raise_failure()
            if time.monotonic() > end:
                raise RunFailure(
                    CRASHED,
                    f"a peer was gone before the windows were over: {stopped} of {self._parties - 1} stopped when told",
                    ADVICE,
                )
            time.sleep(POLL_S)

    def stopped(self) -> None:
        """By a peer, when its device is idle."""
        self._say("stopped")

    def failed(self) -> None:
        """By a process that cannot go on: nobody waits for it."""
        self._say("failed")

    def _say(self, what: str) -> None:
        (self._folder / f"{what}-{os.getpid()}").touch()

    def _count(self, what: str) -> int:
        return sum(name.startswith(f"{what}-") for name in os.listdir(self._folder))

    def _raise_failure(self) -> None:
        failed = [name.partition("-")[2] for name in os.listdir(self._folder) if name.startswith("failed-")]
        if failed:
            raise RunFailure(CRASHED, f"a process that loads the host beside this one failed (pid {failed[0]})", ADVICE)


# --- progress
# The batch counter that the parent polls while a run goes on.

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
