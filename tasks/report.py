"""The end of a study: its report, a red task for each run that failed, and the summary in the terminal."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import luigi

from bench.errors import StudyError
from bench.records.results import Results
from bench.records.run import Head, Outcome, ReportStage, read_head, read_record, write_record
from bench.records.study import TRACED, Slot, run_name
from bench.run.experiment_log import log_missing_runs
from bench.study.budget import left_out_text
from bench.study.directory import RunDirectory
from bench.terminal import show_anyhow, wrapped
from bench.units import duration, percent
from tasks.base import DirectoryTask, RecordTask, grid_of
from tasks.luigi_runtime import INVOCATION, at_exit, host_lock
from tasks.progress import link_task
from tasks.repeats import ProbeAgain, further_slots
from tasks.stages import asked_slots, asked_tasks, is_done, last_record, task_of

# What bench/report/build.py makes; importing that would take longer than all else of a study that is up to date.
WRITTEN = ("results.json", "experiment_summary.json", "results.csv", "results.db", "report.md", "report.html")
STRICT = "a cell that cannot run on this host is a failure"


class StudyReport(RecordTask):
    """results.json, tables and report.html, from the records of all cells, failed ones included."""

    activity = "writing the report"

    def requires(self) -> list[luigi.Task]:
        return [ProbeAgain(**self.where), *asked_tasks(self)]

    @property
    def record_path(self) -> Path:
        return self.directory.path / "report.json"

    def complete(self) -> bool:
        stage = read_record(self.record_path, ReportStage)
        if stage is None or stage.state != self.directory.state():
            return False
        if not all((self.directory.path / name).is_file() for name in WRITTEN):
            return False
        # Once a call: what kept the study out of the history may have been repaired.
        if not stage.in_history and stage.invocation != INVOCATION:
            return False
        return all(task.complete() for task in self.requires())

    def run(self) -> None:
        log_missing_runs(self.directory)
        host_lock().release()
        link_task(self, self.directory.path / "report.html", self.directory.outputs)
        state = self.directory.state()
        in_history = write_report(self.directory)
        write_record(
            self.record_path,
            ReportStage(status=Outcome.OK, invocation=INVOCATION, state=state, in_history=in_history),
        )


def write_report(directory: RunDirectory) -> bool:
    """Write the report, and add the study to the noise floor and the history. Return whether the history has it."""
    from bench.analysis.noise_floor import remember
    from bench.history.page import into_history
    from bench.report.build import make_report
    from bench.report.text.fill import self_check_with_text

    results = make_report(directory.path, INVOCATION)
    remember(results, directory.outputs, lambda found: self_check_with_text(found, results.rules))
    # Where many hosts write one database over a network, the report of all of them adds each.
    return directory.of_cluster or into_history(results, directory.outputs)


class CellCheck(DirectoryTask):
    """Fails with the reason of a run that failed: a red task with a name. Green once the run succeeds."""

    cell: str = luigi.Parameter(description="the cell's name")
    repeat: str = luigi.Parameter(description="1, 2, ... or traced")
    strict: bool = luigi.BoolParameter(description=STRICT)

    @property
    def slot(self) -> Slot:
        return grid_of(self.run_dir).slot(self.cell, TRACED if self.repeat == TRACED else int(self.repeat))

    def requires(self) -> luigi.Task:
        return task_of(self, self.slot)

    def complete(self) -> bool:
        return is_done(self.directory, self.slot) and is_good(_ended(self.directory, self.slot), self.strict)

    def run(self) -> None:
        run, head = run_name(self.cell, self.slot.repeat), _ended(self.directory, self.slot)
        if is_good(head, self.strict):
            return
        log = self.directory.log(self.slot.process, "stderr")
        link_task(self, log, self.directory.outputs)
        if head is None:
            raise StudyError(f"{run}: its record is missing", str(log), "repeat the command to measure it again")
        raise StudyError(f"{run}: {head.status}: {head.reason}", str(log), head.advice)


class StudyCheck(DirectoryTask):
    """Complete when every run that was asked for is ok."""

    strict: bool = luigi.BoolParameter(description=STRICT)

    def requires(self) -> list[luigi.Task]:
        # Runs that an earlier call left failed: the page shows their red tasks already, which must turn green if this
        # call repairs them, so the scheduler has to know them.
        return [StudyReport(**self.where), *self._checks(of_this_call=False)]

    def complete(self) -> bool:
        return StudyReport(**self.where).complete() and all(
            is_good(_ended(self.directory, slot), self.strict) for slot in self._slots()
        )

    def run(self) -> Iterator[list[CellCheck]]:
        yield self._checks(of_this_call=True)

    def _slots(self) -> list[Slot]:
        return [*asked_slots(self.run_dir), *further_slots(self.directory)]

    def _checks(self, of_this_call: bool) -> list[CellCheck]:
        heads = [(slot, _ended(self.directory, slot)) for slot in self._slots()]
        return [
            CellCheck(**self.where, cell=slot.cell, repeat=str(slot.repeat), strict=self.strict)
            for slot, head in heads
            if head and not is_good(head, self.strict) and (head.invocation == INVOCATION) is of_this_call
        ]


def is_good(head: Head | None, strict: bool) -> bool:
    return head is not None and (head.ok or (head.status is Outcome.NOT_RUNNABLE and not strict))


def _ended(directory: RunDirectory, slot: Slot) -> Head | None:
    return read_head(last_record(directory, slot))


# The summary at the end of a call

_directories: list[RunDirectory] = []


def print_summary_at_exit(directory: RunDirectory) -> None:
    """Print the summary of this run directory when luigi's own process ends."""
    if not _directories:
        at_exit(_print_summaries)
    if directory not in _directories:
        _directories.append(directory)


def _print_summaries() -> None:
    for directory in _directories:
        try:
            text = summary(directory)
        except (OSError, StudyError) as error:
            # What made the study fail may prevent its summary too.
            text = f"no summary: {error}; repeat the command to continue"
        show_anyhow("\n" + text)


def summary(directory: RunDirectory) -> str:
    """The table of the cells, the share of time in measured windows, where the report is, and last the answer."""
    heads = [read_head(path) for path in directory.path.glob("runs/*.json")]
    measured = sum(head is not None and head.invocation == INVOCATION for head in heads)
    if not directory.results.exists():
        ended = f"{len(heads)} runs have ended, {measured} of them in this call"
        return f"no report yet: {ended}, in {directory.path}; repeat the command to continue"
    from bench.analysis.load import read_results
    from bench.report.tables import cells_table

    results = read_results(directory.path)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = [cells_table(results, columns), *filter(None, [left_out_text(results.study)])]
    if results.busy_s:
        share = percent(results.measured_s / results.busy_s)
        lines.append(f"measured windows: {share} of the {duration(results.busy_s)} that runs took")
    if not measured:
        up_to_date = all(cell.outcome in (Outcome.OK, Outcome.NOT_RUNNABLE) for cell in results.cells)
        more = ": the study is up to date. `--fresh` measures it again." if up_to_date else "."
        lines.append(f"Nothing was measured now{more}")
    lines.append(f"report: {directory.path / 'report.html'}")
    return "\n".join([*lines, *map(wrapped, _answer(results, bool(measured)))])


def _answer(results: Results, measured: bool) -> list[str]:
    """Where to run, else what the first screen of the report says.

    measured: in this call, which has loaded what the latter needs; one that is up to date would take 0.2 s more.
    """
    found = [one for one in results.recommendations if one.local_source is not None]
    if found or not measured:
        device = "CPU" if results.device == "cpu" else "GPU {gpu}"
        return [f"{device.format(gpu=one.gpu)}: {one.text}" for one in found]
    from bench.report.text.axes import findings, what_matters
    from bench.report.text.contention import contention_lines
    from bench.report.text.headline import headline
    from bench.report.view import View

    view = View(results)
    if head := headline(view):
        return [" ".join([f"{head.title}.", *head.lines])]
    return [what_matters(findings(results.comparisons, view.cells, contention_lines(results)))]
