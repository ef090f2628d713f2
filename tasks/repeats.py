"""Timed runs beyond the study's repeats, where the data require them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import luigi

from bench.records.run import Demand, Outcome, read_record, write_record
from bench.records.study import Slot
from bench.study.directory import RunDirectory
from bench.units import plural
from tasks.base import RecordTask, grid_of
from tasks.before_runs import Probe
from tasks.luigi_runtime import INVOCATION
from tasks.progress import terminal
from tasks.stages import asked_slots, asked_tasks, demanded_tasks, is_done, run_is_done


class MoreRepeats(RecordTask):
    """Applies the statistics after each round, until no comparison needs another run."""

    activity = "checking whether more repeats are needed"

    def requires(self) -> list[luigi.Task]:
        return asked_tasks(self)

    @property
    def record_path(self) -> Path:
        return self.directory.demand

    def complete(self) -> bool:
        head = self.head()
        if head is None or head.state != self.directory.state():
            return False
        # A run that failed in an earlier call is about to change that state.
        return all(is_done(self.directory, slot) for slot in asked_slots(self.run_dir))

    def run(self) -> Iterator[list[luigi.Task]]:
        from bench.analysis.repeats import demanded

        while True:
            found = demanded(self.directory)
            repeats = found.repeats
            todo = [slot for slot in _further(self.directory, repeats) if not run_is_done(self.directory, slot)]
            if not todo:
                break
            # A task of several runs reads there which ones are its own.
            self._write(repeats, state="")
            reasons = _reasons(todo, found.for_disturbed, found.for_precision)
            terminal().line(f"{plural(len(todo), 'more run')} on demand: {reasons}")
            yield demanded_tasks(self, todo)
        self._write(repeats, self.directory.state())

    def _write(self, repeats: Mapping[str, int], state: str) -> None:
        demand = Demand(status=Outcome.OK, invocation=INVOCATION, state=state, repeats=dict(repeats))
        write_record(self.record_path, demand)


class ProbeAgain(Probe):
    """Whether the nearest nodes are the same after the runs: every call that measured something ends with this."""

    when = "after"
    priority = 1
    activity = "probing locality again"
    share_done = 1.0

    def requires(self) -> MoreRepeats:
        return MoreRepeats(**self.where)

    def complete(self) -> bool:
        head = self.head()
        return head is not None and head.state == self.directory.state() and self.requires().complete()


def further_slots(directory: RunDirectory) -> list[Slot]:
    """The runs that were demanded beyond those of the study, as far as is known."""
    demand = read_record(directory.demand, Demand)
    return _further(directory, demand.repeats) if demand else []


def _reasons(todo: Iterable[Slot], for_disturbed: Mapping[str, int], for_precision: Mapping[str, int]) -> str:
    """How many cells have runs to do for each reason; one may have both."""
    counts = {
        "in disturbed pairs": {slot.cell for slot in todo if int(slot.repeat) <= for_disturbed.get(slot.cell, 0)},
        "less precise than target_precision": {
            slot.cell for slot in todo if int(slot.repeat) <= for_precision.get(slot.cell, 0)
        },
    }
    return ", ".join(f"{plural(len(cells), 'cell')} {reason}" for reason, cells in counts.items() if cells)


def _further(directory: RunDirectory, demanded: Mapping[str, int]) -> list[Slot]:
    grid, repeats = grid_of(str(directory.path)), directory.study().repeats
    return [grid.slot(cell, repeat) for cell, most in demanded.items() for repeat in range(repeats + 1, most + 1)]
