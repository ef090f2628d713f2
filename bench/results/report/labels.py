"""What cells, nodes and devices are called on the page."""

from typing import Any

from bench.results.series import series_label, settings_of

Record = dict[str, Any]
MOST_ROWS = 24
# With no more than these a list of all is read faster than one panel a model.
FEW_SERIES = 8


def node_label(cpu_node: int, mem_node: int) -> str:
    return f"node {mem_node}" if cpu_node == mem_node else f"CPU {cpu_node}, memory {mem_node}"


def place_of(cell: Record) -> tuple[int, int]:
    """(CPU node, memory node)."""
    return cell["cpu_node"], cell["mem_node"]


def placements(cells: list[Record]) -> list[tuple[int, int]]:
    """The placements of the cells: those on one node first, each kind ascending; the index gives the colour."""
    return sorted({place_of(cell) for cell in cells}, key=lambda place: (place[0] != place[1], place))


def by_series(cells: list[Record]) -> dict[str, list[Record]]:
    """Cells by model and differing settings, in the order of the study."""
    groups: dict[str, list[Record]] = {}
    for cell in cells:
        groups.setdefault(series_label(cell), []).append(cell)
    return groups


def by_row(cells: list[Record]) -> dict[str, list[Record]]:
    """Cells by series, or by model where there would be more rows than a picture can hold."""
    groups = by_series(cells)
    if len(groups) <= MOST_ROWS:
        return groups
    models: dict[str, list[Record]] = {}
    for cell in cells:
        models.setdefault(cell["model"]["name"], []).append(cell)
    return models


def panels(cells: list[Record]) -> list[tuple[str, list[Record], list[str]]]:
    """(title, cells, label of each) of small pictures: one a model, or a single one where a model is one cell."""
    groups = by_series(cells)
    if is_swept(cells):
        return _by_model(cells)
    if all(len(group) == 1 for group in groups.values()):
        return [("", cells, [series_label(cell) for cell in cells])] if cells else []
    return [(label, group, [row_label(cell) for cell in group]) for label, group in groups.items()]


def is_swept(cells: list[Record]) -> bool:
    """Whether some model was measured under several settings, so that a row is a combination of them."""
    return len({settings_of(cell) for cell in cells}) > 1 and len(by_series(cells)) > FEW_SERIES


def _by_model(cells: list[Record]) -> list[tuple[str, list[Record], list[str]]]:
    """What all cells share is not said in each row."""
    devices, places = {device_label(cell) for cell in cells}, placements(cells)
    models: dict[str, list[Record]] = {}
    for cell in cells:
        models.setdefault(cell["model"]["name"], []).append(cell)

    def label(cell: Record) -> str:
        where = [device_label(cell)] if len(devices) > 1 else []
        where += [node_label(*place_of(cell))] if len(places) > 1 else []
        return " · ".join([settings_of(cell) or "base", *where])

    return [(model, group, [label(cell) for cell in group]) for model, group in models.items()]


def device_label(cell: Record) -> str:
    """ "GPU 2"; a cell of the cpu device is not called one, and its number is told as what it is, a label."""
    if cell["settings"].get("device") != "cpu":
        return f"GPU {cell['gpu']}"
    return f"CPU, label {cell['gpu']}" if cell["gpu"] else "CPU"


def row_label(cell: Record) -> str:
    return f"{device_label(cell)} · {node_label(*place_of(cell))}"
