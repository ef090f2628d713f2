"""How the regime changes along an axis of numbers, in one line."""

from itertools import groupby
from typing import Any

from bench.results.effects import listed, value_label

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
    for label, regimes in _series(entry, cells):
        names = paths.setdefault(_path(sorted(regimes.items())), [])
        names += [label] * (label not in names)
    if all(path.endswith("throughout") for path in paths):
        return ""
    ranked = sorted(paths.items(), key=lambda path: (path[0].endswith("throughout"), -len(path[1])))
    return f"Regime: {'; '.join(f'{path}: {_names(names)}' for path, names in ranked)}."


def _series(entry: Record, cells: dict[str, Record]) -> list[tuple[str, dict[float, str]]]:
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
