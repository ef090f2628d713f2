"""Measured locality, before the first run of a study."""

from pathlib import Path

import luigi

from bench.run.record import OK, failure, read_record, write_record
from tasks.invocation import INVOCATION, host_lock
from tasks.of_study import OfStudy
from tasks.reporting import Reporter


class Probe(OfStudy):
    """Small-copy latency from each node to each GPU. Seconds; what it cannot find out is in its record."""

    when = "before"

    @property
    def resources(self) -> dict[str, int]:
        return self.turns

    @property
    def record_path(self) -> Path:
        return self.directory.probe(self.when)

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.record_path))

    def complete(self) -> bool:
        return read_record(self.record_path) is not None

    def run(self) -> None:
        from bench.host.locality import measured_locality

        reporter = Reporter(self)
        try:
            host_lock().acquire(str(self.directory.path), lambda holder: reporter(holder, 1))
            found = measured_locality(self.directory.study()["device"])
        finally:
            reporter.close()
        state = self.directory.state()
        write_record(self.record_path, {"invocation": INVOCATION, "state": state, **failure(OK, ""), "found": found})
