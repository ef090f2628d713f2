"""Copies as part of what the link carried at best: alone, and while the pipeline runs."""

from matplotlib.ticker import MaxNLocator

from bench.results.links import alone_gb_s, ceiling
from bench.results.report.labels import by_row, device_label, place_of, placements
from bench.results.report.plots.style import Picture, canvas, colour, panel_in, to_svg
from bench.results.series import series_label
from bench.results.words import bandwidth, percent

DIRECTIONS = ("h2d", "d2h")


def bandwidth_pictures(cells: list[dict], links: list[dict]) -> list[Picture]:
    """One figure a GPU: a dot in the pipeline (from the trace), a ring alone, in percent of the ceiling of its link."""
    pictures = []
    for device in dict.fromkeys(map(device_label, cells)):
        own = [cell for cell in cells if device_label(cell) == device and cell["metrics"]]
        found = {way: ceiling(links, own, own[0]["gpu"], way) for way in DIRECTIONS} if own else {}
        ceilings = {way: one.gb_s for way, one in found.items() if one}
        if len(ceilings) == len(DIRECTIONS):
            pictures.append(_panel(device, own, ceilings, placements(cells)))
    return pictures


def _panel(device: str, cells: list[dict], ceilings: dict, places: list[tuple[int, int]]) -> Picture:
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
