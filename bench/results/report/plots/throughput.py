"""Throughput by node and model: bars from zero, a line for the 95 % interval, a dot for every run."""

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bench.results.intervals import interval_of
from bench.results.report.labels import device_label, is_swept, panels, place_of, placements
from bench.results.report.plots.style import INK, Picture, canvas, colour, draw_interval, panel_in, to_svg
from bench.results.words import rate

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
