"""Names of cells, places, devices and files as a report shows them."""

from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.legacy.axes import series_label, settings_of

# --- labels
# What cells, nodes and devices are called on the page.

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


# --- links
# Relative links from the page to the files beside it: only to those that exist.

_FOLDERS = ("runs", "logs", "nsys_reports", "latency", "links", ".")
_FORMATS = {"CSV": "results.csv", "JSON": "results.json", "SQLite": "results.db", "Markdown": "report.md"}


class Files:
    """What lies in a run directory, listed once."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    @cached_property
    def _present(self) -> set[str]:
        return {
            f"{folder}/{file.name}" if folder != "." else file.name
            for folder in _FOLDERS
            if (self._run_dir / folder).is_dir()
            for file in (self._run_dir / folder).iterdir()
        }

    def link(self, path: str) -> str | None:
        """The href of a file, None if it is not there."""
        return quote(path) if path in self._present else None

    def of_results(self) -> list[tuple[str, str]]:
        """(word, href) of the same results in other formats."""
        return self._kept(_FORMATS)

    def of_run(self, run: str) -> list[tuple[str, str]]:
        """(word, href) of a run's record and logs."""
        return self._kept(
            {"record": f"runs/{run}.json", "stdout": f"logs/{run}.stdout", "stderr": f"logs/{run}.stderr"}
        )

    def of_trace(self, cell: str) -> list[tuple[str, str]]:
        """(word, href) of a cell's trace, its export and its metrics."""
        traces = {"nsys-rep": f"nsys_reports/{cell}.nsys-rep", "torch trace": f"nsys_reports/{cell}.torch.json.gz"}
        return self._kept(traces | {"sqlite": f"nsys_reports/{cell}.sqlite", "metrics": f"latency/{cell}.json"})

    def _kept(self, named: dict[str, str]) -> list[tuple[str, str]]:
        return [(word, href) for word, path in named.items() if (href := self.link(path))]
