"""Plots of swept axes, of scaling with the model, and of several GPUs at once."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from bench.analysis.statistics import interval_of
from bench.records.results import AxisComparison, Contention, Line, MeasuredCell, Values
from bench.report.plots.style import (
    COLOURS,
    INK,
    MUTED,
    RULE,
    WIDE_IN,
    Picture,
    canvas,
    colour,
    draw_interval,
    draw_legend,
    runs_href,
    to_svg,
)
from bench.report.text.axes import summary_text
from bench.report.text.contention import Group, group_title, is_alike
from bench.report.view import View, place_of
from bench.units import bandwidth, rate, tick, tick_percent, values_text

# Numbers with fewer values are drawn like names.
FEWEST_POINTS = 3
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_FEWEST_TICKS = 3
_ROW_IN = 0.17


# One swept axis: throughput relative to the base, with intervals; the base is the line at 1.


def axis_picture(entry: AxisComparison) -> Picture | None:
    """A line a series where the values are numbers, else a row a model and value; None if nothing was compared."""
    lines = [line for line in entry.lines if line.effect is not None]
    if not lines:
        return None
    return _by_number(entry, lines) if is_numeric(entry) else _by_name(entry, lines)


def is_numeric(entry: AxisComparison) -> bool:
    numbers = all(_number(value) is not None for value in entry.values)
    return numbers and len(entry.keys) == 1 and len(entry.values) >= FEWEST_POINTS


def _number(values: Values) -> float | None:
    """The value of an axis of numbers."""
    value = next(iter(values.values()))
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _by_name(entry: AxisComparison, lines: Sequence[Line]) -> Picture:
    values = [value for value in entry.values[1:] if any(line.value == value for line in lines)]
    models = list(dict.fromkeys(line.model for line in lines))
    band = len(values) + 0.9
    height = 0.75 + _ROW_IN * band * len(models)
    shown = _shown(lines)
    labels = list(map(values_text, values))
    with canvas(WIDE_IN, height, models, top_in=0.1, bottom_in=0.45, right_in=0.25, legend=labels) as figure:
        axes = figure.add_subplot()
        for at, model in enumerate(models):
            for index, value in enumerate(values):
                own = [line for line in lines if line.model == model and line.value == value]
                for place, line in enumerate(own):
                    y = at * band + index + 0.5 + 0.5 * (place - (len(own) - 1) / 2) / max(len(own), 2)
                    _point(axes, line, y, index, shown, upright=False)
            if at:
                axes.axhline(at * band - 0.2, color=RULE, linewidth=0.8)
        axes.set_ylim(band * len(models) - 0.2, -0.2)
        axes.set_yticks([at * band + len(values) / 2 for at in range(len(models))], models)
        axes.grid(axis="y", visible=False)
        _scale(axes, shown, "x")
        _legend(figure, axes, labels)
        return _picture(figure, entry)


def _by_number(entry: AxisComparison, lines: Sequence[Line]) -> Picture:
    base = _number(entry.base) or 0.0
    models = list(dict.fromkeys(line.model for line in lines))
    numbers = sorted(_number(value) or 0.0 for value in entry.values)
    shown = _shown(lines)
    spaced = numbers[0] > 0 and numbers[-1] / numbers[0] > 4
    with canvas(WIDE_IN, 3.0, ["throughput"], top_in=0.1, bottom_in=0.45, right_in=0.25, legend=models) as figure:
        axes = figure.add_subplot()
        for cell in dict.fromkeys(line.base_cell for line in lines):
            own = sorted((line for line in lines if line.base_cell == cell), key=lambda line: _number(line.value) or 0)
            index = models.index(own[0].model)
            points = sorted([(base, 1.0), *((_number(line.value) or 0.0, _ratio(line)) for line in own)])
            axes.plot(*zip(*points, strict=True), "-" if index < len(COLOURS) else "--", color=colour(index), alpha=0.4)
            for line in own:
                nudge = 1 + 0.012 * (index - (len(models) - 1) / 2) if spaced else 1
                _point(axes, line, (_number(line.value) or 0.0) * nudge, index, shown, upright=True)
        if spaced:
            axes.set_xscale("log")
        axes.set_xticks(numbers, [tick(number) for number in numbers])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"{entry.keys[0].replace('_', ' ')}, base {tick(base)}")
        _scale(axes, shown, "y")
        _legend(figure, axes, models)
        return _picture(figure, entry)


def _ratio(line: Line) -> float:
    """Throughput over that of the base."""
    return 1 + (line.effect or 0.0)


def _point(axes: Axes, line: Line, at: float, index: int, shown: tuple[float, float], upright: bool) -> None:
    if line.interval:
        draw_interval(axes, [1 + bound for bound in line.interval], at, shown, upright=upright, color=colour(index))
    spot = (at, _ratio(line)) if upright else (_ratio(line), at)
    axes.plot(*spot, "o", color=colour(index), markersize=4.2)[0].set_url(runs_href(line.name))


def _shown(lines: Sequence[Line]) -> tuple[float, float]:
    """The range that is drawn: all points and the base; of a wide interval at most a factor of 2 beyond them."""
    ratios = list(map(_ratio, lines))
    bounds = [1 + bound for line in lines for bound in line.interval or ()]
    low, high = min(*ratios, 1.0), max(*ratios, 1.0)
    return max(min([low, *bounds]), low / 2), min(max([high, *bounds]), high * 2)


def _scale(axes: Axes, shown: tuple[float, float], direction: str) -> None:
    """Percent where all is within a third, factors on a logarithmic axis beyond."""
    low, high = shown
    of = getattr(axes, f"{direction}axis")
    (axes.axvline if direction == "x" else axes.axhline)(1, color=MUTED, linewidth=0.9)
    if high - low < 0.7:
        margin = max(0.06 * (high - low), 0.004)
        getattr(axes, f"set_{direction}lim")(low - margin, high + margin)
        of.set_major_formatter(lambda ratio, _: tick_percent(100 * (ratio - 1), plus=True))
    else:
        getattr(axes, f"set_{direction}scale")("log")
        low, high = low / 1.12, high * 1.12
        getattr(axes, f"set_{direction}lim")(low, high)
        ticks = _factors(low, high)
        of.set_ticks(ticks, [f"× {tick(factor)}" for factor in ticks])
        of.set_minor_formatter(NullFormatter())
        of.set_minor_locator(NullLocator())
    getattr(axes, f"set_{direction}label")("throughput against the base")


def _factors(low: float, high: float) -> list[float]:
    """Steps of 1, 2, 5; even ones where few of those are in between, so that a size can be read off."""
    ticks: list[float] = [factor for factor in _TICKS if low <= factor <= high]
    if len(ticks) < _FEWEST_TICKS:
        even = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [float(factor) for factor in even if low <= factor <= high]
    return ticks


def _legend(figure: Figure, axes: Axes, labels: Sequence[str]) -> None:
    for index, label in enumerate(labels):
        axes.plot([], [], "o" if index < len(COLOURS) else "o--", color=colour(index), label=label)
    draw_legend(figure, axes)


def _picture(figure: Figure, entry: AxisComparison) -> Picture:
    alt = f"Throughput by {entry.axis} against {values_text(entry.base)}. " + " ".join(
        f"{summary_text(entry, one)}." for one in entry.summary
    )
    return Picture(entry.axis, alt, to_svg(figure, alt, f"axis {entry.axis}"), wide=True)


# Throughput against depth and width, where a study has such a series of models.

_SHARED = {"depth": ("patch_size", "dim"), "dim": ("patch_size", "depth")}
_NAMES = {"depth": "layers", "dim": "width"}
_SHORTEST_SERIES = 3
_MOST_PANELS = 6
Shape = tuple[int, ...]


def model_series(view: View, axis: str) -> dict[Shape, list[list[MeasuredCell]]]:
    """Cells that differ in `axis` alone, in series of at least three different values, by the shape that they share.

    A model listed twice is in its series twice.
    """
    groups: dict[tuple[Shape, int, tuple[int, int], str], list[MeasuredCell]] = {}
    for cell in view.results.cells:
        if cell.model.depth and cell.throughput_samples_s:
            shared = tuple(getattr(cell.model, key) for key in _SHARED[axis])
            groups.setdefault((shared, cell.gpu, place_of(cell), view.settings(cell)), []).append(cell)
    found: dict[Shape, list[list[MeasuredCell]]] = {}
    for (shared, *_), group in groups.items():
        if len({getattr(cell.model, axis) for cell in group}) >= _SHORTEST_SERIES:
            found.setdefault(shared, []).append(sorted(group, key=lambda cell: getattr(cell.model, axis)))
    return found


def scaling_pictures(view: View) -> list[Picture]:
    """A panel for each shape; none where there are so many that only the comparison along the axis can be read."""
    found = {axis: model_series(view, axis) for axis in _SHARED}
    if sum(map(len, found.values())) > _MOST_PANELS:
        return []
    return [_scaling_panel(view, axis, shared, lines) for axis, own in found.items() for shared, lines in own.items()]


def _scaling_panel(view: View, axis: str, shared: Shape, lines: Sequence[Sequence[MeasuredCell]]) -> Picture:
    texts = {"patch_size": "{} pixels a patch", "depth": "{} layers", "dim": "width {}"}
    constant = " and ".join(texts[key].format(value) for key, value in zip(_SHARED[axis], shared, strict=True))
    title = f"By {_NAMES[axis]}"
    alt = f"Throughput against {_NAMES[axis]}, at {constant}. " + " ".join(
        f"{view.row(line[0])}: "
        + ", ".join(f"{getattr(cell.model, axis)}: {rate(cell.throughput_samples_s)}" for cell in line)
        + "."
        for line in lines
    )
    largest = 1.5 * max(cell.throughput_samples_s or 0.0 for line in lines for cell in line)
    with canvas(3.6, 2.9, bottom_in=0.45) as figure:
        axes = figure.add_subplot()
        for line in lines:
            shade = colour(view.places.index(place_of(line[0])))
            xs = [getattr(cell.model, axis) for cell in line]
            axes.plot(xs, [cell.throughput_samples_s or 0.0 for cell in line], "-", color=shade, alpha=0.4)
            for x, cell in zip(xs, line, strict=True):
                if len(cell.throughput_runs) > 1:
                    interval = interval_of(cell.throughput_runs)
                    draw_interval(axes, interval, x, (0.0, largest), upright=True, color=shade)
                again = cell.occurrence > 0
                dot = axes.plot(x, cell.throughput_samples_s or 0.0, "o", color=shade, label=view.device(cell),
                                markerfacecolor="white" if again else shade,
                                markersize=5.5 if again else 4.5)[0]  # fmt: skip
                dot.set_url(runs_href(cell.name))
        axes.set_title(title)
        axes.set_xlabel(f"{_NAMES[axis]}, at {constant}")
        axes.set_xticks(sorted({getattr(cell.model, axis) for line in lines for cell in line}))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: tick(value))
        return Picture(title, alt, to_svg(figure, alt, f"scaling {axis} {shared}"))


# GB/s into each GPU, and into all of them together, against the number of busy GPUs.


def contention_picture(group: Group, entries: Sequence[Contention]) -> Picture | None:
    """Left a GPU, right all together; None where no transfer rate is known."""
    if not any(entry.h2d_gb_s for entry in entries):
        return None
    title = group_title(group)
    busy = sorted({entry.busy_gpus for entry in entries})
    series = sorted({_series_of(entry) for entry in entries})
    many_places = len({key[1:] for key in series}) > 1
    labels = {key: f"GPU {key[0]}" + (f" · node {key[2]}" if many_places else "") for key in series}
    by_series = {key: _of(entries, key) for key in series}
    alt = f"GB/s into each GPU by busy GPUs, {title}. " + " ".join(
        f"{labels[key]}: " + ", ".join(f"{one.busy_gpus}: {bandwidth(one.h2d_gb_s)}" for one in own) + "."
        for key, own in by_series.items()
    )
    with canvas(WIDE_IN, 2.8, ["000"], top_in=0.35, bottom_in=0.45, legend=list(labels.values())) as figure:
        figure.subplots_adjust(wspace=0.22)
        each, total = figure.subplots(1, 2)
        for index, (key, label) in enumerate(labels.items()):
            own = [(busy.index(entry.busy_gpus), entry.h2d_gb_s, entry) for entry in by_series[key] if entry.h2d_gb_s]
            shade, stroke = colour(index), "-" if index < len(COLOURS) else "--"
            each.plot([x for x, _, _ in own], [gb_s for _, gb_s, _ in own], stroke, color=shade, alpha=0.5)
            for x, gb_s, entry in own:
                each.plot(x, gb_s, "o", color=shade, markersize=4.5)[0].set_url(runs_href(entry.cell))
                _draw_total(total, x + 0.02 * (index - len(labels) / 2), entry, shade)
            total.plot([], [], f"o{stroke}", color=shade, label=label)
        if is_alike(entries) and busy[0] == 1:
            isolated = max(entry.h2d_gb_s or 0.0 for entry in entries if entry.busy_gpus == 1)
            total.plot(range(len(busy)), [isolated * number for number in busy], ":", color=MUTED, linewidth=1)
        for axes, heading in ((each, "GB/s into the measured GPU"), (total, "GB/s into all busy GPUs")):
            axes.set_title(heading, fontsize=9.5)
            axes.set_xticks(range(len(busy)), [f"{number}" for number in busy])
            axes.set_xlim(-0.4, len(busy) - 0.6)
            axes.set_xlabel("busy GPUs")
        each.set_ylim(0, 1.1 * max(entry.h2d_gb_s or 0.0 for entry in entries))
        total.set_ylim(bottom=0)
        draw_legend(figure, total)
        return Picture(title, alt, to_svg(figure, alt, f"contention {group}"), wide=True)


def _draw_total(axes: Axes, x: float, entry: Contention, shade: str) -> None:
    found = entry.total.h2d_gb_s
    if found.value:
        axes.plot(x, found.value, "o", color=shade, markersize=4.5)
    if found.interval:
        axes.plot([x, x], found.interval, color=INK, linewidth=1.1)


def _series_of(entry: Contention) -> tuple[int, int, int]:
    return entry.gpu, entry.cpu_node, entry.mem_node


def _of(entries: Sequence[Contention], key: tuple[int, int, int]) -> list[Contention]:
    return sorted((one for one in entries if _series_of(one) == key), key=lambda one: one.busy_gpus)
