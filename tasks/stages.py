"""The stages of a cell: run, export, metrics. Each writes a small record; a failed cell is a result, not an error.

luigi's scheduler takes a time that is quadratic in the number of tasks. Up to TASK_PER_RUN processes of a study are a
task each, with its own line and message on the page. Beyond, they are shared among LARGE_STUDY_TASKS tasks, each for
processes that follow each other in the measuring order. Timed and traced runs never share a task.
"""

from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path

import luigi

from bench.errors import StudyError
from bench.records.run import Demand, Outcome, RunHead, read_head, read_record
from bench.records.study import TRACED, Slot
from bench.run.progress import Progress
from bench.study.directory import RunDirectory
from tasks.base import DirectoryTask, Exclusive, grid_of
from tasks.before_runs import before_runs
from tasks.luigi_runtime import INVOCATION, finishing, host_lock
from tasks.progress import Report, RunProgress, outcome_text, outputs_url, reporting

TASK_PER_RUN = 1000
LARGE_STUDY_TASKS = 250


class Stage(Exclusive):
    """One stage of one run, or of several. Each run has its own record, and only what is missing is done.

    Only one at a time: an export beside a timed run would change its time.
    """

    cell: str = luigi.Parameter(description="the cell of the first run")
    count: int = luigi.IntParameter(
        default=1, description="places in the measuring order from the first run on; more than 1 only in large studies"
    )

    def to_str_params(self, only_significant: bool = False, only_public: bool = False) -> dict[str, str]:
        """Without a count of 1: names on the scheduler's page stay short."""
        params = super().to_str_params(only_significant, only_public)
        return {key: value for key, value in params.items() if (key, value) != ("count", "1")}

    @property
    def first(self) -> Slot:
        """Export and metrics belong to the traced run."""
        return grid_of(self.run_dir).slot(self.cell, TRACED)

    @property
    def processes(self) -> list[tuple[Slot, ...]]:
        """The runs of each process, of which some may be missing."""
        grid = grid_of(self.run_dir)
        return list(dict.fromkeys(grid.process(slot) for slot in self.slots))

    @cached_property
    def slots(self) -> list[Slot]:
        begin = self.first.position
        places = [*grid_of(self.run_dir).order[begin : begin + self.count]]
        if self.count == 1:
            return places
        # Repeats beyond those of the study have places of their own, after these.
        asked = asked_slots(self.run_dir)
        demand = read_record(self.directory.demand, Demand)
        repeats = demand.repeats if demand else {}
        return [slot for slot in places if slot in asked] or [
            slot for slot in places if isinstance(slot.repeat, int) and slot.repeat <= repeats.get(slot.cell, 0)
        ]

    def is_done(self, slot: Slot) -> bool:
        raise NotImplementedError

    def complete(self) -> bool:
        return all(self.is_done(slot) for slot in self.slots)


class RunPipeline(Stage):
    """A process for each run, which executes one cell once; or one for the runs of a group, which crosses its cells."""

    repeat: str = luigi.Parameter(description="1, 2, ... for a timed run, or traced")

    @property
    def first(self) -> Slot:
        return grid_of(self.run_dir).slot(self.cell, TRACED if self.repeat == TRACED else int(self.repeat))

    @property
    def priority(self) -> int:  # type: ignore[override]  # luigi declares an attribute, and reads it only
        """The measuring order. Other tasks have 0, so all runs of a study come before its first export."""
        return len(grid_of(self.run_dir).order) - self.first.position

    def requires(self) -> list[luigi.Task]:
        return before_runs(self)

    def is_done(self, slot: Slot) -> bool:
        return run_is_done(self.directory, slot)

    def run(self) -> None:
        processes = self.processes
        todo = [slots for slots in processes if not all(map(self.is_done, slots))]
        with reporting(self) as reporter:
            if len(processes) == 1:
                reporter.link(outputs_url(self.directory.log(self.first.process, "stderr"), self.directory.outputs))
            for number, slots in enumerate(todo):
                if number and finishing():
                    raise StudyError(f"stopped: {len(todo) - number} runs of this task are not measured")
                measure(self.directory, slots, reporter if len(processes) == 1 else _part(reporter, number, todo))


class ExportSqlite(Stage):
    """The trace as SQLite, in the nsys schema for every profiler."""

    activity = "exporting the trace"

    def requires(self) -> RunPipeline:
        runs = [slot for process in self.processes for slot in process]
        first, count = runs[0], runs[-1].position - runs[0].position + 1
        return RunPipeline(**self.where, cell=first.cell, repeat=TRACED, count=count)

    def is_done(self, slot: Slot) -> bool:
        return export_is_done(self.directory, slot)

    def run(self) -> None:
        from bench.run.stages import export_trace

        for slot in self.slots:
            # Another call of the same study may have done it meanwhile.
            if not self.is_done(slot):
                export_trace(self.directory, grid_of(self.run_dir).cell(slot.cell), INVOCATION)


class ExtractLatency(Stage):
    """The metrics of the trace."""

    activity = "reading the trace"

    def requires(self) -> ExportSqlite:
        return ExportSqlite(**self.where, cell=self.cell, count=self.count)

    def is_done(self, slot: Slot) -> bool:
        return metrics_are_done(self.directory, slot)

    def run(self) -> None:
        from bench.run.stages import extract_metrics

        for slot in self.slots:
            if not self.is_done(slot):
                extract_metrics(self.directory, grid_of(self.run_dir).cell(slot.cell), INVOCATION)


# One run


def run_is_done(directory: RunDirectory, slot: Slot) -> bool:
    """Whether its record is final; of a crossing, those of all cells, and of one process."""
    if slot.birth:
        whole = grid_of(str(directory.path)).process(slot)
        heads = [read_head(directory.record(one.cell, one.repeat)) for one in whole]
        processes = {head.crossing.id if head and head.crossing else None for head in heads}
        return len(processes) == 1 and all(
            _is_settled(directory, one, head) for one, head in zip(whole, heads, strict=True)
        )
    return _is_settled(directory, slot, read_head(directory.record(slot.cell, slot.repeat)))


def _is_settled(directory: RunDirectory, slot: Slot, head: RunHead | None) -> bool:
    if head is None or not head.is_final(INVOCATION):
        return False
    if slot.repeat != TRACED or head.invocation == INVOCATION:
        return True
    # If an earlier call could not use the trace, it is taken again, though its run succeeded.
    metrics = read_head(directory.metrics(slot.cell))
    return metrics is None or metrics.status is not Outcome.TRACE_FAILED or metrics.invocation == INVOCATION


def export_is_done(directory: RunDirectory, slot: Slot) -> bool:
    run, export = directory.record(slot.cell, slot.repeat), directory.export_record(slot.cell)
    return _is_made_from(run, export) and run_is_done(directory, slot)


def metrics_are_done(directory: RunDirectory, slot: Slot) -> bool:
    export, metrics = directory.export_record(slot.cell), directory.metrics(slot.cell)
    return _is_made_from(export, metrics) and export_is_done(directory, slot)


def is_done(directory: RunDirectory, slot: Slot) -> bool:
    """Whether the last stage of the run is done: a traced run ends with its metrics."""
    return metrics_are_done(directory, slot) if slot.repeat == TRACED else run_is_done(directory, slot)


def last_record(directory: RunDirectory, slot: Slot) -> Path:
    """The record that says how the run ended."""
    return directory.metrics(slot.cell) if slot.repeat == TRACED else directory.record(slot.cell, slot.repeat)


def _is_made_from(source: Path, made: Path) -> bool:
    before, after = read_head(source), read_head(made)
    return before is not None and after is not None and after.is_final(INVOCATION) and after.source == before.origin


def measure(directory: RunDirectory, slots: Sequence[Slot], report: Report) -> None:
    """Execute the runs of one process and write their records. Progress is reported, and shown in the terminal."""
    from bench.command.attempt import attempt_command
    from bench.run.attempt import execute
    from bench.run.crossing import execute_group

    slot, grid = slots[0], grid_of(str(directory.path))
    title = _title(directory, slot)
    shown = RunProgress(directory, grid, slots, title)

    def report_both(progress: Progress) -> None:
        report(f"{title}, {progress.text}", progress.percent)
        shown(progress)

    try:
        common = INVOCATION, host_lock(), report_both, lambda: run_is_done(directory, slot)
        if slot.birth:
            runs = execute_group(directory, slots, *common)
        else:
            cell = grid.cell(slot.cell)
            runs = [execute(directory, cell, slot, *common, attempt_command if cell.model.command else None)]
        report(f"{title}: {'; '.join(map(outcome_text, runs))}", 100)
        shown.ended(runs)
    finally:
        shown.clear()


def _title(directory: RunDirectory, slot: Slot) -> str:
    asked = directory.study().repeats
    if slot.repeat == TRACED:
        return "traced run"
    return f"repeat {slot.repeat}/{asked}" if slot.repeat <= asked else f"repeat {slot.repeat}, on demand"


def _part(report: Report, number: int, processes: Sequence[Sequence[Slot]]) -> Report:
    """Reports of one of several processes: with its name, and as a share of all."""
    process, count = processes[number][0].process, len(processes)

    def report_part(text: str, percent: int) -> None:
        report(f"{number + 1}/{count} {process}: {text}", (100 * number + percent) // count)

    return report_part


# All runs of a study


@cache
def asked_slots(run_dir: str) -> dict[Slot, None]:
    """The runs that the study itself asks for, in measuring order; further ones are measured on demand."""
    return dict.fromkeys(grid_of(run_dir).asked(RunDirectory(Path(run_dir)).study().repeats))


def asked_tasks(task: DirectoryTask) -> list[luigi.Task]:
    """The tasks after which the last stage of each of these runs has its record."""
    return [_last_task(task, piece) for piece in _asked_pieces(task.run_dir)]


def demanded_tasks(task: DirectoryTask, slots: Sequence[Slot]) -> list[luigi.Task]:
    """The tasks of runs that are demanded beyond those of the study."""
    grid = grid_of(task.run_dir)
    whole = {one for slot in slots for one in grid.process(slot)}
    in_order = sorted(whole, key=lambda slot: slot.position)
    return [_last_task(task, piece) for piece in pieces(in_order)]


def task_of(task: DirectoryTask, slot: Slot) -> luigi.Task:
    """The task after which the last stage of this run has its record."""
    asked = (piece for piece in _asked_pieces(task.run_dir) if slot in piece)
    return _last_task(task, next(asked, grid_of(task.run_dir).process(slot)))


def pieces(slots: Sequence[Slot]) -> list[tuple[Slot, ...]]:
    """The runs, which are in measuring order, divided among tasks; timed ones of one process stay together.

    Traced ones do where a task covers several processes; else each has a task for its export and its metrics.
    """
    processes = [tuple(own) for _, own in groupby(slots, key=lambda slot: slot.process)]
    length = 1 if len(processes) <= TASK_PER_RUN else -(-len(processes) // LARGE_STUDY_TASKS)
    timed = [own for own in processes if own[0].repeat != TRACED]
    traced = [own for own in processes if own[0].repeat == TRACED]
    if length == 1:
        traced = [(slot,) for own in traced for slot in own]
    return [*_cut(timed, length), *_cut(traced, length)]


def _cut(processes: Sequence[tuple[Slot, ...]], length: int) -> Iterator[tuple[Slot, ...]]:
    for begin in range(0, len(processes), length):
        yield tuple(slot for own in processes[begin : begin + length] for slot in own)


@cache
def _asked_pieces(run_dir: str) -> list[tuple[Slot, ...]]:
    return pieces([*asked_slots(run_dir)])


def _last_task(task: DirectoryTask, piece: tuple[Slot, ...]) -> luigi.Task:
    first, count = piece[0], piece[-1].position - piece[0].position + 1
    if first.repeat == TRACED:
        return ExtractLatency(**task.where, cell=first.cell, count=count)
    return RunPipeline(**task.where, cell=first.cell, repeat=str(first.repeat), count=count)
