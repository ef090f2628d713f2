"""The nights before: the values that a night is compared with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from sqlite_utils import Database

from bench.compare import host_differences
from bench.history.database import connection_of
from bench.history.query import Rate, stored_fingerprint
from bench.history.schema import NIGHT_COLUMNS
from bench.records.base import convert, decode
from bench.records.host import FingerprintChange
from bench.records.nightly import LOST, THROUGHPUT, ExcludedNight, NightlyVerdict
from bench.records.results import Measure, Results
from bench.records.run import Outcome
from bench.records.study import Design

CellId = tuple[str, str]
# A cell by its design: what was measured by turns in one process is a series of its own.
SeriesId = tuple[str, str, Design]
_KNOWN = 8


@dataclass(frozen=True)
class NightValue:
    """One cell in one night. counts: in later baselines. others: latency and steadiness, where they are known.

    lost: NightCell.lost; None where it has nothing, or the history is older: the verdict is then that of all measures.
    """

    night: str
    samples_s: float
    verdict: str
    counts: bool
    lost: dict[str, str] | None
    others: dict[Measure, float]


@dataclass(frozen=True)
class Baseline:
    """The nights before. cells: their values that count, by (key, name, design); every: all of their values.

    nights: all that counted. pending: of cells the measures (THROUGHPUT or a Measure) that were slower in the night
    before, and pending in it or in one before it without another between that was not slower.
    last_night: the cells that were ok in the night before, whatever its hardware. changes: of the host since then.
    excluded: nights on other hardware.
    """

    cells: dict[SeriesId, tuple[NightValue, ...]]
    every: dict[SeriesId, tuple[NightValue, ...]]
    pending: dict[SeriesId, frozenset[str]]
    nights: tuple[str, ...]
    last_night: frozenset[CellId]
    changes: tuple[FingerprintChange, ...]
    excluded: tuple[ExcludedNight, ...]


def read_baseline(database: Database, tonight: Results, night: str, nights: int, since: str = "") -> Baseline:
    """The nights before `night` of the study and host of `tonight`.

    Each cell has its own last `nights` nights: those that found it slower, or pending, do not count, or a loss would be
    the normal state of the next night. They do count once a later `since` accepts the new level. Those on other
    hardware never count.
    """
    rows = list(
        database.query(
            "SELECT id, night, device, fingerprint FROM studies WHERE host = ? AND study_name = ? "
            "AND night != '' AND night < ? ORDER BY night, measured_at",
            [tonight.host, tonight.study_name, night],
        )
    )
    differences = {
        row["id"]: host_differences(
            str(row["device"] or ""),
            stored_fingerprint(row["fingerprint"]),
            tonight.device,
            tonight.fingerprint,
        )
        for row in rows
    }
    excluded = [
        ExcludedNight(night=row["night"], changes=refused)
        for row in rows
        if (refused := differences[row["id"]].incomparable)
    ]
    counted = [row["id"] for row in rows if not differences[row["id"]].incomparable and row["night"] >= since]
    last = [row["id"] for row in rows if row["night"] == rows[-1]["night"]]
    changes = (*differences[last[-1]].incomparable, *differences[last[-1]].notable) if last else ()
    every = _values(database, counted, since)
    counting = {cell: [value for value in values if value.counts][-nights:] for cell, values in every.items()}
    return Baseline(
        cells={cell: tuple(values) for cell, values in counting.items()},
        every=every,
        pending={
            cell: frozenset(one for one in (THROUGHPUT, *NIGHT_COLUMNS) if _was_pending(values, one))
            for cell, values in every.items()
            if values[-1].night == rows[-1]["night"]
        },
        nights=tuple(sorted({value.night for values in counting.values() for value in values})),
        last_night=frozenset(cell for study_id in last for cell in _measured_cells(database, study_id)),
        changes=changes,
        excluded=tuple(excluded),
    )


def _was_pending(values: Sequence[NightValue], measure: str) -> bool:
    """In one of the last nights, in which all it was slower."""
    verdicts = (value.verdict if value.lost is None else value.lost.get(measure, "") for value in reversed(values))
    return NightlyVerdict.PENDING in takewhile(lambda verdict: verdict in LOST, verdicts)


def _values(database: Database, studies: list[int], since: str) -> dict[SeriesId, tuple[NightValue, ...]]:
    """Of each cell, oldest first. Of a night that was measured twice the later value counts."""
    rows = connection_of(database).execute(
        "SELECT cells.key, cells.name, m.design, studies.night, m.undisturbed_samples_s, "
        f"coalesce(verdicts.verdict, ''), coalesce(verdicts.since, ''), verdicts.lost, "
        f"{', '.join(NIGHT_COLUMNS.values())} "
        "FROM measurements m "
        "JOIN studies ON studies.id = m.study_id JOIN cells ON cells.id = m.cell_id "
        "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
        "WHERE m.study_id IN (SELECT value FROM json_each(?)) AND m.outcome = ? "
        "AND m.undisturbed_samples_s IS NOT NULL ORDER BY studies.night, studies.measured_at",
        [json.dumps(studies), Outcome.OK.value],
    )
    by_cell: dict[SeriesId, dict[str, NightValue]] = {}
    for row in rows:
        key, name, design, night, rate, verdict, judged_since, lost = convert(
            row[:_KNOWN], tuple[str, str, Design, str, Rate, str, str, str | None]
        )
        others = {one: value for one, value in zip(NIGHT_COLUMNS, row[_KNOWN:], strict=True) if value is not None}
        known = dict(zip(others, convert(list(others.values()), list[Rate]), strict=True))
        measures = decode(lost.encode(), dict[str, str]) if lost else None
        value = NightValue(night, rate, verdict, verdict not in LOST or judged_since < since, measures, known)
        by_cell.setdefault((key, name, design), {})[night] = value
    return {cell: tuple(values.values()) for cell, values in by_cell.items()}


def _measured_cells(database: Database, study_id: int) -> list[CellId]:
    rows = connection_of(database).execute(
        "SELECT cells.key, cells.name FROM measurements m JOIN cells ON cells.id = m.cell_id "
        "WHERE m.study_id = ? AND m.outcome = ?",
        [study_id, Outcome.OK.value],
    )
    return [(key, name) for key, name in rows]
