"""The end of a study: its report, and a red task for each run that failed."""

import hashlib
from pathlib import Path
from typing import Any

import luigi

from bench.errors import StudyError
from bench.run.record import NOT_RUNNABLE, OK, failure, read_record, write_record
from bench.study.directory import run_name
from bench.study.order import TRACED
from tasks.invocation import INVOCATION, host_lock
from tasks.stages import ExtractLatency, OfStudy, RunPipeline, Stage, grid_of


class StudyReport(OfStudy):
    """results.json, tables and report.html, from the records of all cells, failed ones included."""

    def requires(self) -> list[Stage]:
        return [last_stage(self, slot.cell, slot.repeat) for slot in grid_of(self.run_dir).order]

    @property
    def record_path(self) -> Path:
        return self.directory.path / "report.json"

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.record_path))

    def complete(self) -> bool:
        record = read_record(self.record_path)
        if record is None or record["inputs"] != self._inputs():
            return False
        return all(task.complete() for task in self.requires())

    def run(self) -> None:
        from bench.results.make import make_report

        host_lock().release()
        inputs = self._inputs()
        make_report(self.directory.path, INVOCATION)
        write_record(self.record_path, {"invocation": INVOCATION, "inputs": inputs, **failure(OK, "")})

    def _inputs(self) -> str:
        """Names one state of all records: a report is made again whenever one of them was."""
        digest = hashlib.sha256()
        for pattern in ("runs/*.json", "nsys_reports/*.export.json", "latency/*.json"):
            for path in sorted(self.directory.path.glob(pattern)):
                status = path.stat()
                digest.update(f"{path.name} {status.st_mtime_ns} {status.st_size}\n".encode())
        return digest.hexdigest()[:16]


class CellCheck(OfStudy):
    """Fails with the reason of a run that failed: a red task with a name. Green once the run is mended."""

    cell = luigi.Parameter(description="the cell's name")
    repeat = luigi.Parameter(description="1, 2, ... or traced")
    strict = luigi.BoolParameter(description="a cell that cannot run on this host is a failure")

    def requires(self) -> Stage:
        return last_stage(self, self.cell, self.repeat)

    def complete(self) -> bool:
        record = self.requires().record()
        return self.requires().complete() and is_good(record, self.strict)

    def run(self) -> None:
        record = self.requires().record()
        if not is_good(record, self.strict):
            run = run_name(self.cell, self.repeat)
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
        return report.complete() and all(is_good(task.record(), self.strict) for task in report.requires())

    def run(self) -> Any:
        yield self._checks(of_this_call=True)

    def _checks(self, of_this_call: bool) -> list[CellCheck]:
        checks = []
        for slot in grid_of(self.run_dir).order:
            record = last_stage(self, slot.cell, slot.repeat).record()
            if record and not is_good(record, self.strict) and (record["invocation"] == INVOCATION) is of_this_call:
                checks.append(
                    CellCheck(
                        run_dir=self.run_dir,
                        host=self.host,
                        cell=slot.cell,
                        repeat=str(slot.repeat),
                        strict=self.strict,
                    )
                )
        return checks


def last_stage(task: OfStudy, cell: str, repeat: int | str) -> Stage:
    """The task whose record tells how a run ended: a traced run ends with its metrics."""
    where = {"run_dir": task.run_dir, "host": task.host, "cell": cell}
    return ExtractLatency(**where) if repeat == TRACED else RunPipeline(**where, repeat=str(repeat))


def is_good(record: dict[str, Any] | None, strict: bool) -> bool:
    return record is not None and (record["status"] == OK or (record["status"] == NOT_RUNNABLE and not strict))
