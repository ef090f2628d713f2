"""The outcome of a cell in the words of a table: what is only not there yet says how far the cell has come."""

from collections.abc import Iterable
from typing import Any

from bench.results.words import plural

Record = dict[str, Any]
MISSING = "missing"
NOT_TRACED, NOT_READ = "not traced", "trace not read"


def told_outcome(cell: Record) -> str:
    """Of a cell of results.json its outcome; where that is only missing "2 runs so far", "not traced" if nothing but
    the traced run is to come, "trace not read" if that is there and its metrics are not."""
    timed = [run for run in cell["runs"] if run["repeat"] != "traced" and run["status"] == "ok"]
    if cell["outcome"] != MISSING or not timed:
        return cell["outcome"]
    if not cell["failed_run"].endswith("_traced"):
        return f"{plural(len(timed), 'run')} so far"
    traced = any(run["repeat"] == "traced" and run["status"] == "ok" for run in cell["runs"])
    return NOT_READ if traced else NOT_TRACED


def is_untraced(cells: Iterable[Record]) -> bool:
    """Whether something was timed, and no trace at all tells anything."""
    cells = list(cells)
    return any(cell["throughput_samples_s"] for cell in cells) and not any(cell["metrics"] for cell in cells)
