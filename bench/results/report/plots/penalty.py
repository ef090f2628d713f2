"""Penalty against compute per byte moved: where the transfer-bound end and the node stops to matter."""

import math

from matplotlib.ticker import NullLocator

from bench.results.intensity import flops_per_byte
from bench.results.report.answer import Answer, Loss
from bench.results.report.plots.style import COLOURS, MUTED, Picture, canvas, colour, draw_interval, to_svg
from bench.results.words import percent

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
