"""Run, export and metrics tasks over one or several consecutive slots."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import luigi

from bench.errors import StudyError
from bench.run.attempt import Report, execute
from bench.run.record import TRACE_FAILED, is_final, read_head, read_record
from bench.study.directory import RunDirectory, run_name
from bench.study.order import TRACED, Slot
from tasks.before_runs import before_runs
from tasks.luigi_runtime import INVOCATION, finishing, host_lock
from tasks.of_study import InTurn, OfStudy, Recorded, grid_of
from tasks.progress import RunOnTerminal, outcome, outputs_url, reporting

# --- stages
# The stages of a cell: run, export, metrics. Each leaves a small record; a failed cell is a result, not an error.

class Stage(InTurn, Recorded):
    """A step of one cell. Only one at a time: an export beside a timed run would change its time."""

    cell = luigi.Parameter(description="the cell's name")


class RunPipeline(Stage):
    """One process that executes one cell once."""

    repeat = luigi.Parameter(description="1, 2, ... for a timed run, or traced")

    @property
    def slot(self) -> Slot:
        return grid_of(self.run_dir).slot(self.cell, self._repeat)

    @property
    def _repeat(self) -> int | str:
        return TRACED if self.repeat == TRACED else int(self.repeat)

    @property
    def priority(self) -> int:
        """The measuring order. Everything else has 0, so all runs of a study come before its first export."""
        return len(grid_of(self.run_dir).order) - self.slot.position

    @cached_property
    def record_path(self) -> Path:
        return self.directory.record(self.cell, self._repeat)

    def complete(self) -> bool:
        if not super().complete():
            return False
        if self._repeat != TRACED:
            return True
        # A trace that an earlier call could not use is to be taken again, though its run went well.
        later = read_head(self.directory.metrics(self.cell))
        unusable = later is not None and later["status"] == TRACE_FAILED and later["invocation"] != INVOCATION
        return not unusable or self.record()["invocation"] == INVOCATION

    def requires(self) -> list[luigi.Task]:
        return before_runs(self)

    def run(self) -> None:
        with reporting(self) as reporter:
            reporter.link(outputs_url(self.directory.log(self.run_name, "stderr"), self.directory.outputs))
            self.measure(reporter)

    def measure(self, tell: Report) -> None:
        """Execute the cell and leave its record. tell(message, percent): how far it is."""
        grid, what = grid_of(self.run_dir), self._what()
        terminal = RunOnTerminal(self.directory, grid, self.slot, what, INVOCATION)

        def report(text: str, percent: int) -> None:
            tell(f"{what}, {text}", percent)
            terminal(text, percent)

        try:
            record = execute(
                self.directory, grid.cells[self.cell], self.slot, INVOCATION, host_lock(), report, self.complete
            )
            tell(f"{what}: {outcome(record)}", 100)
            terminal.ended(record)
        finally:
            terminal.clear()

    @property
    def run_name(self) -> str:
        return run_name(self.cell, self._repeat)

    def _what(self) -> str:
        asked = self.directory.study()["repeats"]
        if self._repeat == TRACED:
            return "traced run"
        return f"repeat {self.repeat}/{asked}" if self._repeat <= asked else f"repeat {self.repeat}, on demand"


class FollowUp(Stage):
    """A stage that reads what the one before it left; done again whenever that one was."""

    def complete(self) -> bool:
        record = self.record()
        if not is_final(record, INVOCATION):
            return False
        before = self.stage_before.record()
        return before is not None and record.get("source") == source_of(before) and self.stage_before.complete()

    @cached_property
    def stage_before(self) -> Stage:
        return self.requires()

    def run(self) -> None:
        # Another call of the same study may have done it meanwhile.
        if not self.complete():
            self.follow_up()

    def follow_up(self) -> None:
        raise NotImplementedError


class ExportSqlite(FollowUp):
    """The trace as SQLite, in the nsys schema whatever the profiler was."""

    def requires(self) -> RunPipeline:
        return RunPipeline(run_dir=self.run_dir, host=self.host, cell=self.cell, repeat=TRACED)

    @cached_property
    def record_path(self) -> Path:
        return self.directory.export_record(self.cell)

    def follow_up(self) -> None:
        from bench.run.stages import export_trace

        export_trace(self.directory, grid_of(self.run_dir).cells[self.cell], INVOCATION)


class ExtractLatency(FollowUp):
    """The metrics of the trace."""

    def requires(self) -> ExportSqlite:
        return ExportSqlite(run_dir=self.run_dir, host=self.host, cell=self.cell)

    @cached_property
    def record_path(self) -> Path:
        return self.directory.metrics(self.cell)

    def follow_up(self) -> None:
        from bench.run.stages import extract_metrics

        extract_metrics(self.directory, grid_of(self.run_dir).cells[self.cell], INVOCATION)


def source_of(record: dict[str, Any]) -> str:
    """What names one making of a record: its own source, or when its run started."""
    return record.get("source") or record["started_at"]


# --- spans
# Several consecutive runs as one task: luigi's scheduler takes a time that is quadratic in tasks.
#
# Up to ALONE runs of a study are a task each, with its own line and message on the page. Beyond, the runs are shared
# among SPANS tasks. Timed and traced runs never share one.

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
