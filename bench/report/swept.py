"""Sections of swept axes, of several GPUs at once, and of the links, as values for the templates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean
from typing import Any

import msgspec

from bench.analysis.axes import value_of
from bench.analysis.links import ceiling
from bench.analysis.metric import inverse_change
from bench.records.base import Direction
from bench.records.results import AxisComparison, Contention, Line, LinkEntry, MeasuredCell, PeerMeans, Results, Sum
from bench.report.plots.style import Picture
from bench.report.plots.sweeps import axis_picture, contention_picture
from bench.report.text.axes import axis_name, axis_title, compile_cost, compile_lines, section_id, summary_text
from bench.report.text.cells import ceilings_text
from bench.report.text.contention import contention_sentence, group_title, groups, is_alike
from bench.report.text.deciding import Cells, hint_groups
from bench.report.text.scale import scale_of
from bench.report.text.verdicts import DECIDED, line_text, verdict_word
from bench.report.view import Place, View, link_device, place_of
from bench.units import DASH, bandwidth, change, microseconds, rate, signed_share, values_text

DIRECTIONS = (Direction.H2D, Direction.D2H)


@dataclass(frozen=True)
class AxisRow:
    cell: str
    base_cell: str
    model: str
    device: str
    node: str
    value: str
    samples: str
    base_samples: str
    change: str
    verdict: str
    probable: bool
    text: str
    cost: str

    @property
    def label(self) -> tuple[str, ...]:
        return self.model, self.device, self.node, self.value


@dataclass(frozen=True)
class PenaltyRow:
    """cells: (remote cell, penalty) for each value of the axis, None where it is not measured."""

    model: str
    device: str
    place: str
    cells: tuple[tuple[str, str] | None, ...]


@dataclass(frozen=True)
class AxisPart:
    id: str
    axis: str
    title: str
    summary: list[str]
    picture: Picture | None
    penalties: list[PenaltyRow]
    columns: list[str]
    rows: list[AxisRow]
    hints: list[tuple[str, Cells]]


def axis_parts(view: View) -> list[AxisPart]:
    """One an axis, in the order of the study."""
    return [
        AxisPart(
            id=section_id(entry.axis),
            axis=axis_name(entry.axis),
            title=axis_title(entry),
            summary=[*(summary_text(entry, one) for one in entry.summary), *compile_lines(entry, view.cells)],
            picture=axis_picture(entry),
            penalties=_penalties_by_value(view, entry),
            columns=[values_text(value) for value in entry.values],
            rows=(rows := _distinct([_axis_row(view, line) for line in entry.lines], view)),
            hints=hint_groups(
                view.results,
                [(line, ", ".join(row.label), row.cell) for line, row in zip(entry.lines, rows, strict=True)],
            ),
        )
        for entry in view.results.comparisons
    ]


def _change(line: Line, cell: MeasuredCell) -> str:
    """Of the value that is shown, against that of the base."""
    if line.effect is None:
        return DASH
    if not scale_of(cell.metric).is_inverse:
        return change(line.effect, line.interval)
    ends = line.interval
    return change(inverse_change(-line.effect), ends and (inverse_change(-ends[1]), inverse_change(-ends[0])))


def _axis_row(view: View, line: Line) -> AxisRow:
    cell, base = view.cells[line.name], view.cells[line.base_cell]
    return AxisRow(
        cell=line.name,
        base_cell=line.base_cell,
        model=_shared_label(view, line),
        device=view.device(cell),
        node=view.label(place_of(cell)),
        value=values_text(line.value),
        samples=rate(cell.value),
        base_samples=rate(base.value),
        change=_change(line, cell),
        verdict=verdict_word(line.verdict),
        probable=line.is_probable,
        # The change of a decided line needs no text.
        text="" if line.verdict in DECIDED else line_text(line, view.results.rules, view.cells),
        cost=compile_cost(line, view.cells),
    )


def _shared_label(view: View, line: Line) -> str:
    """The base's label without what the axis sets it to, where that is not the study's own value."""
    base, own = view.cells[line.base_cell], view.cells[line.name]
    shared = dict(item for item in base.differing_settings.items() if item in own.differing_settings.items())
    occurrence = base.occurrence if base.occurrence == own.occurrence else 0
    return view.series(msgspec.structs.replace(base, differing_settings=shared, occurrence=occurrence))


def _distinct(rows: Sequence[AxisRow], view: View) -> list[AxisRow]:
    """Rows of one base and one value differ in another setting: those have the cell's own label."""
    alike = Counter(row.label for row in rows)
    return [replace(row, model=view.series(view.cells[row.cell])) if alike[row.label] > 1 else row for row in rows]


def _penalties_by_value(view: View, entry: AxisComparison) -> list[PenaltyRow]:
    """Rows of (model, GPU, placement), a penalty for each value of the axis; those with more than one."""
    base_of = {line.name: line.base_cell for line in entry.lines}
    rows: dict[tuple[str, int, Place], dict[int, tuple[str, str]]] = {}
    for penalty in view.results.penalties:
        cell = view.cells[penalty.remote_cell]
        value = dict(zip(entry.keys, value_of(cell, entry.keys), strict=True))
        if penalty.penalty is None or value not in entry.values:
            continue
        series = view.series(view.cells[base_of.get(cell.name, cell.name)])
        found = rows.setdefault((series, cell.gpu, place_of(cell)), {})
        found[entry.values.index(value)] = (cell.name, signed_share(penalty.penalty, penalty.interval))
    return [
        PenaltyRow(
            model=series,
            device=view.device(view.cells[next(iter(found.values()))[0]]),
            place=view.label(place),
            cells=tuple(found.get(index) for index in range(len(entry.values))),
        )
        for (series, _, place), found in rows.items()
        if len(found) > 1
    ]


# Several GPUs at once


@dataclass(frozen=True)
class ContentionPart:
    """matrix: rows of (device, node, tiles of (text, measured cell))."""

    title: str
    sentences: list[str]
    picture: Picture | None
    columns: list[str]
    matrix: list[tuple[str, str, list[tuple[str, str | None]]]]
    rows: list[dict[str, Any]]


def contention_parts(view: View) -> list[ContentionPart]:
    """One a model, load and placement of the others."""
    parts = []
    for group, entries in groups(view.results.contention).items():
        busy = sorted({entry.busy_gpus for entry in entries})
        parts.append(
            ContentionPart(
                title=group_title(group),
                sentences=[contention_sentence(entries, number) for number in busy if number > 1],
                picture=contention_picture(group, entries),
                columns=["isolated" if number == 1 else f"{number} busy" for number in busy],
                matrix=_matrix(view, entries, busy),
                rows=[_contention_row(view, entry) for entry in entries if entry.busy_gpus > 1],
            )
        )
    return parts


def _matrix(
    view: View, entries: Sequence[Contention], busy: Sequence[int]
) -> list[tuple[str, str, list[tuple[str, str | None]]]]:
    """H2D and D2H GB/s for each number of busy GPUs. GPUs that only loaded the host beside a measured one come last,
    without a node."""
    measured = {entry.gpu for entry in entries}
    rows: dict[tuple[bool, int, str], dict[int, list[Contention | PeerMeans]]] = {}
    for entry in entries:
        rows.setdefault((False, entry.gpu, view.label((entry.cpu_node, entry.mem_node))), {})[entry.busy_gpus] = [entry]
    for entry in entries:
        for peer in entry.peers:
            if peer.gpu not in measured:
                row = rows.setdefault((True, peer.gpu, "beside the others"), {})
                row.setdefault(entry.busy_gpus, []).append(peer)
    ranked = sorted(rows.items(), key=lambda row: row[0][:2])
    return [(f"GPU {gpu}", place, [_tile(row.get(number, [])) for number in busy]) for (_, gpu, place), row in ranked]


def _tile(own: Sequence[Contention | PeerMeans]) -> tuple[str, str | None]:
    known = [[rate for one in own if (rate := getattr(one, f"{each}_gb_s"))] for each in DIRECTIONS]
    text = " / ".join(bandwidth(geometric_mean(rates)) if rates else DASH for rates in known) if own else ""
    return text, next((one.cell for one in own if isinstance(one, Contention)), None)


def _contention_row(view: View, entry: Contention) -> dict[str, Any]:
    line, total = entry.isolated, entry.total
    base = view.cells[line.base_cell] if line else None
    return {
        "cell": entry.cell,
        "device": f"GPU {entry.gpu}",
        "node": view.label((entry.cpu_node, entry.mem_node)),
        "busy": entry.busy_gpus,
        "isolated": rate(base.throughput_samples_s) if base else DASH,
        "samples": rate(entry.throughput_samples_s),
        "change": DASH if line is None or line.effect is None else change(line.effect, line.interval),
        "verdict": verdict_word(line.verdict if line else None),
        "probable": bool(line and line.is_probable),
        "total": rate(total.throughput_samples_s.value) if is_alike([entry]) else DASH,
        "total_gb_s": _with_interval(total.h2d_gb_s),
        "straggler": DASH if total.straggler is None else _with_interval(total.straggler),
        "runs": total.runs,
    }


def _with_interval(found: Sum) -> str:
    if found.interval is None:
        return bandwidth(found.value)
    return f"{bandwidth(found.value)} [{', '.join(map(bandwidth, found.interval))}]"


# The links


def link_rows(view: View) -> list[dict[str, Any]]:
    """A row a GPU and placement."""
    return [
        {
            "name": link.name,
            "device": link_device(link),
            "node": view.label(place_of(link)),
            "status": link.status,
            "reason": link.reason,
            "placement": (link.placement or DASH).replace("_", " "),
            "figures": [
                bandwidth(link.nvbandwidth_h2d_gb_s),
                bandwidth(link.nvbandwidth_d2h_gb_s),
                *(bandwidth(_best(link, direction)) for direction in Direction),
                microseconds(link.small_copy_us),
                microseconds(link.launch_us),
            ],
        }
        for link in view.results.links
    ]


def ceilings(results: Results) -> str:
    """What 100 % of each GPU's link is, in one sentence."""
    gpus = sorted({cell.gpu for cell in results.cells})
    found = [ceiling(results.links, results.cells, gpu, direction) for gpu in gpus for direction in DIRECTIONS]
    return ceilings_text([one.source for one in found if one])


def _best(link: LinkEntry, direction: Direction) -> float | None:
    return max((copy.median_gb_s for copy in link.copies if copy.direction is direction), default=None)
