"""Latency of a batch by node: boxes drawn from the quantiles that the runs stored."""

from bench.results.report.labels import panels, place_of, placements
from bench.results.report.plots.style import INK, Picture, canvas, colour, panel_in, to_svg
from bench.results.words import microseconds

WIDE = 20
"""Models whose latencies differ by more than this factor share a logarithmic axis."""


def latency_pictures(cells: list[dict]) -> list[Picture]:
    """Box: the middle half; line: 1 % to 99 %, or 10 % to 90 % where a cell has too few batches for that."""
    known = [cell for cell in cells if _tail(cell) is not None]
    places = placements(cells)
    return [_panel(*panel, places) for panel in panels(known)]


def _tail(cell: dict) -> int | None:
    """The percentile at which the line of a cell ends: what its batches support; None if they support no box."""
    quantiles = (cell["latency_us"] or {}).get("quantiles") or []
    if len(quantiles) != 101:
        return None
    return next((tail for tail in (1, 10, 25) if None not in (quantiles[tail], quantiles[100 - tail])), None)


def _panel(title: str, cells: list[dict], rows: list[str], places: list[tuple[int, int]]) -> Picture:
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
