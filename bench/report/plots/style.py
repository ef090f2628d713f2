"""The style of every figure, and how it becomes an SVG inside a page."""

import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

# Okabe and Ito's palette, distinguishable with any kind of colour vision; black and yellow are too loud here.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
STAGE_COLOURS = {
    "h2d": "#0072B2",
    "compute": "#009E73",
    "d2h": "#E69F00",
    "exposed copy": "#D55E00",
    "idle": "#D5D9DE",
}
INK, MUTED, RULE = "#1B2733", "#5A6772", "#E3E7EB"
# Panels whose rows have longer names are in a broad gallery.
NARROW_LABEL = 18
# A figure of the whole width: on a phone it is shown whole, at six tenths of its size.
WIDE_IN = 6.0
_LEGEND_ROW_IN = 0.19
# Of 9 pt text in the widest of the usual typefaces.
_CHARACTER_IN = 0.078
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a name is a "$"
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.titley": 1.0,  # nothing is above an axis: without this all tick labels are measured once more
    "axes.edgecolor": "#C3CAD1",
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Picture:
    """One figure of the report. alt: a text with what it shows; wide ones take the whole width."""

    title: str
    alt: str
    svg: str
    wide: bool = False


@contextmanager
def canvas(
    width_in: float,
    height_in: float,
    labels: Iterable[str] = ("00,000",),
    *,
    top_in: float = 0.32,
    bottom_in: float = 0.26,
    right_in: float = 0.12,
    legend: Sequence[str] = (),
) -> Iterator[Canvas]:
    """A figure under the report's style; draw and call to_svg inside the context.

    labels: the texts left of the axes, which get the room they need; legend: those that draw_legend will write, for
    which the figure grows. Margins are set by hand: matplotlib's own layout would take half of the time that the whole
    page takes.
    """
    rows_in = _LEGEND_ROW_IN * math.ceil(len(legend) / _legend_columns(legend, width_in))
    height_in, bottom_in = height_in + rows_in, bottom_in + rows_in
    left_in = 0.12 + _CHARACTER_IN * max(map(len, labels), default=0)
    with matplotlib.rc_context(_STYLE):
        figure = Canvas(figsize=(width_in, height_in))
        figure.subplots_adjust(
            left=min(left_in / width_in, 0.6),
            right=1 - right_in / width_in,
            top=1 - top_in / height_in,
            bottom=bottom_in / height_in,
        )
        yield figure


def draw_legend(figure: Canvas, axes: Axes) -> None:
    """Below the axes, in as many columns as fit, of what was drawn with a label."""
    handles, labels = axes.get_legend_handles_labels()
    columns = _legend_columns(labels, figure.get_figwidth())
    figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 0), ncols=columns, fontsize=8.5,
                  borderaxespad=0.1, labelspacing=0.3, columnspacing=1.2)  # fmt: skip


def _legend_columns(labels: Sequence[str], width_in: float) -> int:
    return max(1, int(width_in / (0.6 + _CHARACTER_IN * max(map(len, labels), default=0))))


def panel_in(labels: Iterable[str]) -> float:
    """The width of a small panel: its rows' names may need more room than its axes."""
    return 3.4 if max(map(len, labels), default=0) <= NARROW_LABEL else 4.9


def draw_interval(
    axes: Axes, interval: Sequence[float], at: float, shown: tuple[float, float], *, upright: bool, **look: Any
) -> None:
    """A line, cut to what is shown: a wide interval shows only how little is known, and may not squeeze the points.

    An arrow head marks an end that continues.
    """
    low, high = shown
    ends = [min(max(bound, low), high) for bound in interval]
    line: dict[str, Any] = {"linewidth": 1.3, "solid_capstyle": "butt"} | look
    axes.plot(*([at, at], ends)[:: 1 if upright else -1], **line)
    heads = ((interval[0] < low, low, "v" if upright else "<"), (interval[1] > high, high, "^" if upright else ">"))
    for is_cut, end, marker in heads:
        if is_cut:
            axes.plot(*(at, end)[:: 1 if upright else -1], marker, markersize=4.5, markeredgewidth=0, **look)


def to_svg(figure: Canvas, alt: str, salt: str) -> str:
    """Inline SVG that scales with the page. salt: distinct per figure, since a page shares its ids."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    # The page chooses the typeface; sizes and weights stay.
    text = re.sub(r"font: (bold )?([\d.]+px) [^;\"]*", _font, text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r">\s+<", "><", text)
    # A mark that leads to the runs of a cell names it; the link stays in this tab.
    text = re.sub(r'(<a xlink:href="#runs-([^"]*)") target="_blank">', r"\1><title>\2</title>", text)
    return _head(text, alt) + text[text.index(">") + 1 :].strip()


def runs_href(cell: str) -> str:
    """Where a mark leads: the runs of a cell, on the same page."""
    return f"#runs-{cell}"


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _font(found: re.Match[str]) -> str:
    return f"font-size: {found[2]}" + ("; font-weight: 600" if found[1] else "")


def _head(text: str, alt: str) -> str:
    view = re.search(r'viewBox="[^"]*"', text)
    width = re.search(r'width="([\d.]+)pt"', text)
    if not view or not width:
        raise ValueError("matplotlib wrote an SVG without size")
    pixels = float(width[1]) * 4 / 3
    # An image has no parts for who hears it: links in it would lead from nowhere.
    role = "group" if "<a " in text else "img"
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]} role="{role}" '
        f'style="max-width: {pixels:.0f}px" aria-label="{escape(alt)}"><title>{escape(alt)}</title>'
    )
