"""Comparisons inside a study: along each swept axis, every value against the base, pair by pair."""

import math
from collections.abc import Sequence
from typing import Any

from bench.results.axes import SHAPE, Axis, axes, matched, value_of
from bench.results.effects import summed_up
from bench.results.pairs import comparison
from bench.results.rules import Rules
from bench.results.series import settings_of
from bench.results.statistics import Estimate, estimate, holm, paired
from bench.results.verdicts import Verdict, graph_of, judge

Record = dict[str, Any]


def comparisons(cells: Sequence[Record], study: Record, rules: Rules | None = None) -> list[Record]:
    """One entry an axis: axis (its name), keys, base and values ({key: value}), lines, summary, state, bound.

    A line is one cell against the one that differs in this axis alone (same GPU, placement, model and other
    settings), paired by block: name, base_cell, gpu, cpu_node, mem_node, model, setting (what both have
    beside it, as "bf16 graph"), value, verdict, effect (throughput over that of the base - 1, negative is slower),
    interval, pairs, mde, repeats_needed, text, hint, p (of no difference, two-sided), and headline (the difference
    holds after Holm's correction over all lines of the study). For the rest see effects.py.
    """
    rules = rules or Rules()
    found = [(axis, matched(axis, cells)) for axis in axes(cells, study)]
    lines = [[_entry(axis, *pair) for pair in pairs] for axis, pairs in found]
    tested: list[tuple[Record, Estimate]] = []
    for (_, pairs), own in zip(found, lines, strict=True):
        tested += _fill(pairs, own, rules)
    adjusted = holm([one.p_difference or 0.0 for _, one in tested])
    for (line, _), p in zip(tested, adjusted, strict=True):
        differs = line["verdict"] in (Verdict.SLOWER, Verdict.FASTER)
        line["headline"] = differs and p <= 1 - rules.confidence
    return [_axis(axis, own) for (axis, _), own in zip(found, lines, strict=True)]


def _entry(axis: Axis, base: Record, other: Record) -> Record:
    return {
        "name": other["name"],
        "base_cell": base["name"],
        **{key: other[key] for key in ("gpu", "cpu_node", "mem_node")},
        "model": _model(axis, other["model"]),
        "setting": " ".join(part for part in settings_of(base).split() if part in settings_of(other).split()),
        "value": dict(zip(axis.keys, value_of(other, axis.keys), strict=True)),
    }


def _fill(pairs: list[tuple[Record, Record]], lines: list[Record], rules: Rules) -> list[tuple[Record, Estimate]]:
    """Variances are pooled within an axis. Returns the lines that have a test."""
    sides = [comparison(other["name"], base, other)[0] for base, other in pairs]
    measured = [bool(side.local_runs.keys() & side.remote_runs.keys()) for side in sides]
    usable = [paired(side) for side, there in zip(sides, measured, strict=True) if there]
    told = iter(estimate(usable, rules.confidence, rules.margin))
    tested = []
    for (base, other), line, there in zip(pairs, lines, measured, strict=True):
        one = next(told) if there else None
        line |= _told(one, base, other, rules) | {"headline": False, "p": one.p_difference if one else None}
        if one and one.p_difference is not None:
            tested.append((line, one))
    return tested


def _told(found: Estimate | None, base: Record, other: Record, rules: Rules) -> Record:
    if found is None:
        failed = next((cell for cell in (other, base) if cell.get("outcome") not in (None, "ok")), other)
        why = f"{failed['name']} {failed.get('outcome')}: {failed.get('reason') or 'no timed run'}"
        nothing = dict.fromkeys(("verdict", "effect", "interval", "mde", "repeats_needed"))
        return nothing | {"pairs": 0, "text": f"not compared: {why}", "hint": ""}
    said = judge(found, rules.max_repeats, graph_of(other["settings"]))
    low, high = found.interval or (None, None)
    return {
        "verdict": said.verdict.value,
        "effect": math.expm1(found.mean_log),
        "interval": None if low is None or high is None else [-high, -low],
        "pairs": found.pairs,
        "mde": found.mde,
        "repeats_needed": said.repeats,
        "text": said.text,
        "hint": said.hint,
    }


def _axis(axis: Axis, lines: list[Record]) -> Record:
    base, *_ = values = [dict(zip(axis.keys, value, strict=True)) for value in _base_first(axis)]
    entry = {"axis": axis.name, "keys": list(axis.keys), "base": base, "values": values, "lines": lines}
    return entry | summed_up(entry)


def _base_first(axis: Axis) -> list[tuple[Any, ...]]:
    return [axis.base, *(value for value in axis.values if value != axis.base)]


def _model(axis: Axis, model: Record) -> str:
    """The model's name; along a part of its shape what the series shares, as vit32x*x512."""
    if not axis.of_shape:
        return str(model["name"])
    return "vit" + "x".join("*" if key in axis.keys else str(model[key]) for key in SHAPE)
