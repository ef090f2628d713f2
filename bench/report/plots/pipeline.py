"""Stages, timeline, perturbation and link plots."""

from pathlib import Path
from typing import Any

from matplotlib.ticker import NullLocator

from bench.errors import StudyError
from bench.legacy.axes import series_label
from bench.report.host_map import LANES, Lanes, lanes
from bench.report.labels import by_row, by_series, node_label, panels, place_of, placements, row_label
from bench.report.plots.style import MUTED, STAGE_COLOURS, Picture, canvas, colour, panel_in, to_svg
from bench.report.swept import link_device
from bench.units import bandwidth, microseconds, percent

# --- stages
# Where the window goes: compute, exposed copy, idle, as shares of it.

STAGES = ("compute", "exposed copy", "idle")


def stage_shares(metrics: dict) -> dict[str, float]:
    """Share of the window by stage; they add up to 1 by the identity of the metrics."""
    lengths = (metrics["compute"]["busy_ns"], metrics["exposed_copy_ns"], metrics["idle_ns"])
    return {name: length / metrics["window_ns"] for name, length in zip(STAGES, lengths, strict=True)}


def stage_pictures(cells: list[dict]) -> list[Picture]:
    """One panel a model, one bar a cell."""
    return [_panel(*panel) for panel in panels([cell for cell in cells if cell["metrics"]])]


def _panel(title: str, cells: list[dict], rows: list[str]) -> Picture:
    shares = [stage_shares(cell["metrics"]) for cell in cells]
    alt = f"Stages {title}: " + "; ".join(
        f"{row}: " + ", ".join(f"{name} {percent(share)}" for name, share in part.items())
        for row, part in zip(rows, shares, strict=True)
    )
    with canvas(panel_in(rows) if title else 6.4, 0.58 + 0.22 * len(cells), rows, right_in=0.25) as figure:
        axes = figure.add_subplot()
        left = [0.0] * len(cells)
        for name in STAGES:
            widths = [100 * part[name] for part in shares]
            bars = axes.barh(range(len(cells)), widths, 0.7, left, color=STAGE_COLOURS[name])
            for bar, cell in zip(bars.patches, cells, strict=True):
                bar.set_url(f"#runs-{cell['name']}")
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_title(title)
        axes.set_yticks(range(len(cells)), rows)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 50, 100], ["0 %", "50 %", "100 %"])
        axes.grid(axis="y", visible=False)
        return Picture(title, alt, to_svg(figure, alt, f"stages {title}"), wide=not title)


# --- timeline
# A few batches of some traces, three lanes each: copy in, compute, copy out.

MOST_BYTES = 64 << 20
"""Larger exports are left out: reading them would take longer than the rest of the page."""
MOST_PICTURES = 8


def timeline_pictures(run_dir: Path, cells: list[dict]) -> list[Picture]:
    """One picture a cell that stands for others: for each regime the first model, on every node of its GPU."""
    pictures = []
    budget = MOST_BYTES
    for cell in representatives(cells):
        path = run_dir / "nsys_reports" / f"{cell['name']}.sqlite"
        size = path.stat().st_size if path.exists() else 0
        if not 0 < size <= budget:
            continue
        budget -= size
        found = _read(path)
        if found:
            pictures.append(_draw(cell, found))
    return pictures


def why_no_timeline(run_dir: Path, cells: list[dict], retention: str) -> str:
    """One line for the place where the pictures would be; nothing where no cell was traced."""
    if not any(cell["metrics"] for cell in cells):
        return ""
    if retention != "keep":
        return f"No timeline: the traces were not kept (retention: {retention}); their metrics were."
    if not list((run_dir / "nsys_reports").glob("*.sqlite")):
        return "No timeline: no export (.sqlite) lies in nsys_reports/ any more."
    return "No timeline: the exports are too large to draw from, or cannot be read."


def representatives(cells: list[dict]) -> list[dict]:
    """Of the first GPU, for each regime the first model that has it, on all placements it was traced on."""
    traced = [cell for cell in cells if cell["metrics"]]
    first = [cell for cell in traced if cell["gpu"] == traced[0]["gpu"]] if traced else []
    chosen: dict[str, list[dict]] = {}
    for group in by_series(first).values():
        chosen.setdefault(group[0]["metrics"]["regime"], group)
    return [cell for group in chosen.values() for cell in group][:MOST_PICTURES]


def _read(path: Path) -> Lanes | None:
    from bench.trace.reader import read_trace

    try:
        return lanes(read_trace(path))
    except StudyError:  # the metrics of this trace say what is wrong with it
        return None


def _draw(cell: dict, found: Lanes) -> Picture:
    title = f"{series_label(cell)}, {row_label(cell)}, {cell['metrics']['regime']}"
    busy = {name: sum(bar.length_us for bar in bars) for name, bars in found.bars.items()}
    alt = f"{len(found.batches)} batches of {title}, {microseconds(found.span_us)} in all: " + ", ".join(
        f"{name} busy {microseconds(length)}" for name, length in busy.items()
    )
    scale, unit = (1e3, "ms") if found.span_us >= 2e3 else (1.0, "µs")
    with canvas(5.0, 1.5, LANES, right_in=0.3) as figure:
        axes = figure.add_subplot()
        for row, name in enumerate(LANES):
            for parity, alpha in ((0, 1.0), (1, 0.55)):
                spans = [
                    (bar.start_us / scale, bar.length_us / scale) for bar in found.bars[name] if bar.batch % 2 == parity
                ]
                axes.broken_barh(spans, (row - 0.36, 0.72), color=STAGE_COLOURS[name], alpha=alpha, linewidth=0)
        axes.set_title(title)
        axes.set_yticks(range(len(LANES)), ["H2D", "compute", "D2H"])
        axes.set_ylim(len(LANES) - 0.5, -0.5)
        axes.set_xlim(0, found.span_us / scale)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} {unit}")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
        return Picture(title, alt, to_svg(figure, alt, f"timeline {cell['name']}"), wide=False)


# --- perturbation
# What the profiler costs: traced against timed throughput, a dot a cell.

LIMIT = 0.05


def perturbation_pictures(cells: list[dict]) -> list[Picture]:
    known = [cell for cell in cells if cell["perturbation"] is not None]
    return [_draw_of_perturbation(known, placements(cells))] if known else []


def _draw_of_perturbation(cells: list[dict], places: list[tuple[int, int]]) -> Picture:
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


# --- links
# Bandwidth of a GPU's link over the size of a copy, a line a placement.

Record = dict[str, Any]
_TITLES = {"h2d": "H2D", "d2h": "D2H", "both": "both, each way"}
_TICKS = {2**12: "4 KiB", 2**20: "1 MiB", 2**30: "1 GiB"}


def link_pictures(links: list[Record]) -> list[Picture]:
    """One figure a GPU: a panel for each direction."""
    measured = [link for link in links if link["copies"]]
    places = sorted({_place(link) for link in measured}, key=lambda place: (place[0] != place[1], place))
    gpus = dict.fromkeys(link["gpu"] for link in measured)
    return [_draw_of_links(gpu, [link for link in measured if link["gpu"] == gpu], places) for gpu in gpus]


def link_legend(links: list[Record]) -> list[tuple[str, str]]:
    places = sorted({_place(link) for link in links if link["copies"]}, key=lambda place: (place[0] != place[1], place))
    return [(node_label(*place), colour(index)) for index, place in enumerate(places) if len(places) > 1]


def _draw_of_links(gpu: int, links: list[Record], places: list[tuple[int, int]]) -> Picture:
    device = link_device(links[0])
    told = []
    with canvas(4.9, 2.0, ["00"], top_in=0.55, bottom_in=0.3, right_in=0.25) as figure:
        figure.subplots_adjust(wspace=0.3)
        panels = figure.subplots(1, len(_TITLES), sharey=True)
        for axes, (direction, title) in zip(panels, _TITLES.items(), strict=True):
            for link in links:
                points = sorted(
                    (copy["bytes"], copy["median_gb_s"]) for copy in link["copies"] if copy["direction"] == direction
                )
                if not points:
                    continue
                shade = colour(places.index(_place(link)))
                axes.plot(*zip(*points, strict=True), "o-", color=shade, markersize=2.6, linewidth=1.2)
                told.append(f"{title}, {node_label(*_place(link))}: up to {bandwidth(max(y for _, y in points))} GB/s")
            axes.set_xscale("log")
            axes.set_xticks(list(_TICKS), list(_TICKS.values()), fontsize=7.5)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(title, fontsize=9, fontweight="normal")
        panels[0].set_ylim(0, 1.08 * max(copy["median_gb_s"] for link in links for copy in link["copies"]))
        figure.text(0.01, 1 - 0.2 / figure.get_figheight(), f"{device}, GB/s", fontsize=10, fontweight="bold")
        alt = f"Bandwidth of {device} over the size of a copy. " + "; ".join(told)
        return Picture(device, alt, to_svg(figure, alt, f"link {gpu}"))


def _place(link: Record) -> tuple[int, int]:
    return link["cpu_node"], link["mem_node"]
