"""Processes that load the host together start their windows at once, and the measured one ends the others.

They share a folder: ready-<pid> is written by each process when it is warm, `done` by the measured one after its
last window, stopped-<pid> by each peer when its device is idle again, failed-<pid> by one that cannot continue.
"""

import os
import time
from pathlib import Path

from bench.records.run import Outcome
from bench.units import exact_seconds
from bench.workload.failures import RunFailure

POLL_S = 0.002
STOP_TIMEOUT_S = 30.0
ADVICE = "see the peers' results and logs"


class Barrier:
    """parties: processes in all. timeout_s: how long a process waits for the others to get ready."""

    def __init__(self, folder: Path, parties: int, timeout_s: float, stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
        self._folder, self._parties = folder, parties
        self._timeout_s, self._stop_timeout_s = timeout_s, stop_timeout_s

    def wait(self) -> None:
        """Return when all are ready. Raise RunFailure (crashed) if one failed, or was not ready in time."""
        self._signal("ready")
        end = time.monotonic() + self._timeout_s
        while (ready := self._count("ready")) < self._parties:
            self._raise_failure()
            if time.monotonic() > end:
                missing = f"{ready} of {self._parties} processes were ready after {exact_seconds(self._timeout_s)}"
                raise RunFailure(
                    Outcome.CRASHED, f"a peer was not ready in time: {missing}", f"raise timeout_s; {ADVICE}"
                )
            time.sleep(POLL_S)

    def is_done(self) -> bool:
        """Whether the measured process has finished its windows, or cannot, since a process failed."""
        return (self._folder / "done").exists() or self._count("failed") > 0

    def finish(self) -> None:
        """By the measured process after its last window: end the peers, and return when all are idle.

        Raise RunFailure (crashed) if a peer had ended before: the windows did not have the load that the cell asks for.
        """
        (self._folder / "done").touch()
        end = time.monotonic() + self._stop_timeout_s
        while (stopped := self._count("stopped")) < self._parties - 1:
            self._raise_failure()
            if time.monotonic() > end:
                raise RunFailure(
                    Outcome.CRASHED,
                    f"a peer ended before the windows: {stopped} of {self._parties - 1} stopped on request",
                    ADVICE,
                )
            time.sleep(POLL_S)

    def stopped(self) -> None:
        """By a peer, when its device is idle."""
        self._signal("stopped")

    def failed(self) -> None:
        """By a process that cannot continue, so that no other waits for it."""
        self._signal("failed")

    def _signal(self, what: str) -> None:
        (self._folder / f"{what}-{os.getpid()}").touch()

    def _count(self, what: str) -> int:
        return sum(name.startswith(f"{what}-") for name in os.listdir(self._folder))

    def _raise_failure(self) -> None:
        failed = [name.partition("-")[2] for name in os.listdir(self._folder) if name.startswith("failed-")]
        if failed:
            raise RunFailure(
                Outcome.CRASHED, f"a process that loads the host beside this one failed (pid {failed[0]})", ADVICE
            )
