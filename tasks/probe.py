"""Measured locality, before the first run of a study."""

from functools import cached_property
from pathlib import Path

from bench.run.record import OK, failure, write_record
from tasks.invocation import INVOCATION, host_lock
from tasks.of_study import InTurn, Recorded
from tasks.reporting import reporting
from tasks.watching import WaitOnTerminal


class Probe(InTurn, Recorded):
    """Small-copy latency from each node to each GPU. Seconds; what it cannot find out is in its record."""

    when = "before"

    @cached_property
    def record_path(self) -> Path:
        return self.directory.probe(self.when)

    def run(self) -> None:
        from bench.host.locality import measured_locality

        wait = WaitOnTerminal()
        with reporting(self) as reporter:

            def waiting(text: str) -> None:
                reporter(text, 1)
                wait(text)

            host_lock().acquire(str(self.directory.path), waiting)
            found = measured_locality(self.directory.study()["device"])
        state = self.directory.state()
        write_record(self.record_path, {"invocation": INVOCATION, "state": state, **failure(OK, ""), "found": found})
