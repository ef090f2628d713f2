"""What the numbers of a study rest on: proof of placement, disturbance, spread between processes."""

import statistics
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


def trust(runs: Iterable[Record], cells: Iterable[Record]) -> Record:
    """Counts over the runs that are ok.

    proved: runs whose certificate says "proved"; unproved: names of the others. throttled, disturbed: names.
    monitored: runs with a monitor. noise: by noise class the median over cells of the relative standard
    deviation between runs of a cell (a class with one run a cell is absent: no uncertainty is known).
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
        "proved": len(proved),
        "unproved": sorted({run["run"] for run in good} - set(proved)),
        "monitored": len(monitors),
        "throttled": sorted(run for run, monitor in monitors.items() if monitor.get("throttle_reasons")),
        "disturbed": sorted(run for run, monitor in monitors.items() if monitor.get("disturbed")),
        "noise": {name: statistics.median(values) for name, values in sorted(spreads.items())},
        "noise_floor": None,
    }


def _verdict(run: Record) -> str | None:
    return ((run.get("result") or {}).get("certificate") or {}).get("verdict")
