"""What the profiler costs: traced against timed throughput, a dot a cell."""

from bench.results.report.labels import by_row, place_of, placements, row_label
from bench.results.report.plots.style import MUTED, Picture, canvas, colour, to_svg
from bench.results.series import series_label
from bench.results.words import percent

LIMIT = 0.05


def perturbation_pictures(cells: list[dict]) -> list[Picture]:
    known = [cell for cell in cells if cell["perturbation"] is not None]
    return [_draw(known, placements(cells))] if known else []


def _draw(cells: list[dict], places: list[tuple[int, int]]) -> Picture:
    groups = by_row(cells)
    alt = "Traced over timed throughput: " + "; ".join(
        f"{series_label(cell)}, {row_label(cell)} {percent(cell['perturbation'])}" for cell in cells
    )
    with canvas(9.6, 0.4 + 0.27 * max(len(groups), 3), groups, top_in=0.08) as figure:
        axes = figure.add_subplot()
        axes.axvspan(100 * (1 - LIMIT), 100 * (1 + LIMIT), color="#EEF1F4", linewidth=0)
        axes.axvline(100, color=MUTED, linewidth=0.8)
        for row, group in enumerate(groups.values()):
            for cell in group:
                place = places.index(place_of(cell))
                y = row + (place - (len(places) - 1) / 2) * 0.2
                dot = axes.plot(100 * cell["perturbation"], y, "o", markersize=4, color=colour(place))[0]
                dot.set_url(f"#runs-{cell['name']}")
        axes.set_yticks(range(len(groups)), list(groups))
        axes.set_ylim(max(len(groups), 3) - 0.4, -0.6)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
        return Picture("perturbation", alt, to_svg(figure, alt, "perturbation"), wide=True)
