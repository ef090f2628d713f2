"""The last words of a call of luigi: where the report is, and the table of its cells."""

import atexit
import os

from bench.errors import StudyError
from bench.files import read_json
from bench.run.record import NOT_RUNNABLE, OK, read_record
from bench.study.directory import RunDirectory
from tasks.invocation import INVOCATION

_directories: list[RunDirectory] = []


def close_with_summary(directory: RunDirectory) -> None:
    """Print the summary of this run directory when luigi's own process ends."""
    if not _directories:
        atexit.register(_print_all, os.getpid())
    if directory not in _directories:
        _directories.append(directory)


def _print_all(owner: int) -> None:
    if os.getpid() == owner:
        for directory in _directories:
            try:
                words = closing_words(directory)
            except (OSError, StudyError) as error:
                # What made the study fail may keep it from being told.
                words = f"no summary: {error}; the same command goes on from here"
            print("\n" + words, flush=True)


def closing_words(directory: RunDirectory) -> str:
    records = [read_record(path) for path in directory.path.glob("runs/*.json")]
    measured = sum(record is not None and record["invocation"] == INVOCATION for record in records)
    if not directory.results.exists():
        return f"no report yet: {measured} runs measured in {directory.path}; the same command goes on from here"
    from bench.results.tables import cells_table

    results = read_json(directory.results)
    lines = [cells_table(results)]
    if results["busy_s"] and "windows_s" in results:
        share = 100 * results["windows_s"] / results["busy_s"]
        lines.append(f"measured windows: {share:.0f} % of the {results['busy_s']:.0f} s that runs took")
    if not measured:
        all_there = all(cell["outcome"] in (OK, NOT_RUNNABLE) for cell in results["cells"])
        more = ": all of it is there already. `--fresh` measures it again." if all_there else "."
        lines.append(f"Nothing was measured now{more}")
    lines.append(f"report: {directory.path / 'report.html'}")
    return "\n".join(lines)
