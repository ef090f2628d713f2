"""Counts, success rate and duration of a study: experiment_summary.json."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

Record = dict[str, Any]


def count(cells: Iterable[Record], expected_runs: int) -> dict[str, int]:
    """Cells and runs by outcome; `runs` are those that the study asks for, runs_ok those that succeeded."""
    cells = list(cells)
    outcomes = Counter(cell["outcome"] for cell in cells)
    runs_ok = sum(run["status"] == "ok" for cell in cells for run in cell["runs"])
    return {"cells": len(cells), "ok": 0, "runs": expected_runs, "runs_ok": runs_ok, **outcomes}


def duration_s(runs: Iterable[Record]) -> float:
    """From the start of the first run to the end of the last; 0 without runs.

    A study that was interrupted and completed later counts the pause too; see busy_s.
    """
    spans = [(start, start + busy_s([run])) for run in runs if (start := _epoch_s(run.get("started_at"))) is not None]
    return round(max(end for _, end in spans) - min(start for start, _ in spans), 3) if spans else 0.0


def busy_s(runs: Iterable[Record]) -> float:
    """Wall time of all runs together."""
    return round(sum(run.get("wall_s") or 0.0 for run in runs), 3)


def windows_s(runs: Iterable[Record]) -> float:
    """Of busy_s what the measured windows of timed runs took."""
    timed = [run["result"] for run in runs if run.get("repeat") != "traced" and run.get("result")]
    return round(sum(window["duration_s"] for result in timed for window in result.get("windows") or ()), 3)


def experiment_summary(results: Record) -> Record:
    counts = results["counts"]
    return {
        "schema": 1,
        "study_name": results["study_name"],
        "run_directory": results["run_directory"],
        "created_at": results["created_at"],
        "invocation": results["invocation"],
        "host": results["host"].get("name"),
        "device": results["device"],
        "counts": counts,
        "success_rate": counts["ok"] / counts["cells"] if counts["cells"] else 0.0,
        "duration_s": results["duration_s"],
        "busy_s": results["busy_s"],
        "windows_s": results["windows_s"],
        "failures": [
            {
                "cell": cell["name"],
                "run": cell["failed_run"],
                "outcome": cell["outcome"],
                "reason": cell["reason"],
                "advice": cell["advice"],
            }
            for cell in results["cells"]
            if cell["outcome"] != "ok"
        ],
    }


def _epoch_s(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
