"""The host as a drawing: nodes in a row, GPUs under the node that is nearest, a table of distances."""

from dataclasses import dataclass
from typing import Any

from bench.results.local import fastest_node
from bench.results.words import size

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
