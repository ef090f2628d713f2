"""A few batches of some traces, three lanes each: copy in, compute, copy out."""

from pathlib import Path

from bench.errors import StudyError
from bench.results.report.labels import by_series, row_label
from bench.results.report.lanes import LANES, Lanes, lanes
from bench.results.report.plots.style import STAGE_COLOURS, Picture, canvas, to_svg
from bench.results.series import series_label
from bench.results.words import microseconds

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
