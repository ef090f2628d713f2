"""From the history: what the nights before measured, cell by cell."""

import json
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from bench.results.compare import fingerprint_differences
from bench.results.verdicts import Verdict

Record = dict[str, Any]
Cell = tuple[str, str]


@dataclass(frozen=True)
class Baseline:
    """cells: {(key, name): samples/s of its nights, oldest first}; nights: all that counted, oldest first.

    last_night: the cells that were ok in the night before, whatever its hardware. changes: what of the host is not
    what it was in that night. left_out: nights on other hardware, each with the reason.
    """

    cells: dict[Cell, tuple[float, ...]]
    nights: tuple[str, ...]
    last_night: frozenset[Cell]
    changes: tuple[str, ...]
    left_out: tuple[str, ...]


def read_baseline(database: Database, tonight: Record, night: str, nights: int, since: str = "") -> Baseline:
    """The nights before `night` of the study and host of `tonight` (its results).

    Each cell has its own last `nights` nights: those that found it slower do not count, or a loss would be the
    normal state of the next night. They do once a later `since` accepts the new level. Those on other silicon
    never count.
    """
    studies = [
        row | {"fingerprint": json.loads(row["fingerprint"] or "{}")}
        for row in database.query(
            "SELECT id, night, device, fingerprint FROM studies WHERE host = ? AND study_name = ? "
            "AND night != '' AND night < ? ORDER BY night, measured_at",
            [tonight["host"]["name"], tonight["study_name"], night],
        )
    ]
    ids, left_out = [], []
    for study in studies:
        refused, _ = fingerprint_differences(study, tonight)
        if refused:
            left_out.append(f"{study['night']}: {'; '.join(refused)}")
        elif study["night"] >= since:
            ids.append(study["id"])
    last = [study for study in studies if study["night"] == studies[-1]["night"]]
    refused, changed = fingerprint_differences(last[-1], tonight) if last else ([], [])
    rows = _cells(database, ids, since)
    return Baseline(
        cells={cell: tuple(value for _, value in values[-nights:]) for cell, values in rows.items()},
        nights=tuple(sorted({night for values in rows.values() for night, _ in values[-nights:]})),
        last_night=frozenset(cell for study in last for cell in _measured(database, study["id"])),
        changes=(*refused, *changed),
        left_out=tuple(left_out),
    )


def _cells(database: Database, studies: list[int], since: str) -> dict[Cell, list[tuple[str, float]]]:
    found: dict[Cell, dict[str, float]] = {}
    rows = database.conn.execute(
        "SELECT cells.key, cells.name, studies.night, m.calm_samples_s FROM measurements m "
        "JOIN studies ON studies.id = m.study_id JOIN cells ON cells.id = m.cell_id "
        "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
        "WHERE m.study_id IN (SELECT value FROM json_each(?)) AND m.outcome = 'ok' AND m.calm_samples_s IS NOT NULL "
        "AND (verdicts.verdict IS NULL OR verdicts.verdict != ? OR verdicts.since < ?) "
        "ORDER BY studies.night, studies.measured_at",
        [json.dumps(studies), Verdict.SLOWER.value, since],
    )
    for key, name, night, value in rows:
        # Of a night that was measured twice the later one counts.
        found.setdefault((key, name), {})[night] = value
    return {cell: list(values.items()) for cell, values in found.items()}


def _measured(database: Database, study: int) -> list[Cell]:
    rows = database.conn.execute(
        "SELECT cells.key, cells.name FROM measurements m JOIN cells ON cells.id = m.cell_id "
        "WHERE m.study_id = ? AND m.outcome = 'ok'",
        [study],
    )
    return [(key, name) for key, name in rows]
