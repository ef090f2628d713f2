"""Throughput by node: a bar for each GPU and placement, one small panel a model."""

from bench.results.intervals import interval_of
from bench.results.report.plots.style import (
    INK,
    Picture,
    by_model,
    canvas,
    colour,
    node_label,
    placements,
    to_svg,
)
from bench.results.words import rate


def throughput_pictures(cells: list[dict]) -> list[Picture]:
    """Bars from zero; a line for the 95 % interval of a cell measured more than once, a dot for every run."""
    measured = [cell for cell in cells if cell["throughput_samples_s"]]
    places = placements(measured)
    return [_panel(label, group, places) for label, group in by_model(measured).items()]


def _panel(label: str, cells: list[dict], places: list[tuple[int, int]]) -> Picture:
    gpus = sorted({cell["gpu"] for cell in cells})
    width = 0.8 / len(places)
    alt = f"Throughput of {label}: " + "; ".join(
        f"GPU {cell['gpu']} {node_label(cell['cpu_node'], cell['mem_node'])} "
        f"{rate(cell['throughput_samples_s'])} samples/s"
        for cell in cells
    )
    with canvas(3.5, 2.3) as figure:
        axes = figure.add_subplot()
        for cell in cells:
            place = places.index((cell["cpu_node"], cell["mem_node"]))
            x = gpus.index(cell["gpu"]) + (place - (len(places) - 1) / 2) * width
            bar = axes.bar(x, cell["throughput_samples_s"], width * 0.92, color=colour(place))
            bar.patches[0].set_url(f"#runs-{cell['name']}")
            runs = cell["throughput_runs"]
            if len(runs) > 1:
                low, high = interval_of(runs)
                axes.plot([x, x], [low, high], color=INK, linewidth=1.2, solid_capstyle="butt")
                axes.plot(
                    [x] * len(runs), runs, "o", color=INK, markersize=1.8, alpha=0.55, markeredgewidth=0
                )
        axes.set_title(label)
        axes.set_ylabel("samples/s")
        axes.set_xticks(range(len(gpus)), [f"GPU {gpu}" for gpu in gpus])
        axes.set_xlim(-0.6, len(gpus) - 0.4)
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(_few_ticks())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        return Picture(label, alt, to_svg(figure, alt, f"throughput {label}"))


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)
