"""Questions to the history, and what `numastudy history` prints."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec
from sqlite_utils import Database
from tabulate import tabulate

from bench.history.database import add_study, connection_of, history_path, open_history
from bench.host.fingerprint import fingerprint_changes
from bench.records.base import DamagedRecord, Record, convert, decode, plain
from bench.records.host import Fingerprint, FingerprintChange
from bench.records.metric import Better
from bench.records.nightly import HistoryCell, HistoryListing, HistoryStudy, NightlyVerdict
from bench.records.study import Design
from bench.units import DASH, timestamp

# Samples per second that a plot can show.
Rate = Annotated[float, msgspec.Meta(gt=1e-9, lt=1e15)]
# Only those that say what a command measures: the others are long, and many.
_SETTINGS = "CASE WHEN instr(coalesce(cells.settings, ''), '\"metric\"') THEN cells.settings ELSE '{}' END"
_HEADERS = ("measured (UTC)", "study", "host", "night", "cells ok", "slower", "driver", "run directory")


class Shown(Record, frozen=True, kw_only=True):
    """What settings of a cell say of its values. metric: of a command; the pipeline has none."""

    metric: str = ""
    unit: str = "samples/s"
    better: Better = Better.HIGHER

    def value(self, rate: float | None) -> float | None:
        return 1 / rate if rate and self.better is Better.LOWER else rate


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
    """All studies of one name on one host, oldest first, and their cells. changes: of the host, by study id."""

    host: str
    study_name: str
    studies: tuple[HistoryStudy, ...]
    trends: tuple[Trend, ...]
    changes: dict[int, tuple[FingerprintChange, ...]]


def history_command(
    output_dir: Path, study: str, host: str, since: str, as_json: bool, add: Sequence[Path], page: bool
) -> str:
    """Add run directories, write index.html, and list the studies of the history, newest first.

    Raises StudyError for what cannot be added or read.
    """
    path = history_path(output_dir)
    for run_dir in add:
        _add(run_dir, path)
    if page or add:
        from bench.history.page import write_index

        written = write_index(path)
        if page:
            return f"page: {written}"
    with open_history(path) as history:
        selected = studies(history, study, host, since)
        if as_json:
            listing = HistoryListing(history=str(path), studies=with_cells(history, selected))
            return json.dumps(plain(listing), indent=1)
    rows = [_row(one) for one in selected]
    return tabulate(rows, _HEADERS, tablefmt="simple", disable_numparse=True) if rows else "no study matches"


def studies(database: Database, study: str = "", host: str = "", since: str = "") -> list[HistoryStudy]:
    """Studies, newest first; `since` is a date or the beginning of one."""
    rows = database.query(
        "SELECT studies.*, (SELECT count(*) FROM verdicts WHERE study_id = studies.id AND verdict = :slower) "
        "AS slower FROM studies WHERE (:study = '' OR study_name = :study) AND (:host = '' OR host = :host) "
        "AND (measured_at >= :since OR night >= :since AND night != '') ORDER BY measured_at DESC, id DESC",
        {"study": study, "host": host, "since": since, "slower": NightlyVerdict.SLOWER.value},
    )
    return [convert(row | {"fingerprint": stored_fingerprint(row["fingerprint"])}, HistoryStudy) for row in rows]


def stored_fingerprint(text: Any) -> Fingerprint:
    """Of a column that may hold anything. Raise DamagedRecord."""
    return decode(text.encode(), Fingerprint) if isinstance(text, str) and text else Fingerprint()


def with_cells(database: Database, selected: Iterable[HistoryStudy]) -> tuple[HistoryStudy, ...]:
    """The studies, each with its cells."""
    return tuple(msgspec.structs.replace(study, measured=_cells(database, study.id)) for study in selected)


def series(database: Database) -> list[Series]:
    """Everything, by host and study; the series with the newest study first."""
    by_name: dict[tuple[str, str], list[HistoryStudy]] = {}
    for study in reversed(studies(database)):
        by_name.setdefault((study.host, study.study_name), []).append(study)
    trends = _trends(database)
    every = [
        Series(host, name, tuple(own), tuple(trends.get((host, name), ())), _changes(own))
        for (host, name), own in by_name.items()
    ]
    return sorted(every, key=lambda one: one.studies[-1].measured_at, reverse=True)


def _changes(of_series: Sequence[HistoryStudy]) -> dict[int, tuple[FingerprintChange, ...]]:
    """What of the host differs from the study before, by study id; nothing where either has no fingerprint."""
    changes = {
        study.id: tuple(fingerprint_changes(before.fingerprint, study.fingerprint))
        for before, study in pairwise(of_series)
        if plain(before.fingerprint) and plain(study.fingerprint)
    }
    return {study_id: own for study_id, own in changes.items() if own}


def _cells(database: Database, study_id: int) -> tuple[HistoryCell, ...]:
    rows = database.query(
        "SELECT cells.name, cells.key, cells.gpu, cells.cpu_node, cells.mem_node, cells.model, m.outcome, "
        "m.reason, m.throughput_samples_s, m.throughput_spread, m.latency_p50_us, m.latency_p99_us, "
        "m.h2d_bandwidth_gb_s, m.d2h_bandwidth_gb_s, m.pipeline_efficiency, m.regime, verdicts.verdict, "
        f"m.undisturbed_samples_s AS rate, {_SETTINGS} AS settings "
        "FROM measurements m JOIN cells ON cells.id = m.cell_id "
        "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
        "WHERE m.study_id = ? ORDER BY m.id",
        [study_id],
    )
    return tuple(_cell(row) for row in rows)


def _cell(row: dict[str, Any]) -> HistoryCell:
    rate, shown = row.pop("rate"), _shown(row.pop("settings"))
    own = {"unit": shown.unit, "value": shown.value(rate)} if shown.metric else {}
    return convert(row | own, HistoryCell)


@lru_cache(maxsize=1024)
def _shown(settings: str) -> "Shown":
    """How a cell's rate is shown. settings: of the cell, in JSON."""
    try:
        return decode(settings.encode(), Shown)
    except DamagedRecord:
        return Shown()


def _trends(database: Database) -> dict[tuple[str, str], list[Trend]]:
    """By host and study name."""
    rows = connection_of(database).execute(
        "SELECT cells.id, cells.host, cells.study_name, cells.name, m.study_id, m.outcome, "
        "coalesce(m.reason, ''), coalesce(verdicts.verdict, ''), m.design, m.undisturbed_samples_s, "
        f"{_SETTINGS} FROM measurements m "
        "JOIN cells ON cells.id = m.cell_id JOIN studies ON studies.id = m.study_id "
        "AND studies.host = cells.host AND studies.study_name = cells.study_name "
        "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
        "ORDER BY cells.id, studies.measured_at, studies.id"
    )
    cells: dict[int, tuple[Any, dict[Design, list[Point]]]] = {}
    for row in rows:
        cell_id, host, study_name, name, study_id, outcome, reason, verdict, design, rate, settings = convert(
            row, tuple[int, str, str, str, int, str, str, str, Design, Rate | None, str]
        )
        shown = _shown(settings)
        _, points = cells.setdefault(cell_id, ((host, study_name, name, shown.unit), {}))
        # How a cell would have been measured that failed is not known.
        known = design if rate or not points else list(points)[-1]
        point = Point(study_id, shown.value(rate), outcome, reason, verdict == NightlyVerdict.SLOWER)
        points.setdefault(known, []).append(point)
    trends: dict[tuple[str, str], list[Trend]] = {}
    for (host, study_name, name, unit), by_design in cells.values():
        designs = list(by_design)
        for at, (known, own) in enumerate(by_design.items()):
            trend = Trend(name, tuple(own), known, at < len(designs) - 1, designs[at - 1] if at else None, unit)
            trends.setdefault((host, study_name), []).append(trend)
    return trends


def _add(run_dir: Path, path: Path) -> None:
    from bench.analysis.load import read_results

    results = read_results(run_dir)
    if not Path(results.run_directory).exists():
        # The folder was moved since its results were written.
        results = msgspec.structs.replace(results, run_directory=str(run_dir.resolve()))
    add_study(results, path)


def _row(study: HistoryStudy) -> tuple[str, ...]:
    return (
        timestamp(study.measured_at),
        study.study_name,
        study.host,
        study.night or DASH,
        f"{study.cells_ok} of {study.cells}",
        str(study.slower or DASH),
        study.driver or DASH,
        study.run_directory,
    )
