"""Several consecutive runs as one task: luigi's scheduler takes a time that is quadratic in tasks.

Up to ALONE runs of a study are a task each, with its own line and message on the page. Beyond, the runs are shared
among SPANS tasks. Timed and traced runs never share one.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

import luigi

from bench.errors import StudyError
from bench.run.record import read_record
from bench.study.directory import RunDirectory
from bench.study.order import TRACED, Slot
from tasks.links import before_runs
from tasks.of_study import InTurn, OfStudy, grid_of
from tasks.reporting import reporting
from tasks.stages import ExportSqlite, ExtractLatency, RunPipeline, Stage
from tasks.stopping import finishing

ALONE = 1000
SPANS = 250


class Span(InTurn):
    """One stage of consecutive runs. Each leaves its own record, and only what is missing is done."""

    first = luigi.IntParameter(description="place of the first run in the measuring order")
    last = luigi.IntParameter(description="place of the last one")

    @property
    def where(self) -> dict[str, object]:
        return {"run_dir": self.run_dir, "host": self.host, "first": self.first, "last": self.last}

    def slots(self) -> list[Slot]:
        own = grid_of(self.run_dir).order[self.first : self.last + 1]
        return [slot for slot in own if slot in asked_of(self.run_dir)] or self._demanded(own)

    def stage(self, slot: Slot) -> Stage:
        """The one that this span covers, of one run."""
        raise NotImplementedError

    @cached_property
    def stages(self) -> list[Stage]:
        return [self.stage(slot) for slot in self.slots()]

    def complete(self) -> bool:
        return all(stage.complete() for stage in self.stages)

    def _demanded(self, own: Iterable[Slot]) -> list[Slot]:
        """Runs beyond the study's repeats lie apart from those it asks for."""
        repeats = (read_record(self.directory.demand) or {}).get("repeats") or {}
        return [slot for slot in own if slot.repeat != TRACED and slot.repeat <= repeats.get(slot.cell, 0)]


class RunSpan(Span):
    """Consecutive runs of the measuring order."""

    @property
    def priority(self) -> int:
        return len(grid_of(self.run_dir).order) - self.first

    def requires(self) -> list[luigi.Task]:
        return before_runs(self)

    def stage(self, slot: Slot) -> RunPipeline:
        return run_of(self, slot)

    def run(self) -> None:
        todo = [stage for stage in self.stages if not stage.complete()]
        with reporting(self) as reporter:
            for number, stage in enumerate(todo):
                if finishing():
                    raise StudyError(f"stopped: {len(todo) - number} runs of this task are not measured")

                def tell(text: str, percent: int, number: int = number, run: str = stage.run_name) -> None:
                    reporter(f"{number + 1}/{len(todo)} {run}: {text}", (100 * number + percent) // len(todo))

                stage.measure(tell)

    def on_failure(self, exception: BaseException) -> str:
        return str(exception)


class ExportSpan(Span):
    """The exports of consecutive traced runs."""

    def requires(self) -> RunSpan:
        return RunSpan(**self.where)

    def stage(self, slot: Slot) -> Stage:
        return ExportSqlite(run_dir=self.run_dir, host=self.host, cell=slot.cell)

    def run(self) -> None:
        for stage in self.stages:
            stage.run()


class ExtractSpan(ExportSpan):
    """The metrics of consecutive traces."""

    def requires(self) -> ExportSpan:
        return ExportSpan(**self.where)

    def stage(self, slot: Slot) -> Stage:
        return last_stage(self, slot.cell, slot.repeat)


def base_stages(task: OfStudy) -> list[Stage]:
    """The last stage of every run that the study itself asks for: their records tell how the runs ended."""
    return _base_stages(task.run_dir, task.host)


def base_tasks(task: OfStudy) -> list[luigi.Task]:
    """The tasks after which these stages have their records."""
    return [_last_task(task, piece) for piece in _base_pieces(task.run_dir)]


def run_tasks(task: OfStudy, slots: Sequence[Slot]) -> list[luigi.Task]:
    """The tasks of runs that are demanded beyond these."""
    in_order = sorted(slots, key=lambda slot: slot.position)
    return [_run_task(task, piece) for piece in pieces(in_order)]


def task_of(task: OfStudy, cell: str, repeat: str) -> luigi.Task:
    """The task after which the record of this run's last stage is there."""
    slot = grid_of(task.run_dir).slot(cell, TRACED if repeat == TRACED else int(repeat))
    piece = next((piece for piece in _base_pieces(task.run_dir) if slot in piece), (slot,))
    return _last_task(task, piece)


def run_of(task: OfStudy, slot: Slot) -> RunPipeline:
    return RunPipeline(run_dir=task.run_dir, host=task.host, cell=slot.cell, repeat=str(slot.repeat))


def last_stage(task: OfStudy, cell: str, repeat: int | str) -> Stage:
    """Whose record tells how a run ended: a traced run ends with its metrics."""
    where = {"run_dir": task.run_dir, "host": task.host, "cell": cell}
    return ExtractLatency(**where) if repeat == TRACED else RunPipeline(**where, repeat=str(repeat))


def pieces(slots: Sequence[Slot]) -> list[tuple[Slot, ...]]:
    """The runs in their order, cut into what one task covers."""
    length = 1 if len(slots) <= ALONE else -(-len(slots) // SPANS)
    return [*_cut([slot for slot in slots if slot.repeat != TRACED], length),
            *_cut([slot for slot in slots if slot.repeat == TRACED], length)]  # fmt: skip


def _cut(slots: Sequence[Slot], length: int) -> Iterator[tuple[Slot, ...]]:
    return (tuple(slots[begin : begin + length]) for begin in range(0, len(slots), length))


@cache
def asked_of(run_dir: str) -> dict[Slot, None]:
    """The runs that the study itself asks for, in measuring order."""
    return dict.fromkeys(grid_of(run_dir).asked(RunDirectory(Path(run_dir)).study()["repeats"]))


@cache
def _base_stages(run_dir: str, host: str) -> list[Stage]:
    task = OfStudy(run_dir=run_dir, host=host)
    return [last_stage(task, slot.cell, slot.repeat) for slot in asked_of(run_dir)]


@cache
def _base_pieces(run_dir: str) -> list[tuple[Slot, ...]]:
    return pieces([*asked_of(run_dir)])


def _run_task(task: OfStudy, piece: tuple[Slot, ...]) -> luigi.Task:
    if len(piece) == 1:
        return run_of(task, piece[0])
    return RunSpan(run_dir=task.run_dir, host=task.host, first=piece[0].position, last=piece[-1].position)


def _last_task(task: OfStudy, piece: tuple[Slot, ...]) -> luigi.Task:
    if len(piece) == 1:
        return last_stage(task, piece[0].cell, piece[0].repeat)
    kind = ExtractSpan if piece[0].repeat == TRACED else RunSpan
    return kind(run_dir=task.run_dir, host=task.host, first=piece[0].position, last=piece[-1].position)
