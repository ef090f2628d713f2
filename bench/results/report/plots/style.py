"""How every figure looks, and how it becomes an SVG that can stand inside a page."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape

import matplotlib
from matplotlib.figure import Figure as Canvas

# Okabe and Ito's palette, told apart with any kind of colour vision; black and yellow are too loud here.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
STAGE_COLOURS = {
    "h2d": "#0072B2",
    "compute": "#009E73",
    "d2h": "#E69F00",
    "exposed": "#D55E00",
    "idle": "#D9DDE2",
}
INK, MUTED, RULE = "#1F2933", "#616E7C", "#E4E7EB"
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a name is a "$"
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10.0, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 8.0,
    "axes.edgecolor": RULE, "axes.labelcolor": MUTED, "axes.titlecolor": INK, "text.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.7,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.major.size": 0.0, "ytick.major.size": 0.0,
    "legend.frameon": False, "legend.fontsize": 8.5,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One figure of the report. alt says in words what it shows; wide ones take the whole width."""

    title: str
    alt: str
    svg: str
    wide: bool = False


@contextmanager
def canvas(width_in: float, height_in: float) -> Iterator[Canvas]:
    """A figure under the report's style; draw and call to_svg inside the context."""
    with matplotlib.rc_context(_STYLE):
        yield Canvas(figsize=(width_in, height_in), layout="constrained")


def to_svg(figure: Canvas, alt: str, salt: str) -> str:
    """Inline SVG that scales with the page. salt: distinct per figure, since a page shares its ids."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*;?", r"font-size: \1;", text)
    text = re.sub(r"font: bold ([\d.]+px) [^;\"]*;?", r"font-size: \1; font-weight: 600;", text)
    text = re.sub(r">\s+<", "><", text)
    view = re.search(r'viewBox="[^"]*"', text)
    width = float(re.search(r'width="([\d.]+)pt"', text)[1])
    head = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]} role="img" '
        f'style="max-width: {width * 4 / 3:.0f}px" aria-label="{escape(alt)}"><title>{escape(alt)}</title>'
    )
    return head + text[text.index(">") + 1 :].strip()


def node_label(cpu_node: int, mem_node: int) -> str:
    return f"node {mem_node}" if cpu_node == mem_node else f"CPU {cpu_node}, memory {mem_node}"


def placements(cells: list[dict]) -> list[tuple[int, int]]:
    """(CPU node, memory node) of the cells, in ascending order; the index gives the colour."""
    return sorted({(cell["cpu_node"], cell["mem_node"]) for cell in cells})


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def by_model(cells: list[dict]) -> dict[str, list[dict]]:
    """Cells by model and differing settings, in the order of the study."""
    groups: dict[str, list[dict]] = {}
    for cell in cells:
        groups.setdefault(series_label(cell), []).append(cell)
    return groups


def series_label(cell: dict) -> str:
    """The model, with the suffixes that tell cells of one model apart: "vit32x6x512 again"."""
    parts = cell["name"].split(f"_{cell['model']['name']}", 1)
    suffixes = [part for part in parts[-1].split("_") if part and not re.fullmatch(r"cpu\d+", part)]
    return " ".join([cell["model"]["name"], *(suffixes if len(parts) == 2 else [])])
