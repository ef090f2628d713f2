"""The tables of the page as plain values: no markup here, no thinking in the templates."""

from typing import Any

from bench.results.outcomes import MISSING, is_untraced, told_outcome
from bench.results.report.answer import Answer
from bench.results.report.labels import device_label, node_label, place_of
from bench.results.report.links import Files
from bench.results.rules import rules_of
from bench.results.series import series_label
from bench.results.tables import COLUMNS, display_row
from bench.results.verdicts import is_blind
from bench.results.words import NONE, microseconds, percent, rate, seconds, signed_share

Record = dict[str, Any]
TOP_KERNELS = 8
_WHO = ("model", "device", "node", "outcome")
# Of the numbers of a row in tables.COLUMNS, those that come from a trace.
_FROM_TRACE = ("H2D GB/s", "D2H GB/s", "efficiency")


def grid_columns(results: Record) -> list[str]:
    """Those that say who a cell is, its numbers, and its regime; without a trace none that would be empty."""
    if is_untraced(results["cells"]):
        return [*_WHO, *(column for column in COLUMNS[2:-1] if column not in _FROM_TRACE), "solo"]
    return [*_WHO, *COLUMNS[2:-1], "solo", "traced", "regime"]


def grid_rows(results: Record) -> list[Record]:
    """The table of cells, the numbers in the order of grid_columns."""
    columns = grid_columns(results)
    rows = []
    for cell in results["cells"]:
        numbers = dict(zip(COLUMNS[2:-1], display_row(cell)[2:-1], strict=True))
        numbers |= {"solo": percent(cell["efficiency_solo"]), "traced": percent(cell["perturbation"])}
        rows.append(
            {
                "name": cell["name"],
                "outcome": cell["outcome"],
                "told": told_outcome(cell),
                "model": series_label(cell),
                "device": device_label(cell),
                "node": node_label(*place_of(cell)),
                "values": [numbers[column] for column in columns if column in numbers],
                "regime": (cell["metrics"] or {}).get("regime") or NONE,
                "remarks": len(cell["remarks"]),
                "perturbed": cell["perturbation"] is not None and not cell["clocks"]["events_comparable"],
            }
        )
    return rows


def penalty_rows(results: Record, answers: list[Answer]) -> list[Record]:
    """One row for each comparison, those that could not be made included."""
    cells = {cell["name"]: cell for cell in results["cells"]}
    figures = {loss.cell: loss for answer in answers for loss in answer.losses}
    rows = []
    for entry in results["penalties"]:
        remote, loss = cells[entry["remote_cell"]], figures.get(entry["remote_cell"])
        rows.append(
            {
                "model": series_label(remote),
                "device": device_label(remote),
                "local_node": entry["local_node"],
                "local_cell": entry["local_cell"],
                "remote_cell": entry["remote_cell"],
                "place": node_label(*place_of(remote)),
                "figure": signed_share(loss.share, loss.interval) if loss else NONE,
                "verdict": entry["verdict"] or "",
                "text": entry["text"],
                "hint": entry.get("hint") or "",
                "detectable": NONE if is_blind(entry["mde"]) else percent(entry["mde"]),
                "pairs": entry["pairs"],
                "class": cells[entry["local_cell"]]["penalty_class"] or NONE,
            }
        )
    return rows


def effect_rows(results: Record) -> list[Record]:
    """CPU part, memory part and interaction, where a study has all four placements."""
    cells = {cell["name"]: cell for cell in results["cells"]}
    return [
        {
            "model": series_label(cells[entry["remote_cell"]]),
            "device": device_label(cells[entry["remote_cell"]]),
            "place": f"node {entry['remote_node']}",
            "cell": entry["remote_cell"],
            "effects": [entry["effects"][part]["text"] for part in ("cpu", "memory", "interaction")],
        }
        for entry in results["penalties"]
        if entry.get("effects")
    ]


def failure_groups(results: Record, files: Files) -> list[Record]:
    """Cells that are not ok; those with the same outcome, reason and log stand together, what is only missing last."""
    groups: dict[Any, Record] = {}
    for cell in results["cells"]:
        if cell["outcome"] == "ok":
            continue
        said = {key: cell[key] for key in ("outcome", "reason", "advice", "log_tail")} | {"told": told_outcome(cell)}
        group = groups.setdefault(repr(said), said | {"cells": []})
        run = cell["failed_run"] or cell["name"]
        group["cells"].append((cell["name"], run, files.of_run(run)))
    return sorted(groups.values(), key=lambda group: group["outcome"] == MISSING)


def run_groups(results: Record, files: Files) -> list[Record]:
    """Every run of every cell with its links."""
    groups = []
    for cell in results["cells"]:
        runs = [
            {
                "run": run["run"],
                "repeat": run["repeat"],
                "status": run["status"],
                "throughput": rate(run["throughput_samples_s"]),
                "placement": run["placement"] or NONE,
                "disturbed": run["disturbed"],
                "position": NONE if run["position"] is None else run["position"],
                "wall": seconds(run["wall_s"]),
                "links": files.of_run(run["run"]),
            }
            for run in cell["runs"]
        ]
        links = files.of_trace(cell["name"])
        said = {"remarks": cell["remarks"], "kernels": kernel_rows(cell["metrics"] or {})}
        known = {"name": cell["name"], "outcome": cell["outcome"], "told": told_outcome(cell)}
        groups.append(known | {"runs": runs, "links": links} | said)
    return groups


def kernel_rows(metrics: Record) -> list[tuple[str, str, str, str]]:
    """(name, calls, time of one, share of the window) of the kernels that took most time."""
    return [
        (
            kernel["name"],
            f"{kernel['calls']:,}",
            microseconds(kernel["total_ns"] / kernel["calls"] / 1e3),
            percent(kernel["total_ns"] / metrics["window_ns"]),
        )
        for kernel in (metrics.get("top_kernels") or [])[:TOP_KERNELS]
    ]


def twins(results: Record) -> list[Record]:
    """A model listed twice, against itself: name and what came out."""
    from bench.results.selfcheck import evaluate

    cells = [cell for cell in results["cells"] if cell["throughput_samples_s"]]
    labels = {cell["name"]: series_label(cell) for cell in cells}
    told = []
    for pair in evaluate(cells, rules_of(results["study"]).margin).comparisons:
        name = pair["name"].split(" / ", 1)[0]
        told.append({"name": labels.get(name, name), "text": pair["text"]})
    return told
