"""Copies as part of what the link carried at best: alone, and while the pipeline runs."""

from bench.results.report.labels import by_row, device_label, place_of, placements, series_label
from bench.results.report.plots.style import Picture, canvas, colour, to_svg
from bench.results.words import bandwidth, percent

DIRECTIONS = ("h2d", "d2h")


def alone_gb_s(cell: dict, direction: str) -> float | None:
    """Of a copy of the batch's own size with the other stages off."""
    solo_us = (cell.get("solo_us") or {}).get(direction)
    moved = (cell.get("bytes_per_batch") or {}).get(direction)
    return moved / (1e3 * solo_us) if solo_us and moved else None


def ceiling_gb_s(cells: list[dict], direction: str) -> float | None:
    """The best that any cell of one GPU reached with a copy alone: the measured ceiling of its link."""
    return max((rate for cell in cells if (rate := alone_gb_s(cell, direction))), default=None)


def bandwidth_pictures(cells: list[dict]) -> list[Picture]:
    """One figure a GPU: a dot in the pipeline (from the trace), a ring alone, in percent of the ceiling."""
    pictures = []
    for device in dict.fromkeys(map(device_label, cells)):
        own = [cell for cell in cells if device_label(cell) == device and cell["metrics"]]
        ceilings = {direction: ceiling_gb_s(own, direction) for direction in DIRECTIONS}
        if own and all(ceilings.values()):
            pictures.append(_panel(device, own, ceilings, placements(cells)))
    return pictures


def _panel(device: str, cells: list[dict], ceilings: dict, places: list[tuple[int, int]]) -> Picture:
    rows = {cell["name"]: row for row, group in enumerate(by_row(cells).values()) for cell in group}
    labels = list(by_row(cells))
    told = []
    with canvas(3.4, 0.95 + 0.26 * len(labels), labels, top_in=0.5, bottom_in=0.43, right_in=0.2) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, direction in zip(panels, DIRECTIONS, strict=True):
            for cell in cells:
                place = places.index(place_of(cell))
                y = rows[cell["name"]] + (place - (len(places) - 1) / 2) * 0.22
                alone = alone_gb_s(cell, direction)
                busy = cell["metrics"][direction].get("bandwidth_gb_s")
                if alone:
                    axes.plot(100 * alone / ceilings[direction], y, "o", markersize=5, markerfacecolor="none",
                              markeredgecolor=colour(place))  # fmt: skip
                if busy:
                    dot = axes.plot(100 * busy / ceilings[direction], y, "o", markersize=3.6,
                                    color=colour(place))[0]  # fmt: skip
                    dot.set_url(f"#runs-{cell['name']}")
                    told.append(f"{direction.upper()} {series_label(cell)} {percent(busy / ceilings[direction])}")
            axes.set_xlim(0, 108)
            axes.set_xticks([0, 50, 100], ["0", "50", "100"])
            axes.set_title(direction.upper(), fontsize=9, fontweight="normal")
            axes.set_xlabel(f"% of {bandwidth(ceilings[direction])} GB/s", fontsize=8)
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].set_ylim(len(labels) - 0.4, -0.6)
        figure.text(0.01, 1 - 0.2 / figure.get_figheight(), device, fontsize=10, fontweight="bold")
        alt = f"Bandwidth of {device} in the pipeline as part of the copy alone: " + "; ".join(told)
        return Picture(device, alt, to_svg(figure, alt, f"bandwidth {device}"))
