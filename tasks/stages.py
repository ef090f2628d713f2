"""The stages of a cell: run, export, metrics. Each leaves a small record; a failed cell is a result, not an error."""

from functools import cached_property
from pathlib import Path
from typing import Any

import luigi

from bench.run.attempt import Report
from bench.run.execute import execute
from bench.run.record import TRACE_FAILED, is_final, read_head
from bench.study.directory import run_name
from bench.study.order import TRACED, Slot
from tasks.invocation import INVOCATION, host_lock
from tasks.links import before_runs
from tasks.of_study import InTurn, Recorded, grid_of
from tasks.reporting import outputs_url, reporting
from tasks.watching import RunOnTerminal, outcome


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
        from bench.run.export import export_trace

        export_trace(self.directory, grid_of(self.run_dir).cells[self.cell], INVOCATION)


class ExtractLatency(FollowUp):
    """The metrics of the trace."""

    def requires(self) -> ExportSqlite:
        return ExportSqlite(run_dir=self.run_dir, host=self.host, cell=self.cell)

    @cached_property
    def record_path(self) -> Path:
        return self.directory.metrics(self.cell)

    def follow_up(self) -> None:
        from bench.run.extract import extract_metrics

        extract_metrics(self.directory, grid_of(self.run_dir).cells[self.cell], INVOCATION)


def source_of(record: dict[str, Any]) -> str:
    """What names one making of a record: its own source, or when its run started."""
    return record.get("source") or record["started_at"]
