"""The end of a study: its report, and a red task for each run that failed."""

from functools import cached_property
from pathlib import Path
from typing import Any

import luigi

from bench.errors import StudyError
from bench.run.experiment_log import log_what_is_missing
from bench.run.record import NOT_RUNNABLE, OK, failure, write_record
from bench.study.directory import run_name
from bench.study.order import TRACED
from tasks.luigi_runtime import INVOCATION, host_lock
from tasks.of_study import OfStudy, Recorded
from tasks.progress import link_task
from tasks.repeats import ProbeAgain, further_stages
from tasks.stages import Stage, base_stages, base_tasks, last_stage, task_of


class StudyReport(Recorded):
    """results.json, tables and report.html, from the records of all cells, failed ones included."""

    def requires(self) -> list[luigi.Task]:
        return [ProbeAgain(run_dir=self.run_dir, host=self.host), *base_tasks(self)]

    @cached_property
    def record_path(self) -> Path:
        return self.directory.path / "report.json"

    def complete(self) -> bool:
        record = self.record()
        if record is None or record["state"] != self.directory.state():
            return False
        # Once a call: what kept the study out of the history is mended by somebody, or by nobody.
        if not record.get("in_history", True) and record["invocation"] != INVOCATION:
            return False
        return all(task.complete() for task in self.requires())

    def run(self) -> None:
        from bench.analysis.noise_floor import remember
        from bench.history.page import into_history
        from bench.report.build import make_report

        log_what_is_missing(self.directory)
        host_lock().release()
        link_task(self, self.directory.path / "report.html", self.directory.outputs)
        state = self.directory.state()
        results = make_report(self.directory.path, INVOCATION)
        remember(results, self.directory.outputs)
        # Many hosts writing one database over a network: there the report of all of them adds each.
        known = self.directory.of_cluster or into_history(results, self.directory.outputs)
        record = {"invocation": INVOCATION, "state": state, "in_history": known, **failure(OK, "")}
        write_record(self.record_path, record)


class CellCheck(OfStudy):
    """Fails with the reason of a run that failed: a red task with a name. Green once the run is mended."""

    cell = luigi.Parameter(description="the cell's name")
    repeat = luigi.Parameter(description="1, 2, ... or traced")
    strict = luigi.BoolParameter(description="a cell that cannot run on this host is a failure")

    def requires(self) -> luigi.Task:
        return task_of(self, self.cell, self.repeat)

    @property
    def stage(self) -> Stage:
        return last_stage(self, self.cell, self.repeat)

    def complete(self) -> bool:
        return self.stage.complete() and is_good(self.stage.record(), self.strict)

    def run(self) -> None:
        record = self.stage.record()
        if not is_good(record, self.strict):
            run = run_name(self.cell, self.repeat)
            link_task(self, self.directory.log(run, "stderr"), self.directory.outputs)
            raise StudyError(
                f"{run}: {record['status']}: {record['reason']}",
                str(self.directory.log(run, "stderr")),
                record["advice"],
            )

    def on_failure(self, exception: BaseException) -> str:
        """What the scheduler's page shows for the red task."""
        return str(exception)


class StudyCheck(OfStudy):
    """Complete when every run that was asked for is ok."""

    strict = luigi.BoolParameter(description="a cell that cannot run on this host is a failure")

    def requires(self) -> list[luigi.Task]:
        # Runs that an earlier call left failed: their red tasks are on the page already and must turn green
        # if this call mends them, so the scheduler has to hear of them.
        return [StudyReport(run_dir=self.run_dir, host=self.host), *self._checks(of_this_call=False)]

    def complete(self) -> bool:
        report = StudyReport(run_dir=self.run_dir, host=self.host)
        return report.complete() and all(is_good(stage.record(), self.strict) for stage in self._stages())

    def run(self) -> Any:
        yield self._checks(of_this_call=True)

    def _stages(self) -> list[Stage]:
        return [*base_stages(self), *further_stages(self)]

    def _checks(self, of_this_call: bool) -> list[CellCheck]:
        checks = []
        for stage in self._stages():
            record = stage.record()
            if record and not is_good(record, self.strict) and (record["invocation"] == INVOCATION) is of_this_call:
                checks.append(
                    CellCheck(
                        run_dir=self.run_dir,
                        host=self.host,
                        cell=stage.cell,
                        repeat=getattr(stage, "repeat", TRACED),
                        strict=self.strict,
                    )
                )
        return checks


def is_good(record: dict[str, Any] | None, strict: bool) -> bool:
    return record is not None and (record["status"] == OK or (record["status"] == NOT_RUNNABLE and not strict))
