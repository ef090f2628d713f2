"""Measured locality, before the first run of a study and after its last."""

import luigi

from bench.run.record import OK, failure, read_record, write_record
from tasks.invocation import INVOCATION, host_lock
from tasks.reporting import Reporter
from tasks.stages import OfStudy


class Probe(OfStudy):
    """Small-copy latency from each node to each GPU. Seconds; what it cannot find out is in its record."""

    when = luigi.Parameter(default="before", description="before the first run, or after the last")

    @property
    def resources(self) -> dict[str, int]:
        return self.turns

    @property
    def priority(self) -> int:
        return 1 if self.when == "after" else 0

    def requires(self) -> list[luigi.Task]:
        from tasks.repeats import MoreRepeats

        return [MoreRepeats(run_dir=self.run_dir, host=self.host)] if self.when == "after" else []

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.directory.probe(self.when)))

    def complete(self) -> bool:
        record = read_record(self.directory.probe(self.when))
        if record is None:
            return False
        # Every call that measured something ends with a look at whether the nodes are where they were.
        if self.when == "before":
            return True
        return record["state"] == self.directory.state() and all(task.complete() for task in self.requires())

    def run(self) -> None:
        from bench.host.locality import measured_locality

        reporter = Reporter(self)
        try:
            host_lock().acquire(str(self.directory.path), lambda holder: reporter(holder, 1))
            found = measured_locality(self.directory.study()["device"])
        finally:
            reporter.close()
        state = self.directory.state()
        write_record(
            self.directory.probe(self.when),
            {"invocation": INVOCATION, "state": state, **failure(OK, ""), "found": found},
        )
