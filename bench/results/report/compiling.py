"""What compiling takes of a process, and after how much work what it gains has paid for it."""

from collections.abc import Iterable
from typing import Any

from bench.results.words import seconds

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
