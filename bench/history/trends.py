"""Studies and their cells through time: by host and name, and a study with other cells apart."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlite_utils import Database

from bench.history.database import connection_of
from bench.history.query import SETTINGS, Rate, shown_as, studies
from bench.host.fingerprint import fingerprint_changes
from bench.records.base import convert, plain
from bench.records.host import FingerprintChange
from bench.records.nightly import HistoryStudy, NightlyVerdict
from bench.records.study import Design
from bench.units import listed, value_text

# Of the cells that either of two studies has, the share that both have if one continues the other: a list of models may
# grow or shrink, and an override of the models, of the GPUs or of a setting is something else.
SHARED = 0.5
_MOST_NAMED = 3


@dataclass(frozen=True)
class Point:
    """One cell in one study. value: of the undisturbed runs, None if the cell failed. slower: by its night."""

    study_id: int
    value: float | None
    outcome: str
    reason: str
    slower: bool


@dataclass(frozen=True)
class Trend:
    """A cell of a study on a host through time, oldest first; measured by another design it has another trend.

    continued: a later one has the same cell. before: its design, where an earlier one has.
    """

    cell: str
    points: tuple[Point, ...]
    design: Design = "processes"
    continued: bool = False
    before: Design | None = None
    unit: str = "samples/s"


@dataclass(frozen=True)
class Series:
    """Studies of one name on one host that have most cells in common, oldest first, and these cells.

    variant: what the newest one has else than the usual studies of this name, empty for those. changes: of the host, by
    study id.
    """

    host: str
    study_name: str
    studies: tuple[HistoryStudy, ...]
    trends: tuple[Trend, ...]
    changes: dict[int, tuple[FingerprintChange, ...]]
    variant: str = ""


@dataclass(frozen=True)
class _Measured:
    """A cell with its points, each with its design."""

    name: str
    unit: str
    points: list[tuple[Design, Point]]


# By the number of the cell.
_Cells = Mapping[int, _Measured]


def series(database: Database) -> list[Series]:
    """Everything; the series with the newest study first."""
    by_name: dict[tuple[str, str], list[HistoryStudy]] = {}
    for study in reversed(studies(database)):
        by_name.setdefault((study.host, study.study_name), []).append(study)
    measured = _measured(database)
    every: list[Series] = []
    for (host, name), own in by_name.items():
        cells = measured.get((host, name), {})
        groups = _groups(own, cells)
        # The study as its file is was measured most often; else the overrides left something out.
        usual = max(groups, key=lambda group: (len(group), group[-1].cells))
        for group in groups:
            variant = "" if group is usual else _variant(database, cells, group[-1].id, usual[-1].id)
            trends = tuple(_trends(cells, {study.id for study in group}))
            every.append(Series(host, name, tuple(group), trends, _changes(group), variant))
    return sorted(every, key=lambda one: one.studies[-1].measured_at, reverse=True)


def _measured(database: Database) -> dict[tuple[str, str], dict[int, _Measured]]:
    """By host and study name."""
    rows = connection_of(database).execute(
        "SELECT cells.id, cells.host, cells.study_name, cells.name, m.study_id, m.outcome, "
        "coalesce(m.reason, ''), coalesce(verdicts.verdict, ''), m.design, m.undisturbed_samples_s, "
        f"{SETTINGS} FROM measurements m "
        "JOIN cells ON cells.id = m.cell_id JOIN studies ON studies.id = m.study_id "
        "AND studies.host = cells.host AND studies.study_name = cells.study_name "
        "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
        "ORDER BY cells.id, studies.measured_at, studies.id"
    )
    found: dict[tuple[str, str], dict[int, _Measured]] = {}
    for row in rows:
        cell_id, host, study_name, name, study_id, outcome, reason, verdict, design, rate, settings = convert(
            row, tuple[int, str, str, str, int, str, str, str, Design, Rate | None, str]
        )
        shown = shown_as(settings)
        cell = found.setdefault((host, study_name), {}).setdefault(cell_id, _Measured(name, shown.unit, []))
        # How a cell would have been measured that failed is not known.
        known = design if rate or not cell.points else cell.points[-1][0]
        point = Point(study_id, shown.value(rate), outcome, reason, verdict == NightlyVerdict.SLOWER)
        cell.points.append((known, point))
    return found


def _groups(own: Sequence[HistoryStudy], cells: _Cells) -> list[list[HistoryStudy]]:
    """Each study with the last one before it that has most of its cells."""
    having: dict[int, set[int]] = {study.id: set() for study in own}
    for cell_id, cell in cells.items():
        for _, point in cell.points:
            having[point.study_id].add(cell_id)
    groups: list[list[HistoryStudy]] = []
    for study in own:
        mine = having[study.id]
        for group in groups:
            last = having[group[-1].id]
            if len(mine & last) >= SHARED * len(mine | last):
                group.append(study)
                break
        else:
            groups.append([study])
    return groups


def _trends(cells: _Cells, group: set[int]) -> Iterable[Trend]:
    for cell in cells.values():
        by_design: dict[Design, list[Point]] = {}
        for design, point in cell.points:
            if point.study_id in group:
                by_design.setdefault(design, []).append(point)
        designs = list(by_design)
        for at, (design, points) in enumerate(by_design.items()):
            before = designs[at - 1] if at else None
            yield Trend(cell.name, tuple(points), design, at < len(designs) - 1, before, cell.unit)


def _changes(of_series: Sequence[HistoryStudy]) -> dict[int, tuple[FingerprintChange, ...]]:
    """What of the host differs from the study before, by study id; nothing where either has no fingerprint."""
    changes = {
        study.id: tuple(fingerprint_changes(before.fingerprint, study.fingerprint))
        for before, study in pairwise(of_series)
        if plain(before.fingerprint) and plain(study.fingerprint)
    }
    return {study_id: own for study_id, own in changes.items() if own}


# What a series has else than the usual one


def _variant(database: Database, cells: _Cells, study_id: int, usual_id: int) -> str:
    """ "model vit0x0x0, batch size 10": what all cells of a study have and those of the usual one have not."""
    own, usual = (_facts(database, cells, one) for one in (study_id, usual_id))
    parts = [_part(key, own[key]) for key in own if own[key] != usual.get(key)]
    if len(parts) > _MOST_NAMED:
        parts = [*parts[:_MOST_NAMED], f"{len(parts) - _MOST_NAMED} more"]
    return ", ".join(parts) or "cells of another version"


def _facts(database: Database, cells: _Cells, study_id: int) -> dict[str, list[str]]:
    """Models, GPUs, nodes and settings of the cells of a study, each in the order of the cells."""
    found: dict[str, dict[str, None]] = {}
    ids = [cell_id for cell_id, cell in cells.items() if any(point.study_id == study_id for _, point in cell.points)]
    for cell_id in ids:
        (row,) = database.query(
            'SELECT model, gpu AS "GPU", mem_node AS node, settings FROM cells WHERE id = ?', [cell_id]
        )
        for key, value in (row | _settings(row.pop("settings"))).items():
            found.setdefault(key.replace("_", " "), {})[value_text(value)] = None
    return {key: [*values] for key, values in found.items()}


def _settings(text: Any) -> dict[str, Any]:
    """Of a column that may hold anything."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _part(key: str, values: Sequence[str]) -> str:
    name = f"{key}s" if len(values) > 1 and key in ("model", "GPU", "node") else key
    return f"{name} {listed([*values]) if len(values) <= _MOST_NAMED else len(values)}"
