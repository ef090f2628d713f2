"""Numbers as people read them: the only place that formats them, and the rule which percentiles a sample supports.

An unknown value (None) is a dash. A minus sign is U+2212, and a value that is shown as zero has no sign.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DASH = "–"
PERCENTILES = (50, 90, 99)
_NO_BREAK = "\u00a0"
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
# From this ratio on a change is easier to read as a factor than as a percentage.
_AS_FACTOR = 2.0
# Decimals of a percentage.
_FINEST = 2


# Digits


def significant(value: float, digits: int) -> float:
    """value rounded to `digits` significant digits."""
    if not value or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def decimals(half_width: float) -> int:
    """Of a percentage whose uncertainty, in percentage points, is this: its first significant digit, two at most."""
    if not math.isfinite(half_width):
        return 0
    return 2 if half_width < 0.1 else 1 if half_width < 1.95 else 0


def _places(value: float, digits: int) -> int:
    """Decimals of `value` with `digits` significant digits, counted after rounding: 9.96 with two has none."""
    rounded = significant(value, digits)
    if not rounded or not math.isfinite(rounded):
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(rounded))))


def _signed(number: float, digits: int, plus: bool = False) -> str:
    text = f"{abs(number):.{digits}f}"
    if not float(text):
        return text
    return f"{'−' if number < 0 else '+' if plus else ''}{text}"


def planned(count: int) -> int:
    """A number that is planned for, rounded up to two significant digits from 100 on: 1300 of 1234."""
    step: int = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step


def planned_text(count: int) -> str:
    """ "1,300" of 1234."""
    return f"{planned(count):,}"


# Quantities with a unit


def rate(samples_s: float | None) -> str:
    """Samples per second with four significant digits, without the unit."""
    return DASH if samples_s is None else f"{significant(samples_s, 4):,.{_places(samples_s, 4)}f}"


def bandwidth(gb_s: float | None) -> str:
    """GB/s (1e9 bytes) with three significant digits, without the unit."""
    return DASH if gb_s is None else f"{gb_s:.{_places(gb_s, 3)}f}"


def microseconds(value_us: float | None) -> str:
    """A latency with three significant digits in µs, ms or s: "276 µs", "1.38 ms"."""
    if value_us is None:
        return DASH
    rounded = significant(value_us, 3)
    if rounded >= 1e6:
        return f"{value_us / 1e6:.2f} s"
    if rounded >= 1e3:
        return f"{value_us / 1e3:.{_places(value_us / 1e3, 3)}f} ms"
    return f"{value_us:.{_places(value_us, 3)}f} µs"


def duration(seconds: float | None) -> str:
    """How long something takes or took: "35 ms", "0.35 s", "2.4 s", "75 s", "6 min 40 s", "1 h 7 min"."""
    if seconds is None:
        return DASH
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms" if seconds else "0 s"
    if seconds < 89.5:
        return f"{seconds:.{_places(seconds, 2)}f} s"
    if round(seconds) < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def exact_seconds(seconds: float) -> str:
    """A setting or a limit as it was given: "60 s", "0.5 s"."""
    return f"{seconds:g} s"


def timestamp(moment: str) -> str:
    """A stored time to the minute, in UTC, without the zone: "2026-03-01 14:05"."""
    return moment[:16].replace("T", " ")


def byte_size(size_bytes: float | None) -> str:
    """With three significant digits in powers of 1024: "128 GiB", "1.50 KiB"."""
    if size_bytes is None:
        return DASH
    scale = 0
    while round(size_bytes / 1024**scale) >= 1024 and scale < len(_BINARY) - 1:
        scale += 1
    value = size_bytes / 1024**scale
    return f"{value:.{_places(value, 3) if scale else 0}f} {_BINARY[scale]}"


# Shares in percent


def percent(share: float | None, digits: int = 2) -> str:
    """A share with at least `digits` significant digits and at most two decimals: "0.34 %", "2.0 %", "130 %"."""
    if share is None:
        return DASH
    return f"{_signed(100 * share, min(_places(100 * share, digits), 2))} %"


def signed_percent(share: float | None, digits: int = 2) -> str:
    """A change: "+1.2 %", "−5.0 %"."""
    if share is None:
        return DASH
    return f"{_signed(100 * share, min(_places(100 * share, digits), 2), plus=True)} %"


def exact_percent(share: float) -> str:
    """A setting or a limit as it was given: "2 %", "0.5 %"."""
    return f"{100 * share:g} %"


def tick(value: float) -> str:
    """The number at a tick of an axis, without its unit: "12,000", "0.5"."""
    return f"{value:,.10g}"


def grouped(number: int) -> str:
    """A count with its digits in groups: "12,345"."""
    return f"{number:,}"


def fixed(value: float, digits: int = 2) -> str:
    """A number that has no unit, such as a quotient or an index, with that many decimals: "1.25"."""
    return f"{value:.{digits}f}"


def tick_percent(value: float, plus: bool = False) -> str:
    """A tick of an axis in percent, as exact as its position: "+2.5 %", "0 %"."""
    tick = round(value, 3)
    return f"{tick:{'+' if plus else ''}g} %".replace("-", "−") if tick else "0 %"


def upper_bound(share: float) -> str:
    """A bound in percent, rounded up to two significant digits, so that it never claims more than the data support.

    Of an interval: upper_end and farthest_end, which are as the interval is shown.
    """
    hundredths = max(math.ceil(share * 1e4 - 1e-9), 1)
    step = 10 ** max(len(str(hundredths)) - 2, 0)
    return f"{math.ceil(hundredths / step) * step / 100:g} %"


def upper_end(intervals: Iterable[Sequence[float]]) -> str:
    """The largest upper end of intervals of penalties, above zero, written as percent_interval writes it: "11 %"."""
    interval = max(intervals, key=lambda one: one[1])
    return _end(interval, interval[1])


def farthest_end(intervals: Iterable[Sequence[float]]) -> str:
    """The end of intervals that is farthest from zero, without its sign, written as percent_interval writes it."""
    interval = max(intervals, key=lambda one: max(map(abs, one)), default=(0.0, 0.0))
    return _end(interval, max(map(abs, interval)))


def _end(interval: Sequence[float], end: float) -> str:
    """Never zero: no data show that."""
    places = _interval_decimals(interval)
    return f"{max(_outward(100 * end, places, up=True), 10**-places):.{places}f} %"


def with_half_width(share: float, half: float) -> str:
    """A share and the half width of its interval, both with the decimals that the latter supports: "30.1 % ± 0.5 %".

    The half width is rounded up, as the ends of an interval are outward.
    """
    value, width = 100 * share, max(100 * half, 0.01)
    places = decimals(width)
    return f"{_signed(value, places)} % ± {_outward(width, places, up=True):.{places}f} %"


def share_with_interval(share: float, interval: Sequence[float] | None) -> str:
    """The size of a penalty, and the half width of its interval where that is informative: "30.1 % ± 0.5 %"."""
    if interval is None or is_too_wide(interval):
        return percent(abs(share))
    return with_half_width(abs(share), (interval[1] - interval[0]) / 2)


def known_share(share: float, interval: Sequence[float] | None) -> str:
    """The size of a penalty with the decimals of share_with_interval: "30.1 %"."""
    if interval is None or is_too_wide(interval):
        return percent(abs(share))
    return f"{_signed(abs(100 * share), decimals(max(50 * (interval[1] - interval[0]), 0.01)))} %"


def signed_share(share: float, interval: Sequence[float] | None) -> str:
    """share_with_interval with the sign of the penalty."""
    text = share_with_interval(share, interval)
    shown = float(text.partition(" %")[0])
    return f"−{text}" if share < 0 and shown else text


def is_too_wide(interval: Sequence[float]) -> bool:
    """interval: of a penalty. It reaches from less than half to more than twice the throughput, so its ends inform
    nobody."""
    return interval[0] < -1 and interval[1] > 0.5


def effect_with_interval(share: float, interval: Sequence[float], words: tuple[str, str]) -> str:
    """An effect and its interval in its direction, with the same decimals: "29.6 % slower [29.1, 30.1] %".

    words: for a positive and a negative share; an effect that is shown as zero has no direction.
    """
    sign = -1 if share < 0 else 1
    low, high = sorted(sign * bound for bound in interval)
    places = _interval_decimals((low, high))
    word = f" {words[share < 0]}" if round(abs(100 * share), places) else ""
    return f"{abs(100 * share):.{places}f} %{word} {percent_interval((low, high))}"


def percent_interval(interval: Sequence[float]) -> str:
    """An interval in percent with the decimals that its width supports, its ends rounded outward: "[−0.4, 0.6] %"."""
    return f"[{_ends(interval, _interval_decimals(interval))}] %"


def _ends(interval: Sequence[float], places: int) -> str:
    """In percent, rounded outward."""
    low, high = interval
    ends = _outward(100 * low, places, up=False), _outward(100 * high, places, up=True)
    return ", ".join(_signed(end, places) for end in ends)


def _outward(number: float, places: int, up: bool) -> float:
    """Rounded up or down to that many decimals; what differs from one by an error of computing stays there."""
    steps = number * 10**places
    if not math.isfinite(steps):
        return number
    whole: int = round(steps)
    if abs(steps - whole) > 1e-6:
        whole = math.ceil(steps) if up else math.floor(steps)
    return float(whole / 10**places)


def _interval_decimals(interval: Sequence[float]) -> int:
    places = decimals(50 * (interval[1] - interval[0]))
    while _hides_sign(interval, places) and places < _FINEST:
        places += 1
    return places


def _hides_sign(interval: Sequence[float], places: int) -> bool:
    """Whether an end of an interval that excludes zero would be shown as zero."""
    nearest = 100 * min(map(abs, interval))
    return interval[0] * interval[1] > 0 and not _outward(nearest, places, up=False)


# Changes against a base


def change(effect: float, interval: Sequence[float] | None = None) -> str:
    """A throughput against that of the base: "+38 % [35, 41]", "−5.0 % [−5.4, −4.6]", "× 4.5 [4.4, 4.6]".

    effect: throughput over that of the base - 1. An interval that is too wide to inform is left out.
    """
    if interval and is_too_wide((-interval[1], -interval[0])):
        interval = None
    if effect + 1 >= _AS_FACTOR:
        factors = [1 + bound for bound in interval] if interval else []
        digits = _change_decimals([bound - 1 - effect for bound in factors] or [effect / 10], 1 + effect)
        inside = f" [{', '.join(_factor(factor, digits) for factor in factors)}]" if factors else ""
        return f"× {_factor(1 + effect, digits)}{inside}"
    most = _most_decimals(100 * effect)
    digits = min(_interval_decimals(interval), most) if interval else _change_decimals([10 * effect], 100 * effect)
    inside = f" [{_ends(interval, digits)}]" if interval else ""
    return f"{_signed(100 * effect, digits, plus=True)} %{inside}"


def change_range(low: float, high: float, where: tuple[str, str] = ("", "")) -> str:
    """ "+31 % to +38 %", "× 1.4 to 4.7": both ends as factors where the upper one is read best as one.

    where: the setting at either end, "× 1.4 (base) to 4.7 (bf16)".
    """
    if high + 1 >= _AS_FACTOR and low > 0:
        first, last = (f"{1 + effect:.{_change_decimals([effect / 10], 1 + effect)}f}" for effect in (low, high))
        sign = "× "
    else:
        first, last, sign = change(low), change(high), ""
    if first == last:
        return f"{sign}{first}"
    low_at, high_at = (f" ({setting})" if setting else "" for setting in where)
    return f"{sign}{first}{low_at} to {last}{high_at}"


def _change_decimals(widths: Sequence[float], number: float) -> int:
    """Two significant digits of the uncertainty at most, and three of the number."""
    width = max((abs(width) for width in widths), default=1.0)
    if not math.isfinite(width) or width == 0:
        return 1
    return min(max(0, -math.floor(math.log10(significant(width, 1)))), _most_decimals(number))


def _most_decimals(number: float) -> int:
    """Of three significant digits."""
    return max(2 - math.floor(math.log10(max(abs(number), 1.0))), 0)


def _factor(factor: float, digits: int) -> str:
    """Two significant digits at least; what differs from 1 by a thousandth or more is not shown as 1."""
    digits = max(digits, 1 - math.floor(math.log10(max(factor, 1e-3))))
    while digits < 3 and abs(factor - 1) >= 1e-3 and not round(factor - 1, digits):
        digits += 1
    return f"{factor:.{digits}f}"


# Words around numbers


def plural(number: int, one: str, many: str | None = None) -> str:
    """ "1 run", "2 runs"."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def cell_label(name: str) -> str:
    """The name of a cell where all names are of cells: without the word that they share."""
    return name.removeprefix("pipeline_")


def value_text(value: Any) -> str:
    """The value of a setting: "on", "off", "16"."""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def values_text(values: Mapping[str, Any]) -> str:
    """The values of one or several settings without their keys, where those are beside it."""
    return ", ".join(map(value_text, values.values()))


def keyed_values_text(values: Mapping[str, Any]) -> str:
    """ "compile_model default"; with several keys "depth 12, dim 1024"."""
    return ", ".join(f"{key} {value_text(one)}" for key, one in values.items())


def no_break(text: str) -> str:
    """For HTML: no line break between a number and its percent sign, nor beside ± and ×."""
    for breaking in (" %", "± ", " ±", "× "):
        text = text.replace(breaking, breaking.replace(" ", _NO_BREAK))
    return text


# Percentiles


def samples_needed(percent: int) -> int:
    """The smallest sample whose largest value is above the percentile with 95 % confidence: p90 29, p99 299; p50 2.

    Wilks, Ann. Math. Statist. 12 (1941) 91. From fewer a percentile of the tail is too low more often than not: a p99
    from 100 values in 73 %. A median is as often too low as too high.
    """
    return 2 if percent == 50 else math.ceil(math.log(0.05) / math.log(percent / 100))


def unsupported(percent: int, count: int, of_what: str = "batches") -> str | None:
    """Why a sample of `count` cannot support the percentile; None if it can."""
    needed = samples_needed(percent)
    return None if count >= needed else f"p{percent} needs {needed} {of_what}, there are {count}"


def percentile(ordered: Sequence[Any], percent: int, scale: int = 1) -> float:
    """Percentile of ascending `ordered` by linear interpolation (Hyndman and Fan, type 7), divided by `scale`.

    Exact for integers: rounded once, at the end. Raises ValueError if `ordered` is empty.
    """
    if not len(ordered):
        raise ValueError("no values")
    below, rest = divmod((len(ordered) - 1) * percent, 100)
    low = _python_number(ordered[below])
    high = _python_number(ordered[below + 1]) if rest else low
    return float((low * 100 + (high - low) * rest) / (100 * scale))


def summary(ordered: Sequence[Any], scale: int = 1, of_what: str = "batches") -> dict[str, Any]:
    """{"count", "p50", "p90", "p99", "max", "reasons"} of ascending values; a null has its reason in "reasons"."""
    count = len(ordered)
    reasons = {f"p{percent}": unsupported(percent, count, of_what) for percent in PERCENTILES}
    values = {
        f"p{percent}": None if reasons[f"p{percent}"] else percentile(ordered, percent, scale)
        for percent in PERCENTILES
    }
    return {
        "count": count,
        **values,
        "max": percentile(ordered, 100, scale) if count else None,
        "reasons": {name: reason for name, reason in reasons.items() if reason},
    }


def _python_number(value: Any) -> Any:
    """A numpy scalar would overflow, or round, where a Python number does not."""
    return value.item() if hasattr(value, "item") else value
