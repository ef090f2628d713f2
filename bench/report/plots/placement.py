"""Penalty, throughput, latency and bandwidth plots."""

import math

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from bench.legacy.aggregate import alone_gb_s, ceiling
from bench.legacy.axes import series_label
from bench.legacy.predictions import flops_per_byte
from bench.legacy.statistics import interval_of
from bench.report.labels import by_row, device_label, is_swept, panels, place_of, placements
from bench.report.plots.style import COLOURS, INK, MUTED, Picture, canvas, colour, draw_interval, panel_in, to_svg
from bench.report.text import Answer, Loss
from bench.units import bandwidth, microseconds, percent, rate

# --- penalty
# Penalty against compute per byte moved: where the transfer-bound end and the node stops to matter.

BEYOND = 50
"""Percentage points beyond the penalties that intervals are drawn to."""


def penalty_pictures(cells: list[dict], answers: list[Answer]) -> list[Picture]:
    """One figure, a line for each device, place and settings; nothing where no model that computes was compared."""
    by_name = {cell["name"]: cell for cell in cells}
    series: dict[str, list[tuple[float, Loss]]] = {}
    for answer in answers:
        for loss in answer.losses:
            intensity = flops_per_byte(by_name[loss.cell])
            if intensity is not None:
                settings = " ".join(part for part in loss.label.split(" ")[1:] if not part.startswith("again"))
                name = f"{answer.device} on {loss.place}" + (f", {settings}" if settings else "")
                series.setdefault(name, []).append((intensity, loss))
    if not any(x > 0 for points in series.values() for x, _ in points):
        return []
    return [_draw(series)]


def _draw(series: dict[str, list[tuple[float, Loss]]]) -> Picture:
    alt = "Penalty against floating-point operations per byte moved. " + " ".join(
        f"{name}: " + ", ".join(f"{loss.label} {percent(loss.share)}" for _, loss in points) + "."
        for name, points in series.items()
    )
    computing = [x for points in series.values() for x, _ in points if x > 0]
    # A model without compute has no place on a logarithmic axis: it stands apart, left of all others.
    apart = min(computing) / 4
    legend_in = 0.75 + 0.075 * max(map(len, series))
    with canvas(9.6, 3.6, ["-00 %"], top_in=0.1, bottom_in=0.45, right_in=legend_in) as figure:
        axes = figure.add_subplot()
        shares = [100 * loss.share for points in series.values() for _, loss in points]
        # An interval says how little is known: it may not squeeze what is known.
        shown = min([*shares, 0]) - BEYOND, max([*shares, 0]) + BEYOND
        for index, (name, points) in enumerate(series.items()):
            points = sorted(points, key=lambda point: point[0])
            nudge = 1 + 0.03 * (index - (len(series) - 1) / 2)
            xs = [(x if x > 0 else apart) * nudge for x, _ in points]
            stroke = "-" if index < len(COLOURS) else "--"
            axes.plot(xs, [100 * loss.share for _, loss in points], stroke, color=colour(index), alpha=0.35)
            for x, (_, loss) in zip(xs, points, strict=True):
                if loss.interval:
                    bounds = [100 * bound for bound in loss.interval]
                    draw_interval(axes, bounds, x, shown, upright=True, color=colour(index))
                dot = axes.plot(x, 100 * loss.share, "o", color=colour(index), markersize=4.5)[0]
                dot.set_url(f"#runs-{loss.cell}")
            axes.plot([], [], f"o{stroke}", color=colour(index), label=name)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xscale("log")
        if any(x <= 0 for points in series.values() for x, _ in points):
            axes.axvline(apart * 2, color=MUTED, linewidth=0.8, linestyle=":")
            ticks = {apart: "no compute"}
        else:
            ticks = {}
        decades = range(math.floor(math.log10(min(computing))), math.ceil(math.log10(max(computing))) + 1)
        ticks |= {10.0**power: f"{10**power:,}" for power in decades if 10.0**power > apart * 2}
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("floating-point operations per byte moved")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %".replace("-", "−"))
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=8.5)
        return Picture("penalty", alt, to_svg(figure, alt, "penalty"), wide=True)


# --- throughput
# Throughput by node and model: bars from zero, a line for the 95 % interval, a dot for every run.

Place = tuple[int, int]
MOST_SHOWN = 1.5
"""Of the highest bar or run; longer intervals are cut."""
_DOT = {"markersize": 3.2, "markerfacecolor": "white", "markeredgecolor": INK, "markeredgewidth": 0.7, "zorder": 3}


def throughput_pictures(cells: list[dict]) -> list[Picture]:
    """A small panel a model, a bar each GPU and placement; one list of models where there is one cell each."""
    places = placements(cells)
    measured = [cell for cell in cells if cell["throughput_samples_s"]]
    upright = not is_swept(measured)
    return [(_panel if panel[0] and upright else _models)(*panel, places) for panel in panels(measured)]


def _panel(title: str, cells: list[dict], labels: list[str], places: list[Place]) -> Picture:
    devices = list(dict.fromkeys(device_label(cell) for cell in cells))
    largest = MOST_SHOWN * _largest(cells)
    width = 0.8 / len(places)
    alt = _alt(title, cells, labels)
    with canvas(3.4, 2.2) as figure:
        axes = figure.add_subplot()
        for cell in cells:
            place = places.index(place_of(cell))
            x = devices.index(device_label(cell)) + (place - (len(places) - 1) / 2) * width
            bar = axes.bar(x, cell["throughput_samples_s"], min(width * 0.92, 0.4), color=colour(place))
            bar.patches[0].set_url(f"#runs-{cell['name']}")
            _runs(axes, cell, x, largest, upright=True)
        axes.set_title(title)
        axes.set_xticks(range(len(devices)), devices)
        axes.set_xlim(-0.6, len(devices) - 0.4)
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        return Picture(title, alt, to_svg(figure, alt, f"throughput {title}"))


def _models(title: str, cells: list[dict], labels: list[str], places: list[Place]) -> Picture:
    alt = _alt(title, cells, labels)
    largest = MOST_SHOWN * _largest(cells)
    rates = [rate(cell["throughput_samples_s"]) for cell in cells]
    top_in, right_in = 0.32 if title else 0.08, 0.2 + 0.072 * max(map(len, rates))
    with canvas(
        panel_in(labels) if title else 6.4, 0.32 + top_in + 0.27 * len(cells), labels, top_in=top_in, right_in=right_in
    ) as figure:
        axes = figure.add_subplot()
        axes.set_title(title)
        for y, (cell, number) in enumerate(zip(cells, rates, strict=True)):
            bar = axes.barh(y, cell["throughput_samples_s"], 0.66, color=colour(places.index(place_of(cell))))
            bar.patches[0].set_url(f"#runs-{cell['name']}")
            _runs(axes, cell, y, largest, upright=False)
            # In a column of their own: beside a bar or its interval a number would be read off the axis there.
            axes.annotate(number, (1, y), (72 * right_in - 4, 0), ("axes fraction", "data"), "offset points",
                          ha="right", va="center", color=INK, fontsize=8.5)  # fmt: skip
        axes.set_yticks(range(len(cells)), labels)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(3 if title else 5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(axis="y", visible=False)
        return Picture(title, alt, to_svg(figure, alt, f"throughput {title}"), wide=not title)


def _largest(cells: list[dict]) -> float:
    """Of bars and runs."""
    return max(max([cell["throughput_samples_s"], *cell["throughput_runs"]]) for cell in cells)


def _runs(axes: Axes, cell: dict, at: float, largest: float, upright: bool) -> None:
    runs = cell["throughput_runs"]
    if len(runs) < 2:
        return
    draw_interval(axes, interval_of(runs), at, (0.0, largest), upright=upright, color=INK)
    axes.plot(*([at] * len(runs), runs)[:: 1 if upright else -1], "o", **_DOT)


def _alt(title: str, cells: list[dict], labels: list[str]) -> str:
    told = "; ".join(f"{label} {rate(cell['throughput_samples_s'])}" for label, cell in zip(labels, cells, strict=True))
    return f"Throughput {title} in samples per second: {told}"


# --- latency
# Latency of a batch by node: boxes drawn from the quantiles that the runs stored.

WIDE = 20
"""Models whose latencies differ by more than this factor share a logarithmic axis."""


def latency_pictures(cells: list[dict]) -> list[Picture]:
    """Box: the middle half; line: 1 % to 99 %, or 10 % to 90 % where a cell has too few batches for that."""
    known = [cell for cell in cells if _tail(cell) is not None]
    places = placements(cells)
    return [_panel_of_latency(*panel, places) for panel in panels(known)]


def _tail(cell: dict) -> int | None:
    """The percentile at which the line of a cell ends: what its batches support; None if they support no box."""
    quantiles = (cell["latency_us"] or {}).get("quantiles") or []
    if len(quantiles) != 101:
        return None
    return next((tail for tail in (1, 10, 25) if None not in (quantiles[tail], quantiles[100 - tail])), None)


def _panel_of_latency(title: str, cells: list[dict], rows: list[str], places: list[tuple[int, int]]) -> Picture:
    alt = f"Latency of a batch {title}: " + "; ".join(
        f"{row}: median {microseconds(cell['latency_us']['p50'])}, p99 {microseconds(cell['latency_us']['p99'])}"
        for row, cell in zip(rows, cells, strict=True)
    )
    tails = [_tail(cell) or 0 for cell in cells]
    longest = max(cell["latency_us"]["quantiles"][100 - tail] for cell, tail in zip(cells, tails, strict=True))
    shortest = min(cell["latency_us"]["quantiles"][tail] for cell, tail in zip(cells, tails, strict=True))
    scale, unit = (1e3, "ms") if longest >= 2e3 else (1.0, "µs")
    with canvas(
        panel_in(rows) if title else 6.4, 0.75 + 0.22 * len(cells), rows, bottom_in=0.43, right_in=0.2
    ) as figure:
        axes = figure.add_subplot()
        for row, cell in enumerate(cells):
            values = [None if value is None else value / scale for value in cell["latency_us"]["quantiles"]]
            tail = tails[row]
            shade = colour(places.index(place_of(cell)))
            axes.plot([values[tail], values[100 - tail]], [row, row], color=shade, linewidth=1.4)
            box = axes.barh(row, values[75] - values[25], 0.55, values[25], color=shade)
            box.patches[0].set_url(f"#runs-{cell['name']}")
            axes.plot([values[50]] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=1.4)
        axes.set_title(title)
        axes.set_yticks(range(len(cells)), rows)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.set_xlabel(unit)
        if not title and longest > WIDE * shortest:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        else:
            axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
        return Picture(title, alt, to_svg(figure, alt, f"latency {title}"), wide=not title)


# --- bandwidth
# Copies as part of what the link carried at best: alone, and while the pipeline runs.

DIRECTIONS = ("h2d", "d2h")


def bandwidth_pictures(cells: list[dict], links: list[dict]) -> list[Picture]:
    """One figure a GPU: a dot in the pipeline (from the trace), a ring alone, in percent of the ceiling of its link."""
    pictures = []
    for device in dict.fromkeys(map(device_label, cells)):
        own = [cell for cell in cells if device_label(cell) == device and cell["metrics"]]
        found = {way: ceiling(links, own, own[0]["gpu"], way) for way in DIRECTIONS} if own else {}
        ceilings = {way: one.gb_s for way, one in found.items() if one}
        if len(ceilings) == len(DIRECTIONS):
            pictures.append(_panel_of_bandwidth(device, own, ceilings, placements(cells)))
    return pictures


def _panel_of_bandwidth(device: str, cells: list[dict], ceilings: dict, places: list[tuple[int, int]]) -> Picture:
    rows = {cell["name"]: row for row, group in enumerate(by_row(cells).values()) for cell in group}
    labels = list(by_row(cells))
    told = []
    farthest = 1.0
    height_in = 0.95 + 0.26 * len(labels)
    with canvas(panel_in(labels), height_in, labels, top_in=0.5, bottom_in=0.43, right_in=0.2) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, direction in zip(panels, DIRECTIONS, strict=True):
            for cell in cells:
                place = places.index(place_of(cell))
                y = rows[cell["name"]] + (place - (len(places) - 1) / 2) * 0.22
                alone = alone_gb_s(cell, direction)
                busy = cell["metrics"][direction].get("bandwidth_gb_s")
                farthest = max([farthest, *(speed / ceilings[direction] for speed in (alone, busy) if speed)])
                if alone:
                    ring = axes.plot(100 * alone / ceilings[direction], y, "o", markersize=5, markerfacecolor="none",
                                     markeredgecolor=colour(place))[0]  # fmt: skip
                    ring.set_url(f"#runs-{cell['name']}")
                if busy:
                    dot = axes.plot(100 * busy / ceilings[direction], y, "o", markersize=3.6,
                                    color=colour(place))[0]  # fmt: skip
                    dot.set_url(f"#runs-{cell['name']}")
                    told.append(f"{direction.upper()} {series_label(cell)} {percent(busy / ceilings[direction])}")
            axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            axes.set_title(direction.upper(), fontsize=9, fontweight="normal")
            axes.set_xlabel(f"% of {bandwidth(ceilings[direction])} GB/s", fontsize=8)
        for axes in panels:
            axes.set_xlim(0, 108 * farthest)
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].set_ylim(len(labels) - 0.4, -0.6)
        figure.text(0.01, 1 - 0.2 / figure.get_figheight(), device, fontsize=10, fontweight="bold")
        alt = f"Bandwidth of {device} in the pipeline as part of the copy alone: " + "; ".join(told)
        return Picture(device, alt, to_svg(figure, alt, f"bandwidth {device}"))
