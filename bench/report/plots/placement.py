"""Plots by node: penalty, throughput, latency, and bandwidth against the link."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from bench.analysis.bound import flops_per_byte
from bench.analysis.links import ceiling, isolated_gb_s
from bench.analysis.statistics import interval_of
from bench.records.results import MeasuredCell
from bench.report.anchors import ANCHORS, Anchor
from bench.report.plots.style import (
    COLOURS,
    INK,
    MUTED,
    WIDE_IN,
    Picture,
    canvas,
    colour,
    draw_interval,
    draw_legend,
    panel_in,
    runs_href,
    to_svg,
)
from bench.report.text.answer import Answer, Loss
from bench.report.view import Place, View, place_of, value_heading
from bench.units import bandwidth, microseconds, percent, rate, tick, tick_percent

DIRECTIONS = ("h2d", "d2h")
# Percentage points beyond the penalties up to which intervals are drawn.
_BEYOND = 50
# Of the height of the frame: what the names of published losses beyond it cover.
_NAMED_SHARE = 0.2
# Of the highest bar or run; longer intervals are cut.
MOST_SHOWN = 1.5
# Models whose latencies differ by more than this factor share a logarithmic axis.
_WIDE_LATENCIES = 20
_DOT: dict[str, Any] = {
    "markersize": 3.2,
    "markerfacecolor": "white",
    "markeredgecolor": INK,
    "markeredgewidth": 0.7,
    "zorder": 3,
}


# Penalty against compute per byte moved: where transfer-bound ends, the node stops to matter.


def penalty_pictures(view: View, answers: Sequence[Answer]) -> list[Picture]:
    """One figure, a line for each device, place and settings; none where no model that computes was compared."""
    series: dict[str, list[tuple[float, Loss]]] = {}
    for answer in answers:
        for loss in answer.losses:
            intensity = flops_per_byte(view.cells[loss.cell])
            if intensity is not None:
                name = f"{answer.device} on {loss.place}" + (f", {loss.settings}" if loss.settings else "")
                series.setdefault(name, []).append((intensity, loss))
    if not any(x > 0 for points in series.values() for x, _ in points):
        return []
    return [_penalty(series, () if view.is_cpu else ANCHORS)]


def _penalty(series: Mapping[str, list[tuple[float, Loss]]], anchors: Sequence[Anchor]) -> Picture:
    alt = "Penalty against floating-point operations per byte moved. " + " ".join(
        f"{name}: " + ", ".join(f"{loss.label} {percent(loss.share)}" for _, loss in points) + "."
        for name, points in series.items()
    )
    if anchors:
        alt += " Published: " + ", ".join(f"{anchor.name} {anchor.text}" for anchor in anchors) + "."
    computing = [x for points in series.values() for x, _ in points if x > 0]
    # A model without compute has no place on a logarithmic axis: it is drawn left of all others.
    no_compute = min(computing) / 4
    with canvas(WIDE_IN, 3.2, ["-00 %"], top_in=0.32, bottom_in=0.45, right_in=0.1, legend=list(series)) as figure:
        axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1), gridspec_kw={"wspace": 0.03})
        shares = [100 * loss.share for points in series.values() for _, loss in points]
        # A wide interval shows only how little is known: it may not squeeze the points.
        shown = min([*shares, 0]) - _BEYOND, max([*shares, 0]) + _BEYOND
        for index, (name, points) in enumerate(series.items()):
            points = sorted(points, key=lambda point: point[0])
            nudge = 1 + 0.03 * (index - (len(series) - 1) / 2)
            xs = [(x if x > 0 else no_compute) * nudge for x, _ in points]
            stroke = "-" if index < len(COLOURS) else "--"
            axes.plot(xs, [100 * loss.share for _, loss in points], stroke, color=colour(index), alpha=0.35)
            for x, (_, loss) in zip(xs, points, strict=True):
                if loss.interval:
                    bounds = [100 * bound for bound in loss.interval]
                    draw_interval(axes, bounds, x, shown, upright=True, color=colour(index))
                dot = axes.plot(x, 100 * loss.share, "o", color=colour(index), markersize=4.5)[0]
                dot.set_url(runs_href(loss.cell))
            axes.plot([], [], f"o{stroke}", color=colour(index), label=name)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_title("penalty (− is a gain)", fontsize=8.5, fontweight="normal", color=MUTED)
        axes.set_xscale("log")
        ticks: dict[float, str] = {}
        if any(x <= 0 for points in series.values() for x, _ in points):
            axes.axvline(no_compute * 2, color=MUTED, linewidth=0.8, linestyle=":")
            ticks[no_compute] = "no compute"
        decades = range(math.floor(math.log10(min(computing))), math.ceil(math.log10(max(computing))) + 1)
        ticks |= {10.0**power: tick(10**power) for power in decades if 10.0**power > no_compute * 2}
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("floating-point operations per byte moved")
        axes.yaxis.set_major_formatter(lambda value, _: tick_percent(value))
        _draw_anchors(beside, anchors)
        draw_legend(figure, axes)
        return Picture("penalty", alt, to_svg(figure, alt, "penalty"), wide=True)


def _draw_anchors(axes: Axes, anchors: Sequence[Anchor]) -> None:
    """Published losses at their height. Those beyond the frame, which the measured points set, are named at its top
    with their size, and so is one that these names would cover."""
    if not anchors:
        axes.set_axis_off()
        return
    low, high = axes.get_ylim()
    top = high if all(100 * anchor.most <= high for anchor in anchors) else high - _NAMED_SHARE * (high - low)
    for anchor in anchors:
        least, most = 100 * anchor.least, 100 * anchor.most
        if low <= least and most <= top:
            axes.plot([0.04, 0.14], [least, least], color=MUTED, linewidth=1.2)
            axes.fill_between([0.04, 0.14], least, most, color=MUTED, alpha=0.35, linewidth=0)
            # The name of one at zero is below the line, where no other is.
            align = "center" if least else "top"
            axes.annotate(anchor.name, (0.2, (least + most) / 2), va=align, color=MUTED, fontsize=7.5)
    above = [f"{anchor.name} {anchor.text}" for anchor in anchors if 100 * anchor.most > top]
    if above:
        axes.annotate("\n".join(above), (0.04, 1), xycoords="axes fraction", va="top", color=MUTED,
                      fontsize=7.5)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(low, high)
    axes.grid(axis="x", visible=False)
    axes.xaxis.set_major_locator(NullLocator())
    axes.tick_params(labelleft=False)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("published", labelpad=16)


# Throughput: bars from zero, a line for the 95 % interval, a dot for every run.


def throughput_pictures(view: View) -> list[Picture]:
    """A small panel a model, a bar each GPU and placement; one list of models where there is one cell each."""
    measured = [cell for cell in view.results.cells if cell.value]
    upright = not view.is_swept(measured)
    return [
        _throughput_bars(view, title, cells, labels)
        if title and upright
        else _throughput_list(view, title, cells, labels)
        for title, cells, labels in view.panels(measured)
    ]


def _throughput_bars(view: View, title: str, cells: Sequence[MeasuredCell], labels: Sequence[str]) -> Picture:
    devices = list(dict.fromkeys(map(view.device, cells)))
    largest = MOST_SHOWN * _largest(cells)
    width = 0.8 / len(view.places)
    alt = _throughput_alt(title, cells, labels)
    with canvas(3.4, 2.2) as figure:
        axes = figure.add_subplot()
        for cell in cells:
            place = view.places.index(place_of(cell))
            x = devices.index(view.device(cell)) + (place - (len(view.places) - 1) / 2) * width
            bar = axes.bar(x, cell.value or 0.0, min(width * 0.92, 0.4), color=colour(place))
            bar.patches[0].set_url(runs_href(cell.name))
            _draw_runs(axes, cell, x, largest, upright=True)
        axes.set_title(title)
        axes.set_xticks(range(len(devices)), devices)
        axes.set_xlim(-0.6, len(devices) - 0.4)
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: tick(value))
        return Picture(title, alt, to_svg(figure, alt, f"throughput {title}"))


def _throughput_list(view: View, title: str, cells: Sequence[MeasuredCell], labels: Sequence[str]) -> Picture:
    alt = _throughput_alt(title, cells, labels)
    largest = MOST_SHOWN * _largest(cells)
    rates = [rate(cell.value) for cell in cells]
    top_in, right_in = 0.32 if title else 0.08, 0.2 + 0.072 * max(map(len, rates))
    with canvas(
        panel_in(labels) if title else WIDE_IN,
        0.32 + top_in + 0.27 * len(cells),
        labels,
        top_in=top_in,
        right_in=right_in,
    ) as figure:
        axes = figure.add_subplot()
        axes.set_title(title)
        for y, (cell, number) in enumerate(zip(cells, rates, strict=True)):
            shade = colour(view.places.index(place_of(cell)))
            bar = axes.barh(y, cell.value or 0.0, 0.66, color=shade)
            bar.patches[0].set_url(runs_href(cell.name))
            _draw_runs(axes, cell, y, largest, upright=False)
            # In a separate column: beside a bar or its interval a number would be read off the axis there.
            axes.annotate(number, (1, y), (72 * right_in - 4, 0), ("axes fraction", "data"), "offset points",
                          ha="right", va="center", color=INK, fontsize=8.5)  # fmt: skip
        axes.set_yticks(range(len(cells)), labels)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(3 if title else 5))
        axes.xaxis.set_major_formatter(lambda value, _: tick(value))
        axes.grid(axis="y", visible=False)
        return Picture(title, alt, to_svg(figure, alt, f"throughput {title}"), wide=not title)


def _largest(cells: Sequence[MeasuredCell]) -> float:
    """Of bars and runs."""
    return max(max([cell.value or 0.0, *cell.values]) for cell in cells)


def _draw_runs(axes: Axes, cell: MeasuredCell, at: float, largest: float, upright: bool) -> None:
    runs = cell.values
    if len(runs) < 2:
        return
    draw_interval(axes, interval_of(runs), at, (0.0, largest), upright=upright, color=INK)
    axes.plot(*([at] * len(runs), runs)[:: 1 if upright else -1], "o", **_DOT)


def _throughput_alt(title: str, cells: Sequence[MeasuredCell], labels: Sequence[str]) -> str:
    rates = "; ".join(f"{label} {rate(cell.value)}" for label, cell in zip(labels, cells, strict=True))
    what = value_heading(cells).replace("samples/s", "samples per second")
    return f"Throughput {title} in {what}: {rates}" if "samples" in what else f"{title} {what}: {rates}".strip()


# Latency of a batch: boxes from the quantiles that the runs stored.


def latency_pictures(view: View) -> list[Picture]:
    """Box: the middle half; line: 1 % to 99 %, or 10 % to 90 % where a cell has too few batches for that."""
    known = [cell for cell in view.results.cells if _curve(cell)]
    return [_latency_panel(view, *panel) for panel in view.panels(known)]


def _curve(cell: MeasuredCell) -> tuple[int, Mapping[int, float]] | None:
    """The percentile at which the line of a cell ends, and the latencies in us by percentile; None if its batches
    support no box."""
    quantiles = cell.latency_us.quantiles if cell.latency_us else []
    if len(quantiles) != 101:
        return None
    known = {percent: value for percent, value in enumerate(quantiles) if value is not None}
    tail = next((tail for tail in (1, 10, 25) if tail in known and 100 - tail in known), None)
    return None if tail is None else (tail, known)


def _latency_panel(view: View, title: str, cells: Sequence[MeasuredCell], rows: Sequence[str]) -> Picture:
    curves = [(cell, *curve) for cell in cells if (curve := _curve(cell))]
    alt = f"Latency of a batch {title}: " + "; ".join(
        f"{row}: median {microseconds(latency.p50)}, p99 {microseconds(latency.p99)}"
        for row, cell in zip(rows, cells, strict=True)
        if (latency := cell.latency_us)
    )
    longest = max(known[100 - tail] for _, tail, known in curves)
    shortest = min(known[tail] for _, tail, known in curves)
    scale, unit = (1e3, "ms") if longest >= 2e3 else (1.0, "µs")
    with canvas(
        panel_in(rows) if title else WIDE_IN, 0.75 + 0.22 * len(cells), rows, bottom_in=0.43, right_in=0.2
    ) as figure:
        axes = figure.add_subplot()
        for row, (cell, tail, known) in enumerate(curves):
            low, left, middle, right, high = (known[at] / scale for at in (tail, 25, 50, 75, 100 - tail))
            shade = colour(view.places.index(place_of(cell)))
            axes.plot([low, high], [row, row], color=shade, linewidth=1.4)
            box = axes.barh(row, right - left, 0.55, left, color=shade)
            box.patches[0].set_url(runs_href(cell.name))
            axes.plot([middle] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=1.4)
        axes.set_title(title)
        axes.set_yticks(range(len(cells)), rows)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.set_xlabel(unit)
        if not title and longest > _WIDE_LATENCIES * shortest:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: tick(value))
        else:
            axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
        return Picture(title, alt, to_svg(figure, alt, f"latency {title}"), wide=not title)


# Copies in percent of the link's ceiling: in isolation, and while the pipeline runs.


def bandwidth_pictures(view: View) -> list[Picture]:
    """One figure a GPU: a dot in the pipeline (from the trace), a ring in isolation."""
    pictures = []
    for device in dict.fromkeys(map(view.device, view.results.cells)):
        own = [cell for cell in view.results.cells if view.device(cell) == device and cell.metrics]
        found = {way: ceiling(view.results.links, own, own[0].gpu, way) for way in DIRECTIONS} if own else {}
        ceilings = {way: one.gb_s for way, one in found.items() if one}
        if len(ceilings) == len(DIRECTIONS):
            pictures.append(_bandwidth_panel(view, device, own, ceilings))
    return pictures


def _bandwidth_panel(view: View, device: str, cells: Sequence[MeasuredCell], ceilings: Mapping[str, float]) -> Picture:
    groups = view.by_row(cells)
    rows = {cell.name: row for row, group in enumerate(groups.values()) for cell in group}
    shown, farthest = [], 1.0
    with canvas(
        panel_in(groups), 0.95 + 0.26 * len(groups), groups, top_in=0.5, bottom_in=0.43, right_in=0.2
    ) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, direction in zip(panels, DIRECTIONS, strict=True):
            for cell in cells:
                y = rows[cell.name] + _offset(view.places, cell)
                isolated = isolated_gb_s(cell, direction)
                busy = getattr(cell.metrics, direction).bandwidth_gb_s
                shares = [(speed or 0.0) / ceilings[direction] for speed in (isolated, busy)]
                farthest = max(farthest, *shares)
                shade = colour(view.places.index(place_of(cell)))
                if isolated:
                    ring = axes.plot(100 * shares[0], y, "o", markersize=5, markerfacecolor="none",
                                     markeredgecolor=shade)[0]  # fmt: skip
                    ring.set_url(runs_href(cell.name))
                if busy:
                    dot = axes.plot(100 * shares[1], y, "o", markersize=3.6, color=shade)[0]
                    dot.set_url(runs_href(cell.name))
                    shown.append(f"{direction.upper()} {view.series(cell)} {percent(shares[1])}")
            axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            axes.set_title(direction.upper(), fontsize=9, fontweight="normal")
            axes.set_xlabel(f"% of {bandwidth(ceilings[direction])} GB/s", fontsize=8)
        for axes in panels:
            axes.set_xlim(0, 108 * farthest)
        panels[0].set_yticks(range(len(groups)), list(groups))
        panels[0].set_ylim(len(groups) - 0.4, -0.6)
        figure.text(0.01, 1 - 0.2 / figure.get_figheight(), device, fontsize=10, fontweight="bold")
        alt = f"Bandwidth of {device} in the pipeline as part of the copy in isolation: " + "; ".join(shown)
        return Picture(device, alt, to_svg(figure, alt, f"bandwidth {device}"))


def _offset(places: Sequence[Place], cell: MeasuredCell) -> float:
    """Of a mark from the middle of its row."""
    return (places.index(place_of(cell)) - (len(places) - 1) / 2) * 0.22
