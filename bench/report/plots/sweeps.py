"""Axes, scaling and contention plots."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from bench.legacy.axes import settings_of, values_only
from bench.legacy.statistics import interval_of
from bench.report.labels import device_label, place_of, placements, row_label
from bench.report.plots.style import COLOURS, INK, MUTED, Picture, canvas, colour, draw_interval, to_svg
from bench.report.swept import Group, group_title, groups, is_alike
from bench.units import bandwidth, rate

# --- axes
# One swept axis: throughput against that of the base, with intervals; the base is the line at 1.

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


# --- scaling
# Throughput against depth and against width, where a study has such a series of models.

AXES = {"depth": ("patch_size", "dim"), "dim": ("patch_size", "depth")}
NAMES = {"depth": "layers", "dim": "width"}
SHORTEST = 3
MOST_PANELS = 6


def series(cells: list[dict], axis: str) -> dict[tuple, list[dict]]:
    """Cells that differ in `axis` alone, in series of at least three different values, by what they share, model first.

    A model listed twice is in its series twice.
    """
    groups: dict[tuple, list[dict]] = {}
    for cell in cells:
        if cell["model"]["depth"] and cell["throughput_samples_s"]:
            shared = tuple(cell["model"][key] for key in AXES[axis])
            groups.setdefault((shared, cell["gpu"], place_of(cell), settings_of(cell)), []).append(cell)
    long = {key: sorted(group, key=lambda cell: cell["model"][axis]) for key, group in groups.items()}
    return {key: group for key, group in long.items() if len({c["model"][axis] for c in group}) >= SHORTEST}


def scaling_pictures(cells: list[dict]) -> list[Picture]:
    """A panel for each series; none where there are so many that only the comparison along the axis can be read."""
    pictures = []
    if sum(len({key[0] for key in series(cells, axis)}) for axis in AXES) > MOST_PANELS:
        return []
    for axis in AXES:
        found = series(cells, axis)
        for shared in dict.fromkeys(key[0] for key in found):
            lines = {key: group for key, group in found.items() if key[0] == shared}
            pictures.append(_panel(axis, shared, list(lines.values()), placements(cells)))
    return pictures


def _panel(axis: str, shared: tuple, lines: list[list[dict]], places: list[tuple[int, int]]) -> Picture:
    constant = " and ".join(
        f"{value} {'pixels a patch' if key == 'patch_size' else NAMES[key]}" if key != "dim" else f"width {value}"
        for key, value in zip(AXES[axis], shared, strict=True)
    )
    title = f"By {NAMES[axis] if axis == 'depth' else 'width'}"
    alt = f"Throughput against {NAMES[axis]}, at {constant}. " + " ".join(
        f"{row_label(line[0])}: "
        + ", ".join(f"{cell['model'][axis]}: {rate(cell['throughput_samples_s'])}" for cell in line)
        + "." for line in lines
    )  # fmt: skip
    largest = 1.5 * max(cell["throughput_samples_s"] for line in lines for cell in line)
    with canvas(3.6, 2.9, bottom_in=0.45) as figure:
        axes = figure.add_subplot()
        for line in lines:
            shade = colour(places.index(place_of(line[0])))
            xs = [cell["model"][axis] for cell in line]
            axes.plot(xs, [cell["throughput_samples_s"] for cell in line], "-", color=shade, alpha=0.4)
            for x, cell in zip(xs, line, strict=True):
                runs = cell["throughput_runs"]
                if len(runs) > 1:
                    draw_interval(axes, interval_of(runs), x, (0.0, largest), upright=True, color=shade)
                hollow = "again" in cell["name"].rsplit("_", 1)[-1]
                face = "white" if hollow else shade
                dot = axes.plot(x, cell["throughput_samples_s"], "o", color=shade, markerfacecolor=face,
                                markersize=5.5 if hollow else 4.5, label=device_label(cell))[0]  # fmt: skip
                dot.set_url(f"#runs-{cell['name']}")
        axes.set_title(title)
        axes.set_xlabel(f"{NAMES[axis]}, at {constant}")
        axes.set_xticks(sorted({cell["model"][axis] for line in lines for cell in line}))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        return Picture(title, alt, to_svg(figure, alt, f"scaling {axis} {shared}"))


# --- contention
# GB/s into each GPU, and into all of them together, against the number of GPUs busy.

Record = dict[str, Any]


def contention_pictures(entries: list[Record]) -> dict[str, Picture]:
    """By title of the group, one for each model, load and placement of the others: left a GPU, right all together."""
    drawn = {group: own for group, own in groups(entries).items() if any(one["h2d_gb_s"] for one in own)}
    return {group_title(group): _draw(group, own) for group, own in drawn.items()}


def _draw(group: Group, entries: list[Record]) -> Picture:
    busy = sorted({entry["busy"] for entry in entries})
    series = sorted({(entry["gpu"], entry["cpu_node"], entry["mem_node"]) for entry in entries})
    many_places = len({key[1:] for key in series}) > 1
    labels = {key: f"GPU {key[0]}" + (f" · node {key[2]}" if many_places else "") for key in series}
    alt = f"GB/s into each GPU by GPUs busy, {group_title(group)}. " + " ".join(
        f"{label}: " + ", ".join(f"{one['busy']}: {bandwidth(one['h2d_gb_s'])}" for one in _of(entries, key)) + "."
        for key, label in labels.items()
    )
    legend_in = 0.5 + 0.075 * max(map(len, labels.values()))
    with canvas(9.6, 3.1, ["000"], top_in=0.35, bottom_in=0.45, right_in=legend_in) as figure:
        figure.subplots_adjust(wspace=0.22)
        each, all_ = figure.subplots(1, 2)
        for index, (key, label) in enumerate(labels.items()):
            own = [entry for entry in _of(entries, key) if entry["h2d_gb_s"]]
            shade, stroke = colour(index), "-" if index < len(COLOURS) else "--"
            xs = [busy.index(entry["busy"]) for entry in own]
            each.plot(xs, [entry["h2d_gb_s"] for entry in own], stroke, color=shade, alpha=0.5)
            for x, entry in zip(xs, own, strict=True):
                each.plot(x, entry["h2d_gb_s"], "o", color=shade, markersize=4.5)[0].set_url(f"#runs-{entry['cell']}")
                _together(all_, x + 0.02 * (index - len(labels) / 2), entry, shade)
            all_.plot([], [], f"o{stroke}", color=shade, label=label)
        if is_alike(entries) and busy[0] == 1:
            alone = max(entry["h2d_gb_s"] or 0 for entry in entries if entry["busy"] == 1)
            all_.plot(range(len(busy)), [alone * number for number in busy], ":", color=MUTED, linewidth=1)
        for axes, title in ((each, "GB/s into the measured GPU"), (all_, "GB/s into all busy GPUs")):
            axes.set_title(title, fontsize=9.5)
            axes.set_xticks(range(len(busy)), [f"{number}" for number in busy])
            axes.set_xlim(-0.4, len(busy) - 0.6)
            axes.set_xlabel("GPUs busy")
        each.set_ylim(0, 1.1 * max(entry["h2d_gb_s"] or 0 for entry in entries))
        all_.set_ylim(bottom=0)
        all_.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, fontsize=8.5)
        return Picture(group_title(group), alt, to_svg(figure, alt, f"contention {group}"), wide=True)


def _together(axes: Axes, x: float, entry: Record, shade: str) -> None:
    told = entry["together"]["h2d_gb_s"]
    if told["value"]:
        axes.plot(x, told["value"], "o", color=shade, markersize=4.5)
    if told["interval"]:
        axes.plot([x, x], told["interval"], color=INK, linewidth=1.1)


def _of(entries: list[Record], key: tuple[int, int, int]) -> list[Record]:
    own = [entry for entry in entries if (entry["gpu"], entry["cpu_node"], entry["mem_node"]) == key]
    return sorted(own, key=lambda entry: entry["busy"])
