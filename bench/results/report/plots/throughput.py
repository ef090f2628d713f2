"""Throughput by node: a bar for each GPU and placement, one small panel a model."""

from matplotlib.ticker import MaxNLocator

from bench.results.intervals import interval_of
from bench.results.report.labels import by_series, device_label, place_of, placements, row_label
from bench.results.report.plots.style import INK, Picture, canvas, colour, to_svg
from bench.results.words import rate

Place = tuple[int, int]


def throughput_pictures(cells: list[dict]) -> list[Picture]:
    """Bars from zero; a line for the 95 % interval of a cell measured more than once, a dot for every run."""
    measured = [cell for cell in cells if cell["throughput_samples_s"]]
    places = placements(cells)
    return [_panel(label, group, places) for label, group in by_series(measured).items()]


def _panel(label: str, cells: list[dict], places: list[Place]) -> Picture:
    devices = list(dict.fromkeys(device_label(cell) for cell in cells))
    width = 0.8 / len(places)
    alt = f"Throughput of {label} in samples per second: " + "; ".join(
        f"{row_label(cell)} {rate(cell['throughput_samples_s'])}" for cell in cells
    )
    with canvas(3.4, 2.2) as figure:
        axes = figure.add_subplot()
        for cell in cells:
            place = places.index(place_of(cell))
            x = devices.index(device_label(cell)) + (place - (len(places) - 1) / 2) * width
            bar = axes.bar(x, cell["throughput_samples_s"], min(width * 0.92, 0.4), color=colour(place))
            bar.patches[0].set_url(f"#runs-{cell['name']}")
            runs = cell["throughput_runs"]
            if len(runs) > 1:
                axes.plot([x] * len(runs), runs, "o", color=INK, markersize=2, alpha=0.45, markeredgewidth=0)
                axes.plot([x, x], interval_of(runs), color=INK, linewidth=1.3, solid_capstyle="butt")
        axes.set_title(label)
        axes.set_xticks(range(len(devices)), devices)
        axes.set_xlim(-0.6, len(devices) - 0.4)
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        return Picture(label, alt, to_svg(figure, alt, f"throughput {label}"))
