"""What cells, nodes and devices are called on the page."""

import re
from typing import Any

Record = dict[str, Any]


def node_label(cpu_node: int, mem_node: int) -> str:
    return f"node {mem_node}" if cpu_node == mem_node else f"CPU {cpu_node}, memory {mem_node}"


def place_of(cell: Record) -> tuple[int, int]:
    """(CPU node, memory node)."""
    return cell["cpu_node"], cell["mem_node"]


def placements(cells: list[Record]) -> list[tuple[int, int]]:
    """The placements of the cells: those on one node first, each kind ascending; the index gives the colour."""
    return sorted({place_of(cell) for cell in cells}, key=lambda place: (place[0] != place[1], place))


def series_label(cell: Record) -> str:
    """The model, with the suffixes that tell cells of one model apart: "vit32x6x512 again"."""
    model = cell["model"]["name"]
    _, found, rest = cell["name"].partition(f"_{model}")
    suffixes = [part for part in rest.split("_") if part and not re.fullmatch(r"cpu\d+", part)]
    return " ".join([model, *suffixes]) if found else cell["name"]


def by_series(cells: list[Record]) -> dict[str, list[Record]]:
    """Cells by model and differing settings, in the order of the study."""
    groups: dict[str, list[Record]] = {}
    for cell in cells:
        groups.setdefault(series_label(cell), []).append(cell)
    return groups


def panels(cells: list[Record]) -> list[tuple[str, list[Record], list[str]]]:
    """(title, cells, label of each) of small pictures: one a model, or a single one where a model is one cell."""
    groups = by_series(cells)
    if all(len(group) == 1 for group in groups.values()):
        return [("", cells, [series_label(cell) for cell in cells])] if cells else []
    return [(label, group, [row_label(cell) for cell in group]) for label, group in groups.items()]


def device_label(cell: Record) -> str:
    """ "GPU 2"; a cell of the cpu device is not called one."""
    return "CPU" if cell["settings"].get("device") == "cpu" else f"GPU {cell['gpu']}"


def row_label(cell: Record) -> str:
    return f"{device_label(cell)} · {node_label(*place_of(cell))}"
