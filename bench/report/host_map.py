"""The host as a drawing, and the throughput by GPU and node as heatmaps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.pairs import fastest_nodes
from bench.records.host import Gpu, Node
from bench.records.results import MeasuredCell, Results
from bench.report.text.scale import Scale, scale_of
from bench.report.text.verdicts import is_shown, tile_note
from bench.report.view import View, place_of
from bench.units import DASH, byte_size, percent, rate

NODE_WIDTH, NODE_HEIGHT, GPU_WIDTH, GPU_HEIGHT, GAP, DROP = 172, 58, 160, 44, 20, 34
# The loss at which the colour is fullest. One scale for all maps, so that colours can be compared.
FULL_LOSS = 0.4
_LOSSES = ((255, 255, 255), (253, 224, 189), (246, 173, 106))
_GAINS = ((255, 255, 255), (158, 205, 238))
_WHITE, _NOT_OK = "#FFFFFF", "#EDEFF2"


# Drawing


@dataclass(frozen=True)
class Box:
    """A rectangle with up to two lines of text; strong ones are nodes that the study measured."""

    x: int
    y: int
    width: int
    height: int
    title: str
    text: str
    strong: bool = False


@dataclass(frozen=True)
class Link:
    """From a GPU up to a node: solid if reported, dashed if measured."""

    x1: int
    y1: int
    x2: int
    y2: int
    measured: bool


@dataclass(frozen=True)
class HostMap:
    width: int
    height: int
    nodes: tuple[Box, ...]
    gpus: tuple[Box, ...]
    lines: tuple[Link, ...]
    distances: tuple[tuple[str, tuple[str, ...]], ...]
    alt: str


def host_map(results: Results) -> HostMap | None:
    """Nodes in a row, GPUs under the nearest node, a table of distances. None where no topology was stored."""
    nodes, gpus = results.topology.nodes, results.topology.gpus
    if not nodes:
        return None
    used = {node for cell in results.cells for node in place_of(cell)}
    columns = {node.id: GAP + index * (NODE_WIDTH + GAP) for index, node in enumerate(nodes)}
    boxes = tuple(_node_box(node, columns[node.id], node.id in used) for node in nodes)
    measured = {gpu.index: _measured_node(results, gpu.index) for gpu in gpus}
    stacks: dict[int | None, list[Gpu]] = {}
    for gpu in gpus:
        stacks.setdefault(gpu.node if gpu.node in columns else measured[gpu.index], []).append(gpu)
    placed, lines = [], []
    beside = GAP + len(nodes) * (NODE_WIDTH + GAP)
    for near, stack in stacks.items():
        left = (beside if near is None else columns.get(near, beside)) + (NODE_WIDTH - GPU_WIDTH) // 2
        for level, gpu in enumerate(stack):
            top = GAP + NODE_HEIGHT + DROP + level * (GPU_HEIGHT + 12)
            box = _gpu_box(gpu, left, top, measured[gpu.index])
            placed.append(box)
            lines += _lines(gpu, box, columns, measured[gpu.index])
    lowest = max(box.y + box.height for box in (*boxes, *placed))
    rightmost = max(box.x + box.width for box in (*boxes, *placed))
    return HostMap(rightmost + GAP, lowest + GAP, boxes, tuple(placed), tuple(lines), _distances(nodes),
                   _alt(nodes, gpus, measured))  # fmt: skip


def _node_box(node: Node, x: int, used: bool) -> Box:
    cpus = f"CPUs {node.cpus}" if node.cpus else "no CPUs"
    memory = byte_size(node.memory_bytes) if node.memory_bytes else "no memory"
    return Box(x, GAP, NODE_WIDTH, NODE_HEIGHT, f"node {node.id}", f"{cpus} · {memory}", used)


def _gpu_box(gpu: Gpu, x: int, y: int, measured: int | None) -> Box:
    if gpu.node is not None:
        text = "reported" if measured is None else f"reported; measured: {measured}"
    else:
        text = "nearest unknown" if measured is None else f"measured: {measured}"
    return Box(x, y, GPU_WIDTH, GPU_HEIGHT, f"GPU {gpu.index}", text)


def _lines(gpu: Gpu, box: Box, columns: Mapping[int, int], measured: int | None) -> list[Link]:
    """The line to the reported node starts at the GPU's left, the one to the measured node at its right."""
    lines = []
    for node, dashed in ((gpu.node, False), (measured, True)):
        if node is not None and node in columns:
            x = box.x + (box.width - 14 if dashed else 14)
            above = columns[node] <= x <= columns[node] + NODE_WIDTH
            lines.append(Link(x, box.y, x if above else columns[node] + NODE_WIDTH // 2, GAP + NODE_HEIGHT, dashed))
    return lines


def _measured_node(results: Results, gpu: int) -> int | None:
    """The fastest node beyond chance, of several the first."""
    own = [cell for cell in results.cells if cell.gpu == gpu and cell.cpu_node == cell.mem_node]
    return next(iter(fastest_nodes(own)), None) if results.device == "cuda" else None


def _distances(nodes: Sequence[Node]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Empty for a single node."""
    if len(nodes) < 2:
        return ()
    return tuple(
        (f"node {node.id}", tuple(str(node.distances.get(other.id, DASH)) for other in nodes)) for node in nodes
    )


def _alt(nodes: Sequence[Node], gpus: Sequence[Gpu], measured: Mapping[int, int | None]) -> str:
    parts = [f"Node {node.id}: CPUs {node.cpus or 'none'}." for node in nodes]
    for gpu in gpus:
        near = "unknown" if gpu.node is None else f"node {gpu.node}"
        found = "" if measured[gpu.index] is None else f", measured node {measured[gpu.index]}"
        parts.append(f"GPU {gpu.index}: reported nearest {near}{found}.")
    return " ".join(parts)


# Heatmaps


@dataclass(frozen=True)
class Tile:
    """local marks the node that the others are compared with."""

    text: str
    note: str
    colour: str
    cell: str | None
    local: bool


@dataclass(frozen=True)
class Heatmap:
    model: str
    places: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]


def heatmaps(view: View) -> list[Heatmap]:
    """GPU x node, one a model: throughput, coloured by the penalty where that is known to exceed the noise.

    Empty where there is only one placement.
    """
    if len(view.places) < 2:
        return []
    return [_heatmap(view, model, group) for model, group in view.by_series(view.results.cells).items()]


def colour_scale(scale: Scale) -> list[tuple[str, str]]:
    """(what it means, colour), for the legend."""
    worse, better = scale.words
    steps = [FULL_LOSS * part / 4 for part in range(1, 5)]
    named = [(percent(scale.share(step)), shade(step)) for step in steps]
    named[-1] = f"{named[-1][0]} {worse} or more", named[-1][1]
    return [(better, shade(-FULL_LOSS / 2)), ("same or undecided", _WHITE), *named]


def _heatmap(view: View, model: str, cells: Sequence[MeasuredCell]) -> Heatmap:
    local = {entry.gpu: entry.local_node for entry in view.results.penalties}
    rows = []
    for gpu in sorted({cell.gpu for cell in cells}):
        own = {place_of(cell): cell for cell in cells if cell.gpu == gpu}
        node = local.get(gpu)
        tiles = tuple(_tile(view, own.get(place), place == (node, node)) for place in view.places)
        rows.append((view.device(next(iter(own.values()))), tiles))
    return Heatmap(model, tuple(view.label(place) for place in view.places), tuple(rows))


def _tile(view: View, cell: MeasuredCell | None, local: bool) -> Tile:
    if cell is None:
        return Tile("", "", _WHITE, None, local)
    if not cell.rate:
        return Tile(cell.outcome.replace("_", " "), "", _NOT_OK, cell.name, False)
    entry = view.penalties.get(cell.name)
    if entry is None or entry.penalty is None:
        return Tile(rate(cell.value), "", _WHITE, cell.name, local)
    colour = shade(entry.penalty) if is_shown(entry) else _WHITE
    return Tile(rate(cell.value), tile_note(entry, scale_of(cell.metric)), colour, cell.name, local)


def shade(penalty: float) -> str:
    """White for none to orange for FULL_LOSS and more, or to blue for a gain; dark text stays readable on all of it."""
    scale = _LOSSES if penalty >= 0 else _GAINS
    place = min(abs(penalty) / FULL_LOSS, 1.0) * (len(scale) - 1)
    low = min(int(place), len(scale) - 2)
    mixed = (a + (b - a) * (place - low) for a, b in zip(scale[low], scale[low + 1], strict=True))
    return "#" + "".join(f"{round(part):02X}" for part in mixed)
