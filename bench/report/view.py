"""Results as every section of a report uses them: cells by name, and the labels of cells, nodes and devices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.records.results import LinkEntry, MeasuredCell, Penalty, Results
from bench.study.settings import SETTINGS

# (CPU node, memory node)
Place = tuple[int, int]
# A picture with more rows than this has one a model.
MOST_ROWS = 24
# Up to this many series, one list of all is easier to read than one panel a model.
FEW_SERIES = 8


@dataclass(frozen=True)
class View:
    """Results with what several sections need from them. Labels are for people: nothing reads one back."""

    results: Results

    @cached_property
    def cells(self) -> dict[str, MeasuredCell]:
        return {cell.name: cell for cell in self.results.cells}

    @cached_property
    def penalties(self) -> dict[str, Penalty]:
        """By remote cell."""
        return {entry.remote_cell: entry for entry in self.results.penalties}

    @cached_property
    def gpus(self) -> list[int]:
        return sorted({cell.gpu for cell in self.results.cells})

    @property
    def is_cpu(self) -> bool:
        """Whether the study ran on the cpu device, where no GPU is measured."""
        return self.results.device == "cpu"

    @cached_property
    def is_untraced(self) -> bool:
        """Whether something was timed, and there is no trace at all."""
        cells = self.results.cells
        return any(cell.value for cell in cells) and not any(cell.metrics for cell in cells)

    @cached_property
    def has_intervals(self) -> bool:
        return any(len(cell.values) > 1 for cell in self.results.cells)

    @cached_property
    def places(self) -> list[Place]:
        """Of all cells: those on one node first, each kind ascending; the index gives the colour."""
        return sorted_places(place_of(cell) for cell in self.results.cells)

    @property
    def is_command(self) -> bool:
        """Whether a command was measured, which has no stages and no trace."""
        return self.results.study.command is not None

    @cached_property
    def copies_only(self) -> str:
        """The model without compute, where one was measured: its name is that of no model that a reader knows."""
        found = (cell.model for cell in self.results.cells if not cell.model.command)
        return next((model.name for model in found if not model.computes), "")

    @cached_property
    def heading(self) -> str:
        """Of what was measured: "samples/s"."""
        return value_heading(self.results.cells)

    # Labels

    def settings(self, cell: MeasuredCell) -> str:
        """The settings that are not the study's own: "bf16 graph", or an empty text."""
        return settings_label(cell.differing_settings)

    def series(self, cell: MeasuredCell) -> str:
        """The model and what distinguishes its cells: "vit32x6x512 bf16 again"."""
        again = "" if not cell.occurrence else "again" if cell.occurrence == 1 else f"again{cell.occurrence}"
        return " ".join(filter(None, (cell.model.name, self.settings(cell), again)))

    def device(self, cell: MeasuredCell) -> str:
        """ "GPU 2"; on the cpu device the number is only a label."""
        if not self.is_cpu:
            return f"GPU {cell.gpu}"
        return f"CPU, label {cell.gpu}" if cell.gpu else "CPU"

    def label(self, place: Place) -> str:
        """ "node 2", or "CPUs 0-7" where groups of CPUs were compared."""
        cpu_node, mem_node = place
        if self.results.cpu_groups:
            return cpus_label(self.results.cpu_groups[cpu_node])
        return f"node {mem_node}" if cpu_node == mem_node else f"CPU {cpu_node}, memory {mem_node}"

    def row(self, cell: MeasuredCell) -> str:
        return f"{self.device(cell)} · {self.label(place_of(cell))}"

    # Groups

    def by_series(self, cells: Iterable[MeasuredCell]) -> dict[str, list[MeasuredCell]]:
        """By model and differing settings, in the order of the study."""
        groups: dict[str, list[MeasuredCell]] = {}
        for cell in cells:
            groups.setdefault(self.series(cell), []).append(cell)
        return groups

    def by_row(self, cells: Iterable[MeasuredCell]) -> dict[str, list[MeasuredCell]]:
        """By series, or by model where there would be more rows than a picture can hold."""
        cells = list(cells)
        groups = self.by_series(cells)
        return groups if len(groups) <= MOST_ROWS else by_model(cells)

    def is_swept(self, cells: Iterable[MeasuredCell]) -> bool:
        """Whether some model was measured under several settings, so that a row is a combination of them."""
        cells = list(cells)
        return len({self.settings(cell) for cell in cells}) > 1 and len(self.by_series(cells)) > FEW_SERIES

    def panels(self, cells: Iterable[MeasuredCell]) -> list[tuple[str, list[MeasuredCell], list[str]]]:
        """(title, cells, label of each) of small pictures: one a model, or a single one where a model is one cell."""
        cells = list(cells)
        groups = self.by_series(cells)
        if self.is_swept(cells):
            return [(model, own, self._rows(cells, own)) for model, own in by_model(cells).items()]
        if all(len(group) == 1 for group in groups.values()):
            return [("", cells, [self.series(cell) for cell in cells])] if cells else []
        return [(label, group, [self.row(cell) for cell in group]) for label, group in groups.items()]

    def _rows(self, cells: list[MeasuredCell], own: list[MeasuredCell]) -> list[str]:
        """Labels of rows by settings; a row does not repeat what all cells share."""
        many_devices = len({self.device(cell) for cell in cells}) > 1
        many_places = len({place_of(cell) for cell in cells}) > 1

        def label(cell: MeasuredCell) -> str:
            where = [self.device(cell)] * many_devices + [self.label(place_of(cell))] * many_places
            return " · ".join([self.settings(cell) or "base", *where])

        return [label(cell) for cell in own]


def by_model(cells: Iterable[MeasuredCell]) -> dict[str, list[MeasuredCell]]:
    groups: dict[str, list[MeasuredCell]] = {}
    for cell in cells:
        groups.setdefault(cell.model.name, []).append(cell)
    return groups


def value_heading(cells: Iterable[MeasuredCell]) -> str:
    """What the numbers of these cells are: "samples/s", "median_ttft_ms, ms"."""
    cells = list(cells)
    metric = next((cell.metric for cell in cells if cell.metric), None)
    if metric:
        return metric_heading(metric.name, metric.unit)
    return "value" if any(cell.model.command for cell in cells) else "samples/s"


def metric_heading(name: str, unit: str) -> str:
    return f"{name}, {unit}"


def cpus_label(cpus: str) -> str:
    return f"CPU {cpus}" if cpus.isdigit() else f"CPUs {cpus}"


def settings_label(values: Mapping[str, Any]) -> str:
    """Settings that are not the study's own, as in the name of a cell: "bf16 graph", or an empty text."""
    return " ".join(filter(None, (_suffix(key, value) for key, value in values.items())))


def _suffix(key: str, value: Any) -> str:
    if key == "heads":
        return f"heads{value}"
    axis = SETTINGS[key].axis if key in SETTINGS else None
    return axis.suffix_of(value) if axis else ""


def link_device(link: LinkEntry) -> str:
    """ "GPU 2"; the cpu device has no GPUs."""
    return "CPU" if link.device == "cpu" else f"GPU {link.gpu}"


def place_of(cell: MeasuredCell | LinkEntry) -> Place:
    return cell.cpu_node, cell.mem_node


def sorted_places(places: Iterable[Place]) -> list[Place]:
    return sorted(set(places), key=lambda place: (place[0] != place[1], place))
