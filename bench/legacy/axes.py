"""Comparisons along swept axes and their summary."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.legacy.pairs import comparison, occurrences
from bench.legacy.statistics import Estimate, estimate, holm, paired
from bench.legacy.verdicts import Rules, Verdict, graph_of, judge
from bench.units import is_too_wide, significant, upper_bound

# --- axes
# The swept axes of a study: which settings have several values, and which cells differ in one axis alone.

Record = dict[str, Any]
Value = tuple[Any, ...]
SHAPE = ("patch_size", "depth", "dim")
# Nodes and GPUs are compared as penalties, models by their shape.
_NO_AXIS = ("gpu_ids", "numa_nodes", "placements", "models", "model")
# What may change along with a setting without being an axis of its own.
_FOLLOWERS = {
    "batch_size": ("num_samples", "warmup_samples"),
    "image_size": ("num_samples", "warmup_samples", "memory_size_mb"),
    "dim": ("heads",),
}
# What has no meaning where the key has this value: one GPU alone has no company to place.
_IDLE = {
    "concurrent_gpus": (1, ("concurrent_load", "concurrent_placement")),
    "preprocess_queue": (0, ("preprocess_node",)),
}
# Two models that a study lists side by side are no axis; a series of them is.
_SHORTEST_SERIES = 3


@dataclass(frozen=True)
class Axis:
    """keys: settings (or parts of a model's shape) that change together, mostly one.

    values: one tuple for each value, in the order of the study; base: what the others are compared with, the
    study's own value, or the first one where the study's was not run; of GPUs busy at once one alone, where it was run.
    followers: what may change along.
    """

    keys: tuple[str, ...]
    values: tuple[Value, ...]
    base: Value
    followers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ", ".join(self.keys)

    @property
    def of_shape(self) -> bool:
        return any(key in SHAPE for key in self.keys)


def axes(cells: Sequence[Record], study: Record) -> list[Axis]:
    """The axes that the study declares (`axes`, `zip`), then what else varies between its cells.

    Of the latter only single settings, and parts of the models' shape with a series of at least three values.
    """
    declared = [keys for keys in _declared(study) if not set(keys) & set(_NO_AXIS)]
    taken = {key for keys in declared for key in keys}
    settings = dict.fromkeys(key for cell in cells for key in cell["settings"])
    others = [(key,) for key in (*settings, *SHAPE) if key not in taken]
    found = []
    for keys in (*declared, *others):
        axis = _axis(keys, cells, study, taken)
        shortest = _SHORTEST_SERIES if keys in others and keys[0] in SHAPE else 2
        if len(axis.values) >= shortest and _longest(axis, cells) >= shortest:
            found.append(axis)
    return found


def value_of(cell: Record, keys: Iterable[str]) -> Value:
    return tuple(cell["model"].get(key) if key in SHAPE else cell["settings"].get(key) for key in keys)


def matched(axis: Axis, cells: Sequence[Record]) -> list[tuple[Record, Record]]:
    """(base, other) of cells that differ in this axis alone, a model listed twice by its turn."""
    exact: dict[Any, Record] = {}
    loose: dict[Any, Record] = {}
    others = []
    numbered = occurrences(cells, lambda cell: (_rest(cell, axis), value_of(cell, axis.keys)))
    for cell, ((rest, value), again) in numbered:
        if value == axis.base:
            exact[rest, again] = cell
            loose.setdefault((_rest(cell, axis, loosely=True), again), cell)
        else:
            others.append((rest, again, cell))
    pairs = []
    for rest, again, cell in others:
        base = exact.get((rest, again)) or loose.get((_rest(cell, axis, loosely=True), again))
        if base:
            pairs.append((base, cell))
    return pairs


def _declared(study: Record) -> list[tuple[str, ...]]:
    """Keys of each axis; those of a zip change together."""
    return [*((key,) for key in study.get("axes") or {}), *(tuple(one) for one in study.get("zip") or [])]


def _axis(keys: tuple[str, ...], cells: Sequence[Record], study: Record, taken: set[str]) -> Axis:
    following = {follower for key in keys for follower in _FOLLOWERS.get(key, ())} - taken
    values = tuple(dict.fromkeys(value_of(cell, keys) for cell in cells if not _without_compute(cell, keys)))
    own = tuple(study.get(key) for key in keys)
    base = own if own in values else next(iter(values), ())
    base = next((value for value in values if ("concurrent_gpus", 1) in zip(keys, value, strict=True)), base)
    idle = {
        follower
        for key, value in zip(keys, base, strict=False)
        for idle_at, followers in [_IDLE.get(key, (None, ()))]
        if value == idle_at
        for follower in followers
    }
    return Axis(keys, values, base, tuple(sorted(following | idle)))


def _longest(axis: Axis, cells: Sequence[Record]) -> int:
    """The largest number of values that one base is compared over, itself included."""
    compared: dict[str, int] = {}
    for base, _ in matched(axis, cells):
        compared[base["name"]] = compared.get(base["name"], 1) + 1
    return max(compared.values(), default=0)


def _rest(cell: Record, axis: Axis, loosely: bool = False) -> Any:
    """What must be equal besides the axis; loosely: what follows from it may differ as well."""
    ignored = {*axis.keys, *(axis.followers if loosely else ()), *(("name",) if axis.of_shape else ())}
    model = sorted((key, value) for key, value in cell["model"].items() if key not in ignored)
    settings = sorted((key, value) for key, value in cell["settings"].items() if key not in ignored)
    return cell["gpu"], cell["cpu_node"], cell["mem_node"], repr(model), repr(settings)


def _without_compute(cell: Record, keys: tuple[str, ...]) -> bool:
    """vit0x0x0 has no depth to vary."""
    return any(key in SHAPE for key in keys) and not cell["model"].get("depth")


# --- effects
# What an axis does, summed up over its lines: by value and model, and whether it matters at all.

Record = dict[str, Any]
MATTERS, SAME, UNDECIDED, NOT_MEASURED = "matters", "same", "undecided", "not measured"
ONCE, PROBABLE, NOISE = "once", "probable", "noise"
_DIFFERENT = ("FASTER", "SLOWER")
# Beyond it a percentage is harder to read than a factor.
_AS_FACTOR = 2.0
_NAMED = 4
_SETTINGS_NAMED = 2


def summed_up(entry: Record) -> Record:
    """summary, state, doubt, size and bound of one axis (an entry of results.json's comparisons).

    summary: for each value but the base, in order: value, models (model, state, doubt, low and high of the lines that
    differ or, where none does, of all, interval, lines, seen, text) and text, one line over the models. state: matters
    (some line differs after correction), same (all lines are the SAME), else undecided; doubt then says why: once (one
    pair, no uncertainty known), probable (a line differs, but not after correction), noise. size: largest
    |ln(throughput / base)| of the lines that differ; bound: no line differs by more, where all are the SAME.
    """
    lines = [line for line in entry["lines"] if line["effect"] is not None]
    state = _state(lines)
    sure = [line for line in lines if line["headline"]]
    return {
        "summary": [_of_value(entry, value) for value in entry["values"][1:]],
        "state": state,
        "doubt": _doubt(state, lines),
        "size": max((abs(math.log1p(line["effect"])) for line in sure), default=0.0),
        "bound": _bound(lines) if state == SAME else None,
    }


def change(effect: float, interval: Sequence[float] | None = None) -> str:
    """A throughput against that of the base: "+38 % [35, 41]", "−5.0 % [−5.4, −4.6]", "× 4.5 [4.4, 4.6]".

    An interval that tells nothing is left out.
    """
    if interval and is_too_wide((-interval[1], -interval[0])):
        interval = None
    if effect + 1 >= _AS_FACTOR:
        factors = [1 + bound for bound in interval] if interval else []
        digits = _digits([bound - 1 - effect for bound in factors] or [effect / 10], 1 + effect)
        inside = f" [{', '.join(_factor(factor, digits) for factor in factors)}]" if factors else ""
        return f"× {_factor(1 + effect, digits)}{inside}"
    digits = _digits([100 * (bound - effect) for bound in interval] if interval else [10 * effect], 100 * effect)
    if interval and interval[0] * interval[1] > 0 and not round(100 * min(map(abs, interval)), digits):
        digits += 1  # what is surely not zero is not shown as zero
    inside = f" [{', '.join(_signed(100 * bound, digits) for bound in interval)}]" if interval else ""
    return f"{_signed(100 * effect, digits, plus=True)} %{inside}"


def between(low: float, high: float, where: tuple[str, str] = ("", "")) -> str:
    """ "+31 % to +38 %", "× 1.4 to 4.7": factors for both ends where the upper one is best told as one.

    where: the setting at either end, "× 1.4 (base) to 4.7 (bf16)".
    """
    if high + 1 >= _AS_FACTOR and low > 0:
        first, last = (f"{1 + effect:.{_digits([effect / 10], 1 + effect)}f}" for effect in (low, high))
        sign = "× "
    else:
        first, last, sign = change(low), change(high), ""
    if first == last:
        return f"{sign}{first}"
    low_at, high_at = (f" ({setting})" if setting else "" for setting in where)
    return f"{sign}{first}{low_at} to {last}{high_at}"


def value_label(value: Record) -> str:
    """compile_model default; with several keys of one axis: depth 12, dim 1024."""
    return ", ".join(f"{key} {plain(one)}" for key, one in value.items())


def plain(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def values_only(value: Record) -> str:
    """The value without its key, where that stands beside it."""
    return ", ".join(map(plain, value.values()))


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _of_value(entry: Record, value: Record) -> Record:
    own = [line for line in entry["lines"] if line["value"] == value]
    models = [
        _of_model(model, [line for line in own if line["model"] == model])
        for model in dict.fromkeys(line["model"] for line in own)
    ]
    told = "; ".join(_over_models(models)) or "not measured"
    most = max((one["lines"] for one in models), default=0)
    over = f" (over {most} combinations)" if most > 1 else ""
    return {"value": value, "models": models, "text": f"{value_label(value)}{over}: {told}"}


def _of_model(model: str, lines: list[Record]) -> Record:
    compared = [line for line in lines if line["effect"] is not None]
    differ = [line for line in compared if line["verdict"] in _DIFFERENT]
    effects = [line["effect"] for line in differ or compared]
    return {
        "model": model,
        "state": _state(compared),
        "doubt": _doubt(_state(compared), compared),
        "low": min(effects, default=None),
        "high": max(effects, default=None),
        "interval": compared[0]["interval"] if len(compared) == 1 else None,
        "bound": _bound(compared),
        "lines": len(compared),
        "seen": _seen_where(compared),
        "text": _in_words(compared),
    }


def _in_words(lines: list[Record]) -> str:
    """Of one model and value, in all its combinations with the other settings, nodes and GPUs."""
    if not lines:
        return "not measured"
    verdicts = {line["verdict"] for line in lines}
    if verdicts == {"SAME"}:
        return f"SAME within {upper_bound(_bound(lines) or 0)}"
    return _seen_where(lines) if verdicts & set(_DIFFERENT) else f"undecided ({_seen(lines)})"


def _seen_where(lines: list[Record]) -> str:
    """What was seen where lines differ, and where else they are the SAME or undecided: "× 8.9 in graph, undecided in
    base". What is not known to differ is no end of a range."""
    parts = {
        "": [line for line in lines if line["verdict"] in _DIFFERENT],
        "SAME": [line for line in lines if line["verdict"] == "SAME"],
        "undecided": [line for line in lines if line["verdict"] not in (*_DIFFERENT, "SAME")],
    }
    differ = parts.pop("")
    if not differ or len(differ) == len(lines):
        return _seen(lines)
    named = {key: list(dict.fromkeys(line["setting"] or "base" for line in own)) for key, own in parts.items() if own}
    at = list(dict.fromkeys(line["setting"] or "base" for line in differ))
    told = [name for own in (at, *named.values()) for name in own]
    few = len(set(told)) == len(told) and all(len(own) <= _SETTINGS_NAMED for own in named.values())
    rest = [f"{key} in {listed(own) if few else f'{len(parts[key])} of {len(lines)}'}" for key, own in named.items()]
    where = f" in {at[0]}" if few and len(differ) == 1 else ""
    return ", ".join([f"{_seen(differ)}{where}", *rest])


def _over_models(models: list[Record]) -> Iterable[str]:
    """Those that differ, the largest first; those that are the same together; the rest."""
    differ = sorted((one for one in models if one["state"] == MATTERS), key=_largest, reverse=True)
    if len(differ) > _NAMED + 2:
        low, high = (pick(differ, key=lambda one: one[end]) for pick, end in ((min, "low"), (max, "high")))
        yield f"{len(differ)} models {between(low['low'], high['high'])} ({low['model']} to {high['model']})"
    else:
        yield from (f"{one['model']} {one['text']}" for one in differ)
    if same := [one for one in models if one["state"] == SAME]:
        yield f"{_names(same)} SAME within {upper_bound(max(one['bound'] for one in same))}"
    for doubt, before, after in ((PROBABLE, "probably ", ""), (NOISE, "not decided: ", ""), (ONCE, "", " in one pair")):
        if open_ := [one for one in models if one["doubt"] == doubt]:
            yield f"{before}{_numbers(open_)}{after}"
    if missing := [one for one in models if one["state"] == NOT_MEASURED]:
        yield f"{_names(missing)} not measured"


def _names(models: list[Record]) -> str:
    names = [one["model"] for one in models]
    return listed(names) if len(names) <= _NAMED else f"{len(names)} models"


def _numbers(models: list[Record]) -> str:
    """What was seen of each, or the range over them where they are many."""
    if len(models) <= _NAMED:
        return ", ".join(f"{one['model']} {one['seen']}" for one in models)
    return f"{len(models)} models {between(min(one['low'] for one in models), max(one['high'] for one in models))}"


def _seen(lines: list[Record]) -> str:
    """What was seen, whatever it is worth: one change, or the range with the settings that it was least and most in."""
    if not lines:
        return ""
    low, high = (pick(lines, key=lambda line: line["effect"]) for pick in (min, max))
    if len(lines) == 1:
        return change(low["effect"], low["interval"])
    settings = low["setting"], high["setting"]
    named = tuple(setting or "base" for setting in settings) if settings[0] != settings[1] else ("", "")
    return between(low["effect"], high["effect"], named)


def _largest(one: Record) -> float:
    return max(abs(math.log1p(one["low"])), abs(math.log1p(one["high"])))


def _state(lines: list[Record]) -> str:
    if not lines:
        return NOT_MEASURED
    if any(line["headline"] for line in lines):
        return MATTERS
    return SAME if all(line["verdict"] == "SAME" for line in lines) else UNDECIDED


def _doubt(state: str, lines: list[Record]) -> str | None:
    if state != UNDECIDED:
        return None
    if all(line["interval"] is None for line in lines):
        return ONCE
    return PROBABLE if any(line["verdict"] in _DIFFERENT for line in lines) else NOISE


def _bound(lines: list[Record]) -> float | None:
    """No line differs by more than this, so far as its interval goes; None where one has no interval."""
    if not lines or any(line["interval"] is None for line in lines):
        return None
    return max(abs(bound) for line in lines for bound in line["interval"])


def _digits(widths: Sequence[float], number: float) -> int:
    """Decimals: two significant digits of the uncertainty at most, and three of the number."""
    width = max((abs(width) for width in widths), default=1.0)
    if not math.isfinite(width) or width == 0:
        return 1
    of_number = 2 - math.floor(math.log10(max(abs(number), 1.0)))
    return min(max(0, -math.floor(math.log10(significant(width, 1)))), max(of_number, 0))


def _factor(factor: float, digits: int) -> str:
    """Two significant digits at least; what is not 1 is not shown as 1, short of a thousandth."""
    digits = max(digits, 1 - math.floor(math.log10(max(factor, 1e-3))))
    while digits < 3 and abs(factor - 1) >= 1e-3 and not round(factor - 1, digits):
        digits += 1
    return f"{factor:.{digits}f}"


def _signed(number: float, digits: int, plus: bool = False) -> str:
    text = f"{abs(number):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'−' if number < 0 else '+' if plus else ''}{text}"


# --- series
# What sets a cell apart from the others of its model, read from the suffixes of its name.

Record = dict[str, Any]


def series_label(cell: Record) -> str:
    """The model, with the suffixes that tell cells of one model apart: "vit32x6x512 again"."""
    model = cell["model"]["name"]
    _, found, rest = cell["name"].partition(f"_{model}")
    suffixes = [part for part in rest.split("_") if part and not re.fullmatch(r"cpu\d+", part)]
    return " ".join([model, *suffixes]) if found else cell["name"]


def settings_of(cell: Record) -> str:
    """The suffixes of the cell's name, but for a model listed twice."""
    parts = series_label(cell).split(" ")[1:]
    return " ".join(part for part in parts if not re.fullmatch(r"again\d*", part))


# --- comparisons
# Comparisons inside a study: along each swept axis, every value against the base, pair by pair.

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
    return [_axis_of_comparisons(axis, own) for (axis, _), own in zip(found, lines, strict=True)]


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


def _axis_of_comparisons(axis: Axis, lines: list[Record]) -> Record:
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
