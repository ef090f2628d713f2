"""The export stage: a traced run's profile becomes SQLite, or a record that says why not."""

import time
from typing import Any

from bench.errors import StudyError
from bench.run.record import CRASHED, OK, TRACE_FAILED, failure, passed_on, read_record, write_record
from bench.study.cell import Cell
from bench.study.directory import RunDirectory
from bench.study.order import TRACED
from bench.trace.profilers import get_profiler


def export_trace(directory: RunDirectory, cell: Cell, invocation: str) -> dict[str, Any]:
    """Write nsys_reports/<cell>.sqlite and its record. A failed run is passed on."""
    begin = time.monotonic()
    run = read_record(directory.record(cell.name, TRACED))
    if run is None:
        run = failure(CRASHED, "the traced run left no record", "start the study again") | {"started_at": ""}
    sqlite = directory.sqlite(cell.name)
    outcome = passed_on(run)
    if run["status"] == OK:
        try:
            get_profiler(cell.profiler).export(directory.report(cell.name), sqlite)
            outcome = failure(OK, "")
        except StudyError as error:
            outcome = failure(TRACE_FAILED, error.what, error.advice)
    size = sqlite.stat().st_size if outcome["status"] == OK else None
    return write_record(
        directory.export_record(cell.name),
        {
            "cell": cell.name,
            "invocation": invocation,
            "source": run["started_at"],
            "profiler": cell.profiler,
            "sqlite": sqlite.name if size else None,
            "sqlite_bytes": size,
            "wall_s": round(time.monotonic() - begin, 3),
            **outcome,
        },
    )
