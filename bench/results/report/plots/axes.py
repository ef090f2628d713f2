"""One swept axis: throughput against that of the base, with intervals; the base is the line at 1."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from bench.results.effects import values_only
from bench.results.report.plots.style import COLOURS, MUTED, Picture, canvas, colour, draw_interval, to_svg

Record = dict[str, Any]
FEWEST_POINTS = 3
"""Numbers with fewer values are drawn like names."""
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_FEWEST_TICKS = 3
_ROW_IN = 0.17


def axis_picture(entry: Record) -> Picture | None:
    """A line a series where the values are numbers, else a row a model and value; None if nothing was compared."""
    lines = [line for line in entry["lines"] if line["effect"] is not None]
    if not lines:
        return None
    return _by_number(entry, lines) if is_numeric(entry) else _by_name(entry, lines)


def is_numeric(entry: Record) -> bool:
    values = [value for given in entry["values"] for value in given.values()]
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return plain and len(entry["keys"]) == 1 and len(entry["values"]) >= FEWEST_POINTS


def _by_name(entry: Record, lines: list[Record]) -> Picture:
    values = [value for value in entry["values"][1:] if any(line["value"] == value for line in lines)]
    models = list(dict.fromkeys(line["model"] for line in lines))
    band = len(values) + 0.9
    height = 0.75 + _ROW_IN * band * len(models)
    shown = _shown(lines)
    with canvas(
        9.6, height, models, top_in=0.1, bottom_in=0.45, right_in=_legend_in(map(values_only, values))
    ) as figure:
        axes = figure.add_subplot()
        for at, model in enumerate(models):
            for index, value in enumerate(values):
                own = [line for line in lines if line["model"] == model and line["value"] == value]
                for place, line in enumerate(own):
                    y = at * band + index + 0.5 + 0.5 * (place - (len(own) - 1) / 2) / max(len(own), 2)
                    _point(axes, line, y, index, shown, upright=False)
            if at:
                axes.axhline(at * band - 0.2, color="#E3E7EB", linewidth=0.8)
        axes.set_ylim(band * len(models) - 0.2, -0.2)
        axes.set_yticks([at * band + len(values) / 2 for at in range(len(models))], models)
        axes.grid(axis="y", visible=False)
        _scale(axes, shown, "x")
        _legend(axes, [(values_only(value), index) for index, value in enumerate(values)])
        return _picture(figure, entry)


def _by_number(entry: Record, lines: list[Record]) -> Picture:
    key = entry["keys"][0]
    base = entry["base"][key]
    models = list(dict.fromkeys(line["model"] for line in lines))
    numbers = sorted(value[key] for value in entry["values"])
    shown = _shown(lines)
    spaced = numbers[0] > 0 and numbers[-1] / numbers[0] > 4
    with canvas(9.6, 3.4, ["throughput"], top_in=0.1, bottom_in=0.45, right_in=_legend_in(models)) as figure:
        axes = figure.add_subplot()
        for cell in dict.fromkeys(line["base_cell"] for line in lines):
            own = sorted((line for line in lines if line["base_cell"] == cell), key=lambda line: line["value"][key])
            index = models.index(own[0]["model"])
            points = sorted([(base, 1.0), *((line["value"][key], 1 + line["effect"]) for line in own)])
            axes.plot(*zip(*points, strict=True), "-" if index < len(COLOURS) else "--", color=colour(index), alpha=0.4)
            for line in own:
                nudge = 1 + 0.012 * (index - (len(models) - 1) / 2) if spaced else 1
                _point(axes, line, line["value"][key] * nudge, index, shown, upright=True)
        if spaced:
            axes.set_xscale("log")
        axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"{key.replace('_', ' ')}, base {base:g}")
        _scale(axes, shown, "y")
        _legend(axes, list(zip(models, range(len(models)), strict=True)))
        return _picture(figure, entry)


def _point(axes: Axes, line: Record, at: float, index: int, shown: tuple[float, float], upright: bool) -> None:
    if line["interval"]:
        draw_interval(axes, [1 + bound for bound in line["interval"]], at, shown, upright=upright, color=colour(index))
    spot = (at, 1 + line["effect"]) if upright else (1 + line["effect"], at)
    axes.plot(*spot, "o", color=colour(index), markersize=4.2)[0].set_url(f"#runs-{line['name']}")


def _shown(lines: list[Record]) -> tuple[float, float]:
    """The range that is drawn: all points and the base; of a wild interval as much as a factor of 2 beyond them."""
    effects = [1 + line["effect"] for line in lines]
    bounds = [1 + bound for line in lines for bound in line["interval"] or ()]
    low, high = min(*effects, 1.0), max(*effects, 1.0)
    # An interval says how little is known: it may not squeeze what is known to a point.
    return max(min([low, *bounds]), low / 2), min(max([high, *bounds]), high * 2)


def _scale(axes: Axes, shown: tuple[float, float], direction: str) -> None:
    """Percent where all is within a third, factors on a logarithmic axis beyond."""
    low, high = shown
    of = getattr(axes, f"{direction}axis")
    (axes.axvline if direction == "x" else axes.axhline)(1, color=MUTED, linewidth=0.9)
    if high - low < 0.7:
        room = max(0.06 * (high - low), 0.004)
        getattr(axes, f"set_{direction}lim")(low - room, high + room)
        of.set_major_formatter(lambda ratio, _: _percent(100 * (ratio - 1)))
    else:
        getattr(axes, f"set_{direction}scale")("log")
        low, high = low / 1.12, high * 1.12
        getattr(axes, f"set_{direction}lim")(low, high)
        ticks = _factors(low, high)
        of.set_ticks(ticks, [f"× {tick:g}" for tick in ticks])
        of.set_minor_formatter(NullFormatter())
        of.set_minor_locator(NullLocator())
    getattr(axes, f"set_{direction}label")("throughput against the base")


def _factors(low: float, high: float) -> list[float]:
    """Steps of 1, 2, 5; even ones where few of those are in between, so that a size can be read off."""
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    if len(ticks) < _FEWEST_TICKS:
        ticks = [tick for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    return ticks


def _percent(value: float) -> str:
    """Of a tick, as exact as its place: half steps are not rounded to whole ones."""
    tick = round(value, 3)
    return f"{tick:+g} %".replace("-", "−") if tick else "0 %"


def _legend(axes: Axes, entries: list[tuple[str, int]]) -> None:
    for label, index in entries:
        axes.plot([], [], "o" if index < len(COLOURS) else "o--", color=colour(index), label=label)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=8.5)


def _legend_in(labels: Iterable[str]) -> float:
    return 0.55 + 0.075 * max(map(len, labels), default=0)


def _picture(figure: Figure, entry: Record) -> Picture:
    alt = f"Throughput by {entry['axis']} against {values_only(entry['base'])}. " + " ".join(
        f"{one['text']}." for one in entry["summary"]
    )
    return Picture(entry["axis"], alt, to_svg(figure, alt, f"axis {entry['axis']}"), wide=True)
