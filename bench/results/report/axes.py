"""The sections of swept axes, and the answer that they give, as plain values for the templates."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from bench.results.contention import AXIS
from bench.results.effects import MATTERS, ONCE, PROBABLE, SAME, UNDECIDED, change, listed, values_only
from bench.results.report.compiling import compiling_lines, cost_of_compiling
from bench.results.report.contention import contention_lines
from bench.results.report.labels import device_label, node_label, place_of
from bench.results.report.plots.axes import axis_picture
from bench.results.report.plots.style import Picture
from bench.results.report.regimes import regime_line
from bench.results.series import series_label
from bench.results.words import at_most, plural, rate, signed_share

Record = dict[str, Any]
# Longer tables are closed until they are asked for.
LONGEST_OPEN = 12
# On the first screen; the rest stands in the sections.
_VALUES_TOLD = 3


@dataclass(frozen=True)
class Finding:
    """What one axis does, for the first screen. id: of its section; state: matters, same, undecided, not measured."""

    id: str
    axis: str
    state: str
    lead: str
    lines: tuple[str, ...]


def findings(results: Record) -> list[Finding]:
    """Axes that matter first, the largest effect at their head."""
    compared = sorted(results["comparisons"], key=lambda entry: (_rank(entry), -entry["size"]))
    busy = tuple(contention_lines(results))
    cells = {cell["name"]: cell for cell in results["cells"]}
    found = [(entry, _finding(entry, cells)) for entry in compared]
    return [replace(one, lines=busy) if AXIS in entry["keys"] else one for entry, one in found]


def what_matters(found: list[Finding]) -> str:
    """One sentence over all axes."""
    names = {state: [axis_name(one.axis) for one in found if one.state == state] for state in (MATTERS, SAME)}
    rest = [axis_name(one.axis) for one in found if one.state not in (MATTERS, SAME)]
    said = [f"What matters: {', '.join(names[MATTERS])}."] if names[MATTERS] else []
    if names[SAME]:
        said.append(f"What does not: {', '.join(names[SAME])}.")
    if rest:
        said.append(f"Not decided: {', '.join(rest)}.")
    return " ".join(said)


def axis_sections(results: Record) -> list[Record]:
    """One section an axis, in the order of the study: summary lines, picture, penalties by value, table."""
    cells = {cell["name"]: cell for cell in results["cells"]}
    return [
        {
            "id": section_id(entry["axis"]),
            "axis": axis_name(entry["axis"]),
            "base": values_only(entry["base"]),
            "title": _title(entry),
            "summary": [*(one["text"] for one in entry["summary"]), *compiling_lines(entry, cells)],
            "costs": _penalties_by_value(entry, results["penalties"], cells),
            "columns": [values_only(value) for value in entry["values"]],
            "rows": _told_apart([_row(line, cells) for line in entry["lines"]], cells),
            "open": len(entry["lines"]) <= LONGEST_OPEN,
        }
        for entry in results["comparisons"]
    ]


def axis_pictures(results: Record) -> dict[str, Picture]:
    """By the id of the section."""
    drawn = {section_id(entry["axis"]): axis_picture(entry) for entry in results["comparisons"]}
    return {known: picture for known, picture in drawn.items() if picture}


def section_id(axis: str) -> str:
    return "axis-" + axis.replace(", ", "-")


def axis_name(axis: str) -> str:
    return listed([key.replace("_", " ").replace("cuda", "CUDA").replace("gpus", "GPUs") for key in axis.split(", ")])


def _rank(entry: Record) -> int:
    return {MATTERS: 0, SAME: 1}.get(entry["state"], 2)


def _finding(entry: Record, cells: dict[str, Record]) -> Finding:
    lines: tuple[str, ...] = ()
    if entry["state"] in (MATTERS, UNDECIDED):
        told = sorted(entry["summary"], key=_largest, reverse=True)
        lines = tuple(one["text"] for one in told[:_VALUES_TOLD])
        if len(told) > _VALUES_TOLD:
            lines += (f"{plural(len(told) - _VALUES_TOLD, 'more value')} below",)
    lines += tuple(compiling_lines(entry, cells))
    if regimes := regime_line(entry, cells):
        lines += (regimes,)
    return Finding(section_id(entry["axis"]), entry["axis"], entry["state"], _title(entry), lines)


def _title(entry: Record) -> str:
    name = axis_name(entry["axis"])
    several = name.endswith("s") or " and " in name
    compared = [line for line in entry["lines"] if line["effect"] is not None]
    differ = sum(line["verdict"] in ("FASTER", "SLOWER") for line in compared)
    undecided = {
        ONCE: (f"{'were' if several else 'was'} measured once", ": no uncertainty is known"),
        PROBABLE: (
            f"{'differ' if several else 'differs'} in {differ} of {len(compared)} comparisons",
            ", but in none beyond the noise after correction for their number",
        ),
    }
    known = {
        MATTERS: ("matter" if several else "matters", ""),
        SAME: (f"{'do' if several else 'does'} not matter: no difference above {at_most(entry['bound'] or 0)}", ""),
        UNDECIDED: undecided.get(
            entry["doubt"],
            (f"{'are' if several else 'is'} not decided", f": {_pairs(compared)} do not tell it from noise"),
        ),
    }
    said, why = known.get(entry["state"], (f"{'were' if several else 'was'} not measured", ""))
    return f"{name[0].upper()}{name[1:]} {said}, against {_base(entry)}{why}"


def _pairs(lines: list[Record]) -> str:
    most = max((line["pairs"] for line in lines), default=0)
    return f"{plural(most, 'pair')} a comparison"


def _base(entry: Record) -> str:
    values = values_only(entry["base"])
    return f"{axis_name(entry['axis'])} {values}" if values.replace(".", "").isdigit() else values


def _largest(summary: Record) -> float:
    effects = [model[end] for model in summary["models"] for end in ("low", "high") if model[end] is not None]
    return max((abs(math.log1p(effect)) for effect in effects), default=0.0)


def _row(line: Record, cells: dict[str, Record]) -> Record:
    cell, base = cells[line["name"]], cells[line["base_cell"]]
    return {
        "cell": line["name"],
        "base_cell": line["base_cell"],
        "model": _shared_label(base, cell),
        "device": device_label(cell),
        "node": node_label(*place_of(cell)),
        "value": values_only(line["value"]),
        "to": rate(cell["throughput_samples_s"]),
        "from": rate(base["throughput_samples_s"]),
        "change": change(line["effect"], line["interval"]) if line["effect"] is not None else "–",
        "verdict": line["verdict"] or "",
        # A decided line has said all in its change.
        "text": "" if line["verdict"] in ("SAME", "FASTER", "SLOWER") else line["text"],
        "hint": line["hint"],
        "cost": cost_of_compiling(line, cells),
    }


def _shared_label(base: Record, cell: Record) -> str:
    """The base's label without what the axis sets it to, where that is not the study's own value."""
    model, *suffixes = series_label(base).split(" ")
    own = series_label(cell).split(" ")
    return " ".join([model, *(part for part in suffixes if part in own)])


def _told_apart(rows: list[Record], cells: dict[str, Record]) -> list[Record]:
    """Rows of one base and one value differ in another setting: there the cell's own label takes the base's place."""
    alike = Counter(_told(row) for row in rows)
    return [row | {"model": series_label(cells[row["cell"]])} if alike[_told(row)] > 1 else row for row in rows]


def _told(row: Record) -> tuple[str, ...]:
    return row["model"], row["device"], row["node"], row["value"]


def _penalties_by_value(entry: Record, penalties: list[Record], cells: dict[str, Record]) -> list[Record]:
    """Rows of (model, GPU, placement elsewhere), a penalty for each value of the axis; empty without penalties."""
    keys = list(entry["base"])
    rows: dict[Any, Record] = {}
    for told in penalties:
        if told["penalty"] is None:
            continue
        cell = cells[told["remote_cell"]]
        value = {key: cell["model"].get(key, cell["settings"].get(key)) for key in keys}
        if value not in entry["values"]:
            continue
        own = _series(entry, cell, cells)
        empty = {"model": own, "device": device_label(cell), "place": node_label(*place_of(cell))}
        row = rows.setdefault((own, cell["gpu"], place_of(cell)), empty | {"cells": [None] * len(entry["values"])})
        figure = signed_share(told["penalty"], told["interval"])
        row["cells"][entry["values"].index(value)] = (told["remote_cell"], figure)
    return [row for row in rows.values() if sum(cell is not None for cell in row["cells"]) > 1]


def _series(entry: Record, cell: Record, cells: dict[str, Record]) -> str:
    """The label of the base cell that this cell is compared with, or is."""
    base = next((line["base_cell"] for line in entry["lines"] if line["name"] == cell["name"]), cell["name"])
    return series_label(cells[base])
