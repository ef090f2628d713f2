"""Placement proof, disturbance and counts of a study."""

import statistics
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

# --- trust
# What the numbers of a study rest on: proof of placement, disturbance, spread between processes.

Record = dict[str, Any]


def trust(runs: Iterable[Record], cells: Iterable[Record], fingerprint: Record | None = None) -> Record:
    """Counts over the runs that are ok; timed_ok of them are timed.

    proved: runs whose certificate says "proved"; unproved: names of the others; doubts: why, by name.
    monitored: runs with a monitor, unseen: those of them whose GPU did not tell whether it was throttled.
    throttled, disturbed: names; disturbed_by: by what. noise: by noise class the median over cells of the
    relative standard deviation between runs of a cell (a class with one run a cell is absent: no uncertainty
    is known). strangers: runs under another fingerprint than the study's, grouped by what differs.
    """
    good = [run for run in runs if run["status"] == "ok"]
    proved = [run["run"] for run in good if _verdict(run) == "proved"]
    monitors = {run["run"]: run["monitor"] for run in good if isinstance(run.get("monitor"), dict)}
    spreads: dict[str, list[float]] = {}
    for cell in cells:
        if cell["throughput_spread"] is not None:
            spreads.setdefault(cell["noise_class"], []).append(cell["throughput_spread"])
    return {
        "runs_ok": len(good),
        "timed_ok": sum(run["repeat"] != "traced" for run in good),
        "proved": len(proved),
        "unproved": sorted({run["run"] for run in good} - set(proved)),
        "doubts": {run["run"]: _doubts(run) for run in good if _verdict(run) != "proved"},
        "monitored": len(monitors),
        "unseen": sorted(run for run, monitor in monitors.items() if monitor.get("throttle_known") is False),
        "throttled": sorted(run for run, monitor in monitors.items() if monitor.get("throttle_reasons")),
        "disturbed": sorted(run for run, monitor in monitors.items() if monitor.get("disturbed")),
        "disturbed_by": {
            run: list(map(_text, monitor["disturbed"])) for run, monitor in monitors.items() if monitor.get("disturbed")
        },
        "noise": {name: statistics.median(values) for name, values in sorted(spreads.items())},
        "noise_floor": None,
        "strangers": strangers(good, fingerprint or {}),
    }


def strangers(runs: Iterable[Record], fingerprint: Record) -> list[Record]:
    """runs (names) and differs (sentences) of each fingerprint that is not the study's."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        own = run.get("fingerprint") or {}
        differs = tuple(
            f"{key} {own[key]}, the study's is {fingerprint[key]}"
            for key in own
            if key in fingerprint and own[key] != fingerprint[key]
        )
        if differs:
            groups.setdefault(differs, []).append(run["run"])
    return [{"runs": sorted(names), "differs": list(differs)} for differs, names in groups.items()]


def _certificate(run: Record) -> Record:
    return (run.get("result") or {}).get("certificate") or {}


def _verdict(run: Record) -> str | None:
    return _certificate(run).get("verdict")


def _doubts(run: Record) -> str:
    if not _certificate(run):
        return "it left no certificate"
    return "; ".join(map(_text, _certificate(run).get("reasons") or ())) or "it gives no reason"


# --- summary
# Counts, success rate and duration of a study: experiment_summary.json.

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


def _text(reason: str | Record) -> str:
    return reason if isinstance(reason, str) else reason["text"]
