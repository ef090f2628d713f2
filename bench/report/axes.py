"""The sections of swept axes as values."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from bench.legacy.axes import (
    MATTERS,
    ONCE,
    PROBABLE,
    SAME,
    UNDECIDED,
    change,
    listed,
    series_label,
    value_label,
    values_only,
)
from bench.legacy.contention import AXIS
from bench.report.labels import device_label, node_label, place_of
from bench.report.plots.style import Picture
from bench.report.plots.sweeps import axis_picture
from bench.report.swept import contention_lines
from bench.units import at_most, percent, plural, rate, seconds, signed_share

# --- over_settings
# A place in one sentence where every model was compared under several settings.

Losses = list[Any]
# As many can be named one by one.
LONGEST_LIST = 8


def is_crowded(losses: Losses) -> bool:
    return len(losses) > LONGEST_LIST and len(_by_model(losses)) < len(losses)


def crowded_line(place: str, losses: Losses) -> str:
    """ "On node 1 vit0x0x0 loses 12 % (bs1) to 30 % (bs8) in 3 of 4 settings and nothing above 1 % in 1; ..."."""
    groups = sorted(_by_model(losses).items(), key=lambda group: -max(loss.share for loss in group[1]))
    said = [f"{model} {_model(own)}" for model, own in groups if any(_differs(loss) for loss in own)]
    same = [model for model, own in groups if all(_same(loss) for loss in own)]
    if same:
        bound = _bound([loss for loss in losses if loss.label.split(" ")[0] in same])
        verb = "loses" if len(same) == 1 else "lose"
        said.append(f"{listed(same)} {verb} nothing above {bound} in any setting")
    rest = [model for model, own in groups if not any(_differs(one) for one in own) and model not in same]
    if rest:
        said.append(f"{listed(rest)}: {_rest([loss for loss in losses if loss.label.split(' ')[0] in rest])}")
    return f"On {place} " + "; ".join(said) + "."


def _model(losses: Losses) -> str:
    parts = []
    for slower in (True, False):
        own = [loss for loss in losses if _differs(loss) and (loss.share >= 0) is slower]
        if own:
            verb = ("" if any(loss.sure for loss in own) else "probably ") + ("loses" if slower else "gains")
            parts.append(f"{verb} {_range(own)} in {len(own)} of {len(losses)} settings")
    others = [loss for loss in losses if not _differs(loss)]
    return " and ".join(parts) + (f" ({_rest(others)})" if others else "")


def _rest(losses: Losses) -> str:
    same = [loss for loss in losses if _same(loss)]
    said = [f"nothing above {_bound(same)} in {len(same)}"] if same else []
    if len(losses) > len(same):
        said.append(f"too noisy to tell in {len(losses) - len(same)}")
    return ", ".join(said)


def _range(losses: Losses) -> str:
    """Least and most, each with its settings: "4.2 % (bs1) to 30 % (bs32 graph)"."""
    ends = [pick(losses, key=lambda loss: abs(loss.share)) for pick in (min, max)]
    low, high = (percent(abs(loss.share)) for loss in ends)
    if low == high:
        return low
    low_at, high_at = (loss.label.partition(" ")[2] or "base" for loss in ends)
    return f"{low} to {high}" if low_at == high_at else f"{low} ({low_at}) to {high} ({high_at})"


def _bound(losses: Losses) -> str:
    return at_most(max(max(loss.interval[1], 0.0) for loss in losses))


def _differs(loss: Any) -> bool:
    return loss.verdict in ("SLOWER", "FASTER")


def _same(loss: Any) -> bool:
    return loss.verdict == "SAME" and loss.interval is not None


def _by_model(losses: Losses) -> dict[str, Losses]:
    groups: dict[str, Losses] = {}
    for loss in losses:
        groups.setdefault(loss.label.split(" ")[0], []).append(loss)
    return groups


# --- regimes
# How the regime changes along an axis of numbers, in one line.

Record = dict[str, Any]
_NAMED = 3


def regime_line(entry: Record, cells: dict[str, Record]) -> str:
    """ "Regime: launch-bound up to 8, compute-bound from 16 on: vit32x6x512; transfer-bound throughout: vit0x0x0."

    entry: one of results.json's comparisons. Empty where the axis is no numbers, where no regime changes along it, and
    where nothing was traced.
    """
    if len(entry["keys"]) > 1 or not all(_is_number(value) for one in entry["values"] for value in one.values()):
        return ""
    paths: dict[str, list[str]] = {}
    for label, regimes in _series_of_regimes(entry, cells):
        names = paths.setdefault(_path(sorted(regimes.items())), [])
        names += [label] * (label not in names)
    if all(path.endswith("throughout") for path in paths):
        return ""
    ranked = sorted(paths.items(), key=lambda path: (path[0].endswith("throughout"), -len(path[1])))
    return f"Regime: {'; '.join(f'{path}: {_names(names)}' for path, names in ranked)}."


def _series_of_regimes(entry: Record, cells: dict[str, Record]) -> list[tuple[str, dict[float, str]]]:
    """(model and settings, regime by value) of the cells that are compared with one base, itself included.

    A base alone is one of several series where others differ in what it does not have: alone it has no company.
    """
    (key,) = entry["keys"]
    apart = _apart(entry["lines"], cells)
    found: dict[Any, tuple[str, dict[float, str]]] = {}
    for line in entry["lines"]:
        own = {name: _facts(cells[line["name"]]).get(name) for name in apart[line["base_cell"]]}
        label = " ".join(filter(None, (line["model"], line["setting"], value_label(own))))
        _, regimes = found.setdefault((line["base_cell"], repr(own)), (label, {}))
        for name, value in ((line["base_cell"], entry["base"][key]), (line["name"], line["value"][key])):
            if regime := (cells[name]["metrics"] or {}).get("regime"):
                regimes[value] = regime
    return [one for one in found.values() if len(one[1]) > 1]


def _apart(lines: list[Record], cells: dict[str, Record]) -> dict[str, list[str]]:
    """By base cell, the settings that tell cells of one value apart; mostly there are none."""
    alike: dict[tuple[str, float], list[Record]] = {}
    for line in lines:
        (value,) = line["value"].values()
        alike.setdefault((line["base_cell"], value), []).append(_facts(cells[line["name"]]))
    apart: dict[str, list[str]] = {}
    for (base, _), (first, *others) in alike.items():
        names = apart.setdefault(base, [])
        names += [name for name in first if name not in names and any(one.get(name) != first[name] for one in others)]
    return apart


def _facts(cell: Record) -> Record:
    """Settings, and what of the model is not its name."""
    return cell["settings"] | {key: value for key, value in cell["model"].items() if key != "name"}


def _path(regimes: list[tuple[float, str]]) -> str:
    parts = [(regime, [value for value, _ in own]) for regime, own in groupby(regimes, key=lambda one: one[1])]
    if len(parts) == 1:
        return f"{parts[0][0]} throughout"
    return ", ".join(f"{regime} {_where(values, at, len(parts) - 1)}" for at, (regime, values) in enumerate(parts))


def _where(values: list[float], at: int, last: int) -> str:
    if len(values) == 1:
        return f"at {values[0]}"
    if at == 0:
        return f"up to {values[-1]}"
    return f"from {values[0]} on" if at == last else f"from {values[0]} to {values[-1]}"


def _names(names: list[str]) -> str:
    return listed(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- compiling
# What compiling takes of a process, and after how much work what it gains has paid for it.

Record = dict[str, Any]
KEY = "compile_model"


def compiling_lines(entry: Record, cells: dict[str, Record]) -> list[str]:
    """One line a mode: "compiling with default took 2.4 to 14 s a run; ... ". Empty unless an axis sets the mode.

    entry: one of results.json's comparisons.
    """
    if KEY not in entry["keys"]:
        return []
    modes = dict.fromkeys(value[KEY] for value in entry["values"])
    said = []
    for mode in modes:
        lines = [line for line in entry["lines"] if line["value"][KEY] == mode]
        own = [cells[line["name"]]["compile_s"] for line in lines]
        if entry["base"][KEY] == mode:
            own += [cells[name]["compile_s"] for name in dict.fromkeys(line["base_cell"] for line in entry["lines"])]
        if known := [one for one in own if one]:
            took = _between(end for one in known for end in one.values())
            said.append(f"compiling with {mode} took {took} a run{_paid(lines, cells)}")
    return said


def cost_of_compiling(line: Record, cells: dict[str, Record]) -> str:
    """Of one comparison, beside what it gains; empty where nothing was compiled, and along other axes."""
    own, base = (cells[line[key]]["compile_s"] for key in ("name", "base_cell"))
    if not own or KEY not in line["value"]:
        return ""
    paid_s = paid_back_s(line, own["most"] - (base["most"] if base else 0.0))
    made_up = f", made up for after {seconds(paid_s)} of work" if paid_s else ""
    return f"compiled in {_between(own.values())}{made_up}"


def paid_back_s(line: Record, more_s: float) -> float | None:
    """Seconds of work after which the faster cell has done as much as its base, more_s seconds more of compiling
    included: with a throughput of 1 + effect of the base's (T - C) (1 + effect) = T, so T = C (1 + effect) / effect.

    None unless it is faster, and where the base compiles as long.
    """
    if line["verdict"] != "FASTER" or more_s <= 0:
        return None
    return more_s * (1 + line["effect"]) / line["effect"]


def _paid(lines: list[Record], cells: dict[str, Record]) -> str:
    """Over the lines that surely differ. Of a model in several places or settings only the first compiles without a
    cache: its longest compilation stands for all."""

    def longest_s(model: str, key: str) -> float:
        known = [cells[line[key]]["compile_s"] for line in lines if line["model"] == model]
        return max((one["most"] for one in known if one), default=0.0)

    more_s = {line["model"]: longest_s(line["model"], "name") - longest_s(line["model"], "base_cell") for line in lines}
    sure = [line for line in lines if line["headline"]]
    told = [(paid_back_s(line, more_s[line["model"]]), line["model"]) for line in sure]
    found = [(paid_s, model) for paid_s, model in told if paid_s is not None]
    if not found:
        return ""
    (least_s, first), (most_s, last) = min(found), max(found)
    ends = [f"{seconds(least_s)} ({first})", f"{seconds(most_s)} ({last})"]
    return f"; the gain makes up for the longest after {' to '.join(dict.fromkeys(ends))} of work"


def _between(values_s: Iterable[float]) -> str:
    known = list(values_s)
    return " to ".join(dict.fromkeys((seconds(min(known)), seconds(max(known)))))


# --- axes
# The sections of swept axes, and the answer that they give, as plain values for the templates.

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
