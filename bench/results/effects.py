"""What an axis does, summed up over its lines: by value and model, and whether it matters at all."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from bench.results.words import at_most, significant, tells_nothing

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
    if interval and tells_nothing((-interval[1], -interval[0])):
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
        return f"SAME within {at_most(_bound(lines) or 0)}"
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
        yield f"{_names(same)} SAME within {at_most(max(one['bound'] for one in same))}"
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
