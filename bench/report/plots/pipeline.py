"""Plots of the pipeline: stages, a timeline of some batches, the cost of the profiler, and the links."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.ticker import NullLocator

from bench.errors import StudyError
from bench.records.base import Direction
from bench.records.results import LinkEntry, MeasuredCell
from bench.records.trace import Metrics
from bench.report.plots.style import (
    MUTED,
    STAGE_COLOURS,
    WIDE_IN,
    Picture,
    canvas,
    colour,
    panel_in,
    runs_href,
    to_svg,
)
from bench.report.view import Place, View, link_device, place_of, sorted_places
from bench.trace.activities import Kind
from bench.trace.intervals import union
from bench.trace.reader import Trace, read_trace
from bench.units import bandwidth, microseconds, percent, tick, tick_percent

# The window as shares: compute, exposed copy, idle.

STAGES = ("compute", "exposed copy", "idle")


def stage_shares(metrics: Metrics) -> dict[str, float]:
    """Share of the window by stage; they add up to 1 by the identity of the metrics."""
    lengths = (metrics.compute.busy_ns, metrics.exposed_copy_ns, metrics.idle_ns)
    return {name: length / metrics.window_ns for name, length in zip(STAGES, lengths, strict=True)}


def stage_pictures(view: View) -> list[Picture]:
    """One panel a model, one bar a cell."""
    return [_stages(*panel) for panel in view.panels(cell for cell in view.results.cells if cell.metrics)]


def _stages(title: str, cells: Sequence[MeasuredCell], rows: Sequence[str]) -> Picture:
    shares = [stage_shares(cell.metrics) for cell in cells if cell.metrics]
    alt = f"Stages {title}: " + "; ".join(
        f"{row}: " + ", ".join(f"{name} {percent(share)}" for name, share in part.items())
        for row, part in zip(rows, shares, strict=True)
    )
    with canvas(panel_in(rows) if title else WIDE_IN, 0.58 + 0.22 * len(cells), rows, right_in=0.25) as figure:
        axes = figure.add_subplot()
        left = [0.0] * len(cells)
        for name in STAGES:
            widths = [100 * part[name] for part in shares]
            bars = axes.barh(range(len(cells)), widths, 0.7, left, color=STAGE_COLOURS[name])
            for bar, cell in zip(bars.patches, cells, strict=True):
                bar.set_url(runs_href(cell.name))
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_title(title)
        axes.set_yticks(range(len(cells)), rows)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 50, 100], ["0 %", "50 %", "100 %"])
        axes.grid(axis="y", visible=False)
        return Picture(title, alt, to_svg(figure, alt, f"stages {title}"), wide=not title)


# A few batches of some traces in three lanes: copy in, compute, copy out.

LANES = {"h2d": Kind.H2D, "compute": Kind.COMPUTE, "d2h": Kind.D2H}
# Reading larger exports would take longer than the rest of the page.
MOST_BYTES = 64 << 20
MOST_PICTURES = 8
# A gap narrower than this share of the picture is not drawn: its neighbours are joined.
_HAIRLINE = 1 / 1500


@dataclass(frozen=True)
class Bar:
    """start_us: from the left edge of the picture. batch: index in the window, -1 between two batches."""

    start_us: float
    length_us: float
    batch: int


@dataclass(frozen=True)
class Lanes:
    """span_us: width of the picture. bars: by lane, in time order. batches: those shown whole."""

    span_us: float
    bars: Mapping[str, tuple[Bar, ...]]
    batches: tuple[int, ...]


def timeline_pictures(view: View, run_dir: Path) -> list[Picture]:
    """For each regime the first model, on every node of its GPU."""
    pictures = []
    budget = MOST_BYTES
    for cell in representatives(view):
        path = run_dir / "nsys_reports" / f"{cell.name}.sqlite"
        size = path.stat().st_size if path.exists() else 0
        if not 0 < size <= budget:
            continue
        budget -= size
        try:
            found = lanes(read_trace(path))
        except StudyError:  # the metrics of this trace have the error
            continue
        if found:
            pictures.append(_timeline(view, cell, found))
    return pictures


def why_no_timeline(view: View, run_dir: Path) -> str:
    """One line for the place where the pictures would be; empty where no cell was traced."""
    retention = view.results.study.retention
    if not any(cell.metrics for cell in view.results.cells):
        return ""
    if retention != "keep":
        return f"No timeline: the traces were not kept (retention: {retention}); their metrics were."
    if not list((run_dir / "nsys_reports").glob("*.sqlite")):
        return "No timeline: nsys_reports/ has no exports (.sqlite)."
    return "No timeline: the exports are too large to draw, or cannot be read."


def representatives(view: View) -> list[MeasuredCell]:
    """Of the first GPU, for each regime the first model that has it, on all placements it was traced on."""
    traced = [cell for cell in view.results.cells if cell.metrics]
    first = [cell for cell in traced if cell.gpu == traced[0].gpu]
    chosen: dict[str, list[MeasuredCell]] = {}
    for group in view.by_series(first).values():
        if group[0].metrics:
            chosen.setdefault(group[0].metrics.regime, group)
    return [cell for group in chosen.values() for cell in group][:MOST_PICTURES]


def lanes(trace: Trace, count: int = 4) -> Lanes | None:
    """`count` batches from the middle of the window with all that overlaps them; None if there is nothing."""
    activities = trace.activities
    total = len(trace.window.batch_start)
    count = min(count, total)
    first = (total - count) // 2
    shown = (activities.batch >= first) & (activities.batch < first + count)
    if not shown.any():
        return None
    left, right = int(activities.start[shown].min()), int(activities.end[shown].max())
    inside = (activities.end > left) & (activities.start < right)
    hairline = int((right - left) * _HAIRLINE)
    bars = {}
    for name, kind in LANES.items():
        chosen = inside & (activities.kind == kind)
        found = []
        for batch in np.unique(activities.batch[chosen]):
            own = np.flatnonzero(chosen & (activities.batch == batch))
            whole = union(activities.start[own], activities.end[own] + hairline)
            starts = np.maximum(whole.start, left)
            ends = np.minimum(whole.end - hairline, right)
            found += [
                Bar((start - left) / 1e3, max(end - start, hairline) / 1e3, int(batch))
                for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
            ]
        bars[name] = tuple(sorted(found, key=lambda bar: bar.start_us))
    return Lanes((right - left) / 1e3, bars, tuple(range(first, first + count)))


def _timeline(view: View, cell: MeasuredCell, found: Lanes) -> Picture:
    title = f"{view.series(cell)}, {view.row(cell)}" + (f", {cell.metrics.regime}" if cell.metrics else "")
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
        axes.xaxis.set_major_formatter(lambda value, _: f"{tick(value)} {unit}")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
        return Picture(title, alt, to_svg(figure, alt, f"timeline {cell.name}"))


# Traced against timed throughput, a dot a cell.

_PERTURBED = 0.05


def perturbation_pictures(view: View) -> list[Picture]:
    known = {cell.name: cell.perturbation for cell in view.results.cells if cell.perturbation is not None}
    if not known:
        return []
    cells = [view.cells[name] for name in known]
    groups = view.by_row(cells)
    alt = "Traced over timed throughput: " + "; ".join(
        f"{view.series(cell)}, {view.row(cell)} {percent(known[cell.name])}" for cell in cells
    )
    with canvas(WIDE_IN, 0.4 + 0.27 * max(len(groups), 3), groups, top_in=0.08) as figure:
        axes = figure.add_subplot()
        axes.axvspan(100 * (1 - _PERTURBED), 100 * (1 + _PERTURBED), color="#EEF1F4", linewidth=0)
        axes.axvline(100, color=MUTED, linewidth=0.8)
        for row, group in enumerate(groups.values()):
            for cell in group:
                place = view.places.index(place_of(cell))
                y = row + (place - (len(view.places) - 1) / 2) * 0.2
                dot = axes.plot(100 * known[cell.name], y, "o", markersize=4, color=colour(place))[0]
                dot.set_url(runs_href(cell.name))
        axes.set_yticks(range(len(groups)), list(groups))
        axes.set_ylim(max(len(groups), 3) - 0.4, -0.6)
        axes.xaxis.set_major_formatter(lambda value, _: tick_percent(value))
        return [Picture("perturbation", alt, to_svg(figure, alt, "perturbation"), wide=True)]


# Bandwidth of a link over the size of a copy, a line a placement.

_LINK_TITLES = {Direction.H2D: "H2D", Direction.D2H: "D2H", Direction.BOTH: "both, in each direction"}
_LINK_TICKS = {2**12: "4 KiB", 2**20: "1 MiB", 2**30: "1 GiB"}


def link_places(links: Sequence[LinkEntry]) -> list[Place]:
    """Of those measured; the index gives the colour."""
    return sorted_places(place_of(link) for link in links if link.copies)


def link_pictures(view: View) -> list[Picture]:
    """One figure a GPU: a panel for each direction."""
    measured = [link for link in view.results.links if link.copies]
    places = link_places(measured)
    gpus = dict.fromkeys(link.gpu for link in measured)
    return [_link(view, [link for link in measured if link.gpu == gpu], places) for gpu in gpus]


def _link(view: View, links: Sequence[LinkEntry], places: Sequence[Place]) -> Picture:
    device = link_device(links[0])
    shown = []
    with canvas(4.9, 2.0, ["00"], top_in=0.55, bottom_in=0.3, right_in=0.25) as figure:
        figure.subplots_adjust(wspace=0.3)
        panels = figure.subplots(1, len(_LINK_TITLES), sharey=True)
        for axes, (direction, title) in zip(panels, _LINK_TITLES.items(), strict=True):
            for link in links:
                points = sorted((copy.bytes, copy.median_gb_s) for copy in link.copies if copy.direction is direction)
                if not points:
                    continue
                shade = colour(places.index(place_of(link)))
                axes.plot(*zip(*points, strict=True), "o-", color=shade, markersize=2.6, linewidth=1.2)
                where, most = view.label(place_of(link)), bandwidth(max(y for _, y in points))
                shown.append(f"{title}, {where}: up to {most} GB/s")
            axes.set_xscale("log")
            axes.set_xticks(list(_LINK_TICKS), list(_LINK_TICKS.values()), fontsize=7.5)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(title, fontsize=9, fontweight="normal")
        panels[0].set_ylim(0, 1.08 * max(copy.median_gb_s for link in links for copy in link.copies))
        figure.text(0.01, 1 - 0.2 / figure.get_figheight(), f"{device}, GB/s", fontsize=10, fontweight="bold")
        alt = f"Bandwidth of {device} over the size of a copy. " + "; ".join(shown)
        return Picture(device, alt, to_svg(figure, alt, f"link {links[0].gpu}"))
