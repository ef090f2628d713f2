"""What the numbers of a study rest on: proof of placement, disturbance, spread between processes."""

import statistics
from collections.abc import Iterable
from typing import Any

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
        "disturbed_by": {run: monitor["disturbed"] for run, monitor in monitors.items() if monitor.get("disturbed")},
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
    return "; ".join(_certificate(run).get("reasons") or ()) or "it gives no reason"
