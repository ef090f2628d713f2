"""The parts of the page as plain values for the templates: no markup here, no data access there."""

from typing import Any

from bench.results.cells import regime_name
from bench.results.report.links import Files
from bench.results.report.plots.style import node_label, series_label
from bench.results.tables import COLUMNS, display_row
from bench.results.words import percent, plural, rate, seconds

Record = dict[str, Any]
CPU_ONLY = "CPU device: no GPU was measured"
UNBOUND = "Nothing was bound: the nodes are labels, and differences between them mean nothing"


def notes(results: Record) -> list[str]:
    """What stands on every page before anything else is read."""
    found = []
    if results["device"] == "cpu":
        found.append(CPU_ONLY)
    if results["binding"] == "none":
        found.append(UNBOUND)
    missing = results["counts"].get("missing", 0)
    if missing:
        found.append(f"Not complete: {plural(missing, 'cell')} not measured yet")
    if results["damaged"]:
        found.append(f"{plural(len(results['damaged']), 'record')} could not be read; see the failures")
    return found


def trust_items(results: Record) -> list[tuple[str, str, str]]:
    """(figure, label, state) of the trust line; state is good, warn or plain."""
    trust, counts = results["trust"], results["counts"]
    items = [
        (
            f"{counts['ok']} of {counts['cells']}",
            "cells ok",
            "good" if counts["ok"] == counts["cells"] else "warn",
        )
    ]
    if results["binding"] == "none":
        items.append(("none", "of the runs was bound", "warn"))
    else:
        good = trust["proved"] == trust["runs_ok"] > 0
        items.append(
            (
                f"{trust['proved']} of {trust['runs_ok']}",
                "runs with placement proved",
                "good" if good else "warn",
            )
        )
    if trust["noise_floor"] is not None:
        items.append((percent(trust["noise_floor"]), "noise floor of this host", "plain"))
    elif trust["noise"]:
        words = {"rest": "spread between runs", "launch-bound": "spread, launch-bound models"}
        items += [
            (percent(trust["noise"][name]), words.get(name, name), "plain")
            for name in ("rest", "launch-bound")
            if name in trust["noise"]
        ]
    else:
        items.append(("1 run", "a cell: no uncertainty known", "warn"))
    if trust["monitored"]:
        throttled = len(trust["throttled"])
        items.append((str(throttled), "runs throttled", "warn" if throttled else "good"))
    else:
        items.append((NOT_WATCHED, "clocks and throttling", "plain"))
    return items


NOT_WATCHED = "not watched"


def grid_rows(results: Record) -> list[Record]:
    """The table of cells: the cells of a row in the order of GRID_COLUMNS, and what to link."""
    rows = []
    for cell in results["cells"]:
        shown = display_row(cell)
        rows.append(
            {
                "name": cell["name"],
                "outcome": cell["outcome"],
                "model": series_label(cell),
                "gpu": cell["gpu"],
                "node": node_label(cell["cpu_node"], cell["mem_node"]),
                "values": shown[2:-1],
                "regime": regime_name(cell["metrics"]) or "–",
                "solo": percent(cell["efficiency_solo"]),
                "perturbation": percent(cell["perturbation"]),
                "perturbed": cell["perturbation"] is not None and abs(cell["perturbation"] - 1) > 0.05,
            }
        )
    return rows


GRID_COLUMNS = (
    "model",
    "GPU",
    "node",
    "outcome",
    *COLUMNS[2:-1],
    "efficiency solo",
    "traced / timed",
    "regime",
)


def failures(results: Record) -> list[Record]:
    return [cell for cell in results["cells"] if cell["outcome"] != "ok"]


def run_groups(results: Record, files: Files) -> list[Record]:
    """Every run of every cell with its links."""
    groups = []
    for cell in results["cells"]:
        runs = [
            {
                "name": run["run"],
                "repeat": run["repeat"],
                "status": run["status"],
                "reason": run["reason"] or "",
                "throughput": rate(run["throughput_samples_s"]),
                "placement": run["placement"] or "–",
                "position": run["position"],
                "links": files.of_run(run["run"]),
            }
            for run in cell["runs"]
        ]
        groups.append(
            {
                "name": cell["name"],
                "outcome": cell["outcome"],
                "runs": runs,
                "links": files.of_trace(cell["name"]),
            }
        )
    return groups


def method(results: Record, runs: dict[str, Record], order: tuple[Record, ...]) -> Record:
    """Versions, seed, order, command lines, fingerprint."""
    study = results["study"]
    versions = next(
        (run["result"]["versions"] for run in runs.values() if (run.get("result") or {}).get("versions")), {}
    )
    commands = {}
    for slot in order:
        record = next(
            (
                run
                for run in runs.values()
                if run["cell"] == slot.get("cell") and run["repeat"] == slot.get("repeat")
            ),
            None,
        )
        if record and record.get("command"):
            commands.setdefault(
                "traced run" if record["repeat"] == "traced" else "timed run",
                (record["run"], " ".join(map(str, record["command"]))),
            )
    plain = {key: value for key, value in study.items() if not isinstance(value, list | dict)}
    return {
        "versions": versions,
        "study": plain,
        "fingerprint": results["fingerprint"],
        "commands": commands,
        "order": [f"{slot.get('cell')} {_repeat(slot.get('repeat'))}" for slot in order],
        "duration": seconds(results["duration_s"]),
        "busy": seconds(results["busy_s"]),
    }


def _repeat(repeat: Any) -> str:
    return "traced" if repeat == "traced" else f"r{repeat}"
