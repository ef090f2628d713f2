"""Drawing of the host and heatmaps."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.legacy.pairs import fastest_node
from bench.report.labels import by_series, device_label, node_label, place_of, placements
from bench.trace.intervals import union
from bench.trace.reader import Kind, Trace
from bench.units import percent, rate, size

# --- hostmap
# The host as a drawing: nodes in a row, GPUs under the node that is nearest, a table of distances.

Record = dict[str, Any]
NODE_WIDTH, NODE_HEIGHT, GPU_WIDTH, GPU_HEIGHT, GAP, DROP = 172, 58, 160, 44, 20, 34


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
class Line:
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
    lines: tuple[Line, ...]
    distances: tuple[tuple[str, tuple[str, ...]], ...]
    alt: str


def host_map(results: Record) -> HostMap | None:
    """None where no topology was stored."""
    nodes = results["topology"].get("nodes") or []
    if not nodes:
        return None
    gpus = results["topology"].get("gpus") or []
    used = {node for cell in results["cells"] for node in (cell["cpu_node"], cell["mem_node"])}
    columns = {node["id"]: GAP + index * (NODE_WIDTH + GAP) for index, node in enumerate(nodes)}
    boxes = tuple(_node(node, columns[node["id"]], node["id"] in used) for node in nodes)
    measured = {gpu["index"]: _measured(results, gpu["index"]) for gpu in gpus}
    stacks: dict[int | None, list[Record]] = {}
    for gpu in gpus:
        node = gpu.get("node") if gpu.get("node") in columns else measured[gpu["index"]]
        stacks.setdefault(node, []).append(gpu)
    placed, lines = [], []
    apart = GAP + len(nodes) * (NODE_WIDTH + GAP)
    for node, stack in stacks.items():
        left = columns.get(node, apart) + (NODE_WIDTH - GPU_WIDTH) // 2
        for level, gpu in enumerate(stack):
            box = _gpu(gpu, left, GAP + NODE_HEIGHT + DROP + level * (GPU_HEIGHT + 12), measured[gpu["index"]])
            placed.append(box)
            lines += _lines(gpu, box, columns, measured[gpu["index"]])
    deepest = max((box.y + box.height for box in (*boxes, *placed)), default=0)
    rightmost = max(box.x + box.width for box in (*boxes, *placed))
    return HostMap(rightmost + GAP, deepest + GAP, boxes, tuple(placed), tuple(lines), _distances(nodes),
                   _alt(nodes, gpus, measured))  # fmt: skip


def _node(node: Record, x: int, used: bool) -> Box:
    cpus = f"CPUs {node['cpus']}" if node.get("cpus") else "no CPUs"
    memory = size(node.get("memory_bytes")) if node.get("memory_bytes") else "no memory"
    return Box(x, GAP, NODE_WIDTH, NODE_HEIGHT, f"node {node['id']}", f"{cpus} · {memory}", used)


def _gpu(gpu: Record, x: int, y: int, measured: int | None) -> Box:
    if gpu.get("node") is not None:
        said = "reported" if measured is None else f"reported; measured: {measured}"
    else:
        said = "nearest not known" if measured is None else f"measured: {measured}"
    return Box(x, y, GPU_WIDTH, GPU_HEIGHT, f"GPU {gpu['index']}", said)


def _lines(gpu: Record, box: Box, columns: dict[int, int], measured: int | None) -> list[Line]:
    """The line to the reported node leaves the GPU at its left, the one to the measured node at its right."""
    lines = []
    for node, dashed in ((gpu.get("node"), False), (measured, True)):
        if node in columns:
            x = box.x + (box.width - 14 if dashed else 14)
            above = columns[node] <= x <= columns[node] + NODE_WIDTH
            lines.append(Line(x, box.y, x if above else columns[node] + NODE_WIDTH // 2, GAP + NODE_HEIGHT, dashed))
    return lines


def _measured(results: Record, gpu: int) -> int | None:
    """The fastest node beyond chance."""
    own = [cell for cell in results["cells"] if cell["gpu"] == gpu and cell["cpu_node"] == cell["mem_node"]]
    return fastest_node(own) if results["device"] == "cuda" and own else None


def _distances(nodes: list[Record]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Empty for a single node."""
    if len(nodes) < 2:
        return ()
    ids = [str(node["id"]) for node in nodes]
    return tuple(
        (f"node {node['id']}", tuple(str(node.get("distances", {}).get(other, "–")) for other in ids)) for node in nodes
    )


def _alt(nodes: list[Record], gpus: list[Record], measured: dict[int, int | None]) -> str:
    parts = [f"Node {node['id']}: CPUs {node.get('cpus') or 'none'}." for node in nodes]
    for gpu in gpus:
        near = "not known" if gpu.get("node") is None else f"node {gpu['node']}"
        seen = "" if measured[gpu["index"]] is None else f", measured node {measured[gpu['index']]}"
        parts.append(f"GPU {gpu['index']}: reported nearest {near}{seen}.")
    return " ".join(parts)


# --- heatmap
# GPU x node, one small map a model: throughput, coloured by what is surely lost against the best node of the row.

Record = dict[str, Any]
FULL_LOSS = 0.4
"""The loss at which the colour is fullest. One scale for all maps, so that colours can be compared."""
_SCALE = ((255, 255, 255), (253, 224, 189), (246, 173, 106))


@dataclass(frozen=True)
class Tile:
    """text and note are what stands in the tile; local marks the node the penalties are counted from."""

    text: str
    note: str
    colour: str
    cell: str | None
    local: bool


@dataclass(frozen=True)
class Map:
    model: str
    places: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]


def maps(results: Record) -> list[Map]:
    """Empty where there is nothing to compare: one placement only."""
    cells = results["cells"]
    places = placements(cells)
    if len(places) < 2:
        return []
    local = {entry["gpu"]: entry["local_node"] for entry in results["penalties"]}
    notes = {entry["remote_cell"]: _not_sure(entry) for entry in results["penalties"]}
    return [_map(model, group, places, local, notes) for model, group in by_series(cells).items()]


def _not_sure(entry: Record) -> str:
    """What stands in a tile instead of a loss that may be noise; of a single pair nothing better is known."""
    verdict = entry["verdict"]
    if entry["interval"] is None:
        return ""
    if verdict in ("SLOWER", "FASTER"):
        return "" if entry["headline"] else f"probably {verdict.lower()}"
    return "same" if verdict == "SAME" else "not decided"


def _map(
    model: str, cells: list[Record], places: list[tuple[int, int]], local: dict[int, int], notes: dict[str, str]
) -> Map:
    rows = []
    for gpu in sorted({cell["gpu"] for cell in cells}):
        own = {place_of(cell): cell for cell in cells if cell["gpu"] == gpu}
        sure = [cell for cell in own.values() if not notes.get(cell["name"])]
        best = max((cell["throughput_samples_s"] or 0.0 for cell in sure), default=0.0)
        near = (local.get(gpu), local.get(gpu))
        alone = len(sure) < 2
        tiles = tuple(_tile(own.get(place), best, place == near, notes, alone) for place in places)
        rows.append((device_label(next(iter(own.values()))), tiles))
    return Map(model, tuple(node_label(*place) for place in places), tuple(rows))


def _tile(cell: Record | None, best: float, local: bool, notes: dict[str, str], alone: bool) -> Tile:
    """alone: no other node of the row is surely better or worse."""
    if cell is None:
        return Tile("", "", "#FFFFFF", None, local)
    rate_here = cell["throughput_samples_s"]
    if not rate_here:
        return Tile(cell["outcome"].replace("_", " "), "", "#EDEFF2", cell["name"], False)
    if note := notes.get(cell["name"]):
        return Tile(rate(rate_here), note, "#FFFFFF", cell["name"], local)
    loss = 1 - rate_here / best
    if loss == 0 and alone:
        return Tile(rate(rate_here), "", "#FFFFFF", cell["name"], local)
    return Tile(rate(rate_here), "best" if loss == 0 else f"−{percent(loss)}", shade(loss), cell["name"], local)


def shade(loss: float) -> str:
    """White for nothing lost to orange for FULL_LOSS and more; dark text stays readable on all of it."""
    place = min(max(loss / FULL_LOSS, 0.0), 1.0) * (len(_SCALE) - 1)
    low = min(int(place), len(_SCALE) - 2)
    mixed = (a + (b - a) * (place - low) for a, b in zip(_SCALE[low], _SCALE[low + 1], strict=True))
    return "#" + "".join(f"{round(part):02X}" for part in mixed)


# --- lanes
# A few batches of a trace on three lanes: pure selection, nothing is drawn here.

LANES = {"h2d": Kind.H2D, "compute": Kind.COMPUTE, "d2h": Kind.D2H}
# What would be narrower than a hair on paper is joined with its neighbour.
_HAIR = 1 / 1500


@dataclass(frozen=True)
class Bar:
    """start_us from the left edge of the picture; batch: index in the window, -1 for what lies between two."""

    start_us: float
    length_us: float
    batch: int


@dataclass(frozen=True)
class Lanes:
    """span_us: width of the picture; bars by lane, in time order; batches: the ones shown whole."""

    span_us: float
    bars: dict[str, tuple[Bar, ...]]
    batches: tuple[int, ...]


def lanes(trace: Trace, count: int = 4) -> Lanes | None:
    """`count` batches from the middle of the window with all that overlaps them; None if a lane has nothing."""
    activities = trace.activities
    total = len(trace.window.batch_start)
    count = min(count, total)
    first = (total - count) // 2
    shown = (activities.batch >= first) & (activities.batch < first + count)
    if not shown.any():
        return None
    left, right = int(activities.start[shown].min()), int(activities.end[shown].max())
    inside = (activities.end > left) & (activities.start < right)
    bars = {}
    for name, kind in LANES.items():
        chosen = inside & (activities.kind == kind)
        found = []
        for batch in np.unique(activities.batch[chosen]):
            own = np.flatnonzero(chosen & (activities.batch == batch))
            hair = int((right - left) * _HAIR)
            whole = union(activities.start[own], activities.end[own] + hair)
            starts = np.maximum(whole.start, left)
            ends = np.minimum(whole.end - hair, right)
            found += [
                Bar((start - left) / 1e3, max(end - start, hair) / 1e3, int(batch))
                for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
            ]
        bars[name] = tuple(sorted(found, key=lambda bar: bar.start_us))
    return Lanes((right - left) / 1e3, bars, tuple(range(first, first + count)))
