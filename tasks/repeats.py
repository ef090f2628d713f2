"""Timed runs beyond the study's repeats, where the data ask for them."""

from functools import cached_property
from pathlib import Path
from typing import Any

import luigi

from bench.run.record import OK, failure, read_record, write_record
from bench.study.order import Slot
from tasks.before_runs import Probe
from tasks.luigi_runtime import INVOCATION
from tasks.of_study import OfStudy, Recorded, grid_of
from tasks.stages import Stage, base_stages, base_tasks, run_of, run_tasks


class MoreRepeats(Recorded):
    """Asks the statistics after each round, until no comparison needs another run."""

    def requires(self) -> list[luigi.Task]:
        return base_tasks(self)

    @cached_property
    def record_path(self) -> Path:
        return self.directory.demand

    def complete(self) -> bool:
        record = self.record()
        if record is None or record["state"] != self.directory.state():
            return False
        # A run that failed in an earlier call is about to change that state.
        return all(stage.complete() for stage in base_stages(self))

    def run(self) -> Any:
        from bench.analysis.repeats import demanded

        while True:
            repeats = demanded(self.directory)
            todo = [slot for slot in further_slots(self, repeats) if not run_of(self, slot).complete()]
            if not todo:
                break
            # A task of several runs reads there which ones are its own.
            self._write(repeats, state="")
            yield run_tasks(self, todo)
        self._write(repeats, self.directory.state())

    def _write(self, repeats: dict[str, int], state: str) -> None:
        write_record(
            self.record_path, {"invocation": INVOCATION, "state": state, "repeats": repeats, **failure(OK, "")}
        )


class ProbeAgain(Probe):
    """Whether the nodes are where they were: every call that measured something ends with this look."""

    when = "after"
    priority = 1

    def requires(self) -> MoreRepeats:
        return MoreRepeats(run_dir=self.run_dir, host=self.host)

    def complete(self) -> bool:
        record = self.record()
        return record is not None and record["state"] == self.directory.state() and self.requires().complete()


def further_stages(task: OfStudy) -> list[Stage]:
    """Of the runs that were demanded beyond those of the study, as far as is known."""
    record = read_record(task.directory.demand)
    return [run_of(task, slot) for slot in further_slots(task, record["repeats"])] if record else []


def further_slots(task: OfStudy, demanded: dict[str, int]) -> list[Slot]:
    grid, repeats = grid_of(task.run_dir), task.directory.study()["repeats"]
    return [grid.slot(cell, repeat) for cell, most in demanded.items() for repeat in range(repeats + 1, most + 1)]
