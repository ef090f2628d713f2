"""Timed runs beyond the study's repeats, where the data ask for them."""

from typing import Any

import luigi

from bench.run.record import OK, failure, read_record, write_record
from tasks.invocation import INVOCATION
from tasks.of_study import OfStudy, grid_of
from tasks.probe import Probe
from tasks.stages import ExtractLatency, RunPipeline, Stage


class MoreRepeats(OfStudy):
    """Asks the statistics after each round, until no comparison needs another run."""

    def requires(self) -> list[Stage]:
        return base_stages(self)

    @property
    def record(self) -> dict[str, Any] | None:
        return read_record(self.directory.demand)

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.directory.demand))

    def complete(self) -> bool:
        record = self.record
        if record is None or record["state"] != self.directory.state():
            return False
        # A run that failed in an earlier call is about to change that state.
        return all(stage.complete() for stage in base_stages(self))

    def run(self) -> Any:
        from bench.results.demand import demanded

        while True:
            repeats = demanded(self.directory)
            runs = further_runs(self, repeats)
            if all(run.complete() for run in runs):
                break
            yield runs
        write_record(
            self.directory.demand,
            {"invocation": INVOCATION, "state": self.directory.state(), "repeats": repeats, **failure(OK, "")},
        )


class ProbeAgain(Probe):
    """Whether the nodes are where they were: every call that measured something ends with this look."""

    when = "after"
    priority = 1

    def requires(self) -> MoreRepeats:
        return MoreRepeats(run_dir=self.run_dir, host=self.host)

    def complete(self) -> bool:
        record = read_record(self.record_path)
        return record is not None and record["state"] == self.directory.state() and self.requires().complete()


def base_stages(task: OfStudy) -> list[Stage]:
    """The last stage of every run that the study itself asks for."""
    repeats = task.directory.study()["repeats"]
    return [last_stage(task, slot.cell, slot.repeat) for slot in grid_of(task.run_dir).asked(repeats)]


def further_stages(task: OfStudy) -> list[Stage]:
    """Of the runs that were demanded beyond that, as far as is known."""
    record = read_record(task.directory.demand)
    return list(further_runs(task, record["repeats"])) if record else []


def further_runs(task: OfStudy, demanded: dict[str, int]) -> list[RunPipeline]:
    repeats = task.directory.study()["repeats"]
    return [
        RunPipeline(run_dir=task.run_dir, host=task.host, cell=cell, repeat=str(repeat))
        for cell, most in demanded.items()
        for repeat in range(repeats + 1, most + 1)
    ]


def last_stage(task: OfStudy, cell: str, repeat: int | str) -> Stage:
    """The task whose record tells how a run ended: a traced run ends with its metrics."""
    where = {"run_dir": task.run_dir, "host": task.host, "cell": cell}
    return ExtractLatency(**where) if repeat == "traced" else RunPipeline(**where, repeat=str(repeat))
