"""Where the window goes: compute, exposed copy, idle, as shares of it."""

from bench.results.report.labels import panels
from bench.results.report.plots.style import STAGE_COLOURS, Picture, canvas, panel_in, to_svg
from bench.results.words import percent

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
