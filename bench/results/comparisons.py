"""Comparisons inside a study: cells that differ in one setting, each against the one with the study's own."""

from collections.abc import Sequence
from typing import Any

from bench.errors import StudyError
from bench.results.compare import compare_setting
from bench.results.pairs import identity

Record = dict[str, Any]


def comparisons(cells: Sequence[Record], study: Record, margin: float, max_repeats: int) -> list[Record]:
    """One entry for each setting of which cells have several values: setting, base (value), lines.

    A line has name, base_cell, value, verdict, effect (throughput over that of the base - 1), interval, text
    and hint. Base is the study's own value, or the first cell's where the study's was not run.
    """
    found = []
    for setting in dict.fromkeys(key for cell in cells for key in cell["settings"]):
        values = [cell["settings"].get(setting) for cell in cells]
        if all(value == values[0] for value in values):
            continue
        base = study.get(setting) if study.get(setting) in values else values[0]
        try:
            compared = compare_setting(cells, setting, base, margin, max_repeats)
        except StudyError:
            continue  # these cells differ in something else too
        lines = [_line(vars(line), cells, setting, base) for line in compared.lines]
        found.append({"setting": setting, "base": base, "lines": lines})
    return found


def _line(line: Record, cells: Sequence[Record], setting: str, base: Any) -> Record:
    fresh = next(cell for cell in cells if cell["name"] == line["name"])
    partner = next(
        cell["name"]
        for cell in cells
        if cell["settings"].get(setting) == base and _rest(cell, setting) == _rest(fresh, setting)
    )
    kept = {key: line[key] for key in ("name", "verdict", "effect", "text", "hint")}
    interval = None if line["interval"] is None else list(line["interval"])
    return kept | {"interval": interval, "base_cell": partner, "value": fresh["settings"].get(setting)}


def _rest(cell: Record, setting: str) -> Any:
    return identity(cell, ignore=(setting,)), cell["cpu_node"], cell["mem_node"]
