"""Questions to the history and their text."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from bench.errors import StudyError
from bench.history.database import open_history
from bench.host.fingerprint import describe_change, fingerprint_changes
from bench.records.base import convert
from bench.records.host import Fingerprint

# --- query
# Questions to the history, answered with plain values.

Record = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One cell in one study. samples_s: of the undisturbed runs; None where the cell failed. verdict: of its night."""

    study_id: int
    samples_s: float | None
    outcome: str
    reason: str
    verdict: str


@dataclass(frozen=True)
class Trend:
    """A cell of a study on a host through time, oldest first."""

    cell: str
    gpu: int | None
    model: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Series:
    """All studies of one name on one host, oldest first, their cells, and what changed: {study id: changes}."""

    host: str
    study_name: str
    studies: tuple[Record, ...]
    trends: tuple[Trend, ...]
    changes: dict[int, list[str]]


def studies(database: Database, study: str = "", host: str = "", since: str = "") -> list[Record]:
    """Studies, newest first; `since` is a date or the beginning of one. `slower`: cells that its night found slower."""
    return list(
        database.query(
            "SELECT studies.*, (SELECT count(*) FROM verdicts WHERE study_id = studies.id AND verdict = 'SLOWER') "
            "AS slower FROM studies WHERE (:study = '' OR study_name = :study) AND (:host = '' OR host = :host) "
            "AND (measured_at >= :since OR night >= :since AND night != '') ORDER BY measured_at DESC, id DESC",
            {"study": study, "host": host, "since": since},
        )
    )


def with_cells(database: Database, found: Iterable[Record]) -> list[Record]:
    """The studies, each with its cells and its fingerprint as values: what `numastudy history --json` prints."""
    told = []
    for study in found:
        cells = database.query(
            "SELECT cells.name, cells.key, cells.gpu, cells.cpu_node, cells.mem_node, cells.model, m.outcome, "
            "m.reason, m.throughput_samples_s, m.throughput_spread, m.latency_p50_us, m.latency_p99_us, "
            "m.h2d_bandwidth_gb_s, m.d2h_bandwidth_gb_s, m.pipeline_efficiency, m.regime, verdicts.verdict "
            "FROM measurements m JOIN cells ON cells.id = m.cell_id "
            "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
            "WHERE m.study_id = ? ORDER BY m.id",
            [study["id"]],
        )
        told.append(study | {"fingerprint": json.loads(study["fingerprint"] or "{}"), "measured": list(cells)})
    return told


def series(database: Database) -> list[Series]:
    """Everything, by host and study; the series with the newest study first."""
    by_name: dict[tuple[str, str], list[Record]] = {}
    for study in reversed(studies(database)):
        by_name.setdefault((study["host"], study["study_name"]), []).append(study)
    points = _points(database)
    found = [
        Series(host, name, tuple(own), tuple(points.get((host, name), ())), changes(own))
        for (host, name), own in by_name.items()
    ]
    return sorted(found, key=lambda one: one.studies[-1]["measured_at"], reverse=True)


def changes(of_series: list[Record]) -> dict[int, list[str]]:
    """What of the host differs from the study before, by study id: "the NVIDIA driver was 580, is 590"."""
    facts = [convert(json.loads(study["fingerprint"] or "{}"), Fingerprint) for study in of_series]
    found = {
        study["id"]: list(map(describe_change, fingerprint_changes(before, after)))
        for study, (before, after) in zip(of_series[1:], pairwise(facts), strict=True)
        if before != Fingerprint() != after
    }
    return {study_id: texts for study_id, texts in found.items() if texts}


def _points(database: Database) -> dict[tuple[str, str], list[Trend]]:
    rows = database.conn.execute(
        "SELECT cells.id, cells.host, cells.study_name, cells.name, cells.gpu, cells.model, m.study_id, "
        "m.calm_samples_s, m.outcome, m.reason, verdicts.verdict FROM measurements m "
        "JOIN cells ON cells.id = m.cell_id JOIN studies ON studies.id = m.study_id "
        "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
        "ORDER BY cells.id, studies.measured_at, studies.id"
    )
    cells: dict[int, tuple[Any, list[Point]]] = {}
    for cell_id, *cell, study_id, samples_s, outcome, reason, verdict in rows:
        known = cells.setdefault(cell_id, (cell, []))
        known[1].append(Point(study_id, samples_s, outcome, reason or "", verdict or ""))
    found: dict[tuple[str, str], list[Trend]] = {}
    for (host, study_name, name, gpu, model), points in cells.values():
        found.setdefault((host, study_name), []).append(Trend(name, gpu, model or "", tuple(points)))
    return found


def history_path(output_dir: Path | str) -> Path:
    return Path(output_dir) / "history.db"


# --- command
# What `numastudy history` prints.

Record = dict[str, Any]
_COLUMNS = ("measured (UTC)", "study", "host", "night", "cells ok", "slower", "driver", "run directory")


def history_command(
    output_dir: Path, study: str, host: str, since: str, as_json: bool, add: Sequence[Path], page: bool
) -> str:
    """Add run directories, draw index.html again, and tell what the history holds, newest first.

    Raises StudyError for what cannot be added or read.
    """
    path = history_path(output_dir)
    if add:
        _add(add, path)
    if page or add:
        from bench.history.page import write_index

        drawn = write_index(path)
        if page:
            return f"page: {drawn}"
    with open_history(path) as history:
        found = studies(history, study, host, since)
        if as_json:
            return json.dumps({"history": str(path), "studies": with_cells(history, found)}, indent=1)
    return _table(found) if found else "no study fits"


def _add(run_dirs: Sequence[Path], path: Path) -> None:
    from bench.history.database import add_study
    from bench.legacy.load import read_results

    for run_dir in run_dirs:
        results = read_results(run_dir)
        if not Path(results["run_directory"]).exists():
            # The folder was moved since its results were written: it lies where it was found.
            results |= {"run_directory": str(run_dir.resolve())}
        try:
            add_study(results, path)
        except (KeyError, TypeError) as error:
            raise StudyError(
                f"results.json is not as this version writes it: {error!r}",
                str(run_dir),
                f"make it again: numastudy report {run_dir}",
            ) from None


def _table(found: Sequence[Record]) -> str:
    rows = [_COLUMNS, *(_row(study) for study in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _row(study: Record) -> tuple[str, ...]:
    return (
        study["measured_at"][:16].replace("T", " "),
        study["study_name"],
        study["host"],
        study["night"] or "–",
        f"{study['cells_ok']} of {study['cells']}",
        str(study["slower"] or "–"),
        study["driver"] or "–",
        study["run_directory"],
    )
