"""history.db: every finished study of an output directory, in one database that several programs may use at once.

Tables: studies, cells (a point of the grid on a host), measurements (a cell in a study), runs, penalties, and verdicts
(of a cell in a night). A cell keeps its row as long as its host, study, key and name are the same; what was measured of
it by another design is another series.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import sqlite_utils

from bench.analysis.crossing import design_of
from bench.analysis.latency import undisturbed
from bench.analysis.load import measured_at
from bench.analysis.pairs import undisturbed_throughput
from bench.errors import StudyError
from bench.history.limits import restrict
from bench.history.schema import MIGRATIONS, NIGHT_COLUMNS, OLDEST_VERSION, SCHEMA_VERSION, TABLES
from bench.records.base import DamagedRecord, plain
from bench.records.nightly import NightCell
from bench.records.results import MeasuredCell, Penalty, Results
from bench.storage import local_copy, on_network, refusal
from bench.units import exact_seconds

BUSY_S = 30.0


class HistoryError(StudyError):
    """The history cannot be used; the studies themselves are not affected."""


def history_path(output_dir: Path | str) -> Path:
    return Path(output_dir) / "history.db"


# Opening


@contextmanager
def open_history(path: Path, create: bool = False, busy_s: float = BUSY_S) -> Iterator[sqlite_utils.Database]:
    """The history at `path`, migrated to the current schema. Wait up to busy_s for other writers.

    Raise HistoryError if it is missing (unless `create`), damaged, of another schema, or locked for too long.
    """
    if not create and not path.is_file():
        raise HistoryError(
            "there is no history yet", str(path), "finish a study, or add one: numastudy history --add RUN_DIR"
        )
    if not path.parent.is_dir():
        raise HistoryError("there is no such folder", str(path.parent), "create it first")
    if path.exists() and not path.is_file():
        raise HistoryError("not a regular file", str(path), "move it away")
    try:
        with local_copy(path, busy_s) if on_network(path) else nullcontext(path) as file:
            # Autocommit: the only transactions are the ones begun here, and they take the write lock first.
            connection = sqlite3.connect(file, timeout=busy_s, isolation_level=None)
            try:
                restrict(connection)
                connection.execute("PRAGMA foreign_keys = ON")
                _migrate(connection, path, busy_s)
                yield sqlite_utils.Database(connection)
            finally:
                connection.close()
    except TimeoutError:
        raise _history_error("locked", path, busy_s) from None
    except (OSError, sqlite3.Error, DamagedRecord) as error:
        if not (reason := refusal(error)):
            raise _history_error(str(error), path, busy_s) from None
        advice = "make room, or make the file and its folder writable"
        raise HistoryError(f"the history cannot be used: {reason}", str(path), advice) from None


@contextmanager
def transaction(database: sqlite_utils.Database) -> Iterator[sqlite3.Connection]:
    """One transaction that has the write lock from its start: two writers wait for each other and never fail half-way.

    Insert with the connection, not with sqlite-utils' insert, which before its version 4 ends the transaction.
    """
    connection = connection_of(database)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        # For a full disk SQLite may have rolled it back itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def connection_of(database: sqlite_utils.Database) -> sqlite3.Connection:
    """Typed as what it is: sqlite-utils also accepts other drivers."""
    connection = database.conn
    assert isinstance(connection, sqlite3.Connection)
    return connection


def version_of(connection: sqlite3.Connection) -> int:
    """0 for a new database."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _migrate(connection: sqlite3.Connection, path: Path, busy_s: float) -> None:
    version = version_of(connection)
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise HistoryError(
            f"the history has schema version {version}, this program reads up to {SCHEMA_VERSION}",
            str(path),
            "use the newer version of numastudy that wrote it, or another --output-dir",
        )
    if 0 < version < OLDEST_VERSION:
        raise HistoryError(
            f"the history has schema version {version}, this program reads from {OLDEST_VERSION} on",
            str(path),
            "move it away and add the run directories again: numastudy history --add RUN_DIR",
        )
    _choose_journal(connection, path, busy_s)
    with transaction(sqlite_utils.Database(connection)):
        # Another program may have migrated it while this one waited for the lock.
        if (version := version_of(connection)) == SCHEMA_VERSION:
            return
        steps = [MIGRATIONS[start] for start in range(version, SCHEMA_VERSION)] if version else [TABLES]
        for statement in chain.from_iterable(steps):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO meta VALUES ('schema_version', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [str(SCHEMA_VERSION)],
        )
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _choose_journal(connection: sqlite3.Connection, path: Path, busy_s: float) -> None:
    """WAL, so that readers and a writer do not wait for each other. It needs memory shared by all its users, which
    hosts of a network file system do not have."""
    if on_network(path):
        return
    deadline = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            # This statement does not wait by itself for another program that does the same.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _history_error(error: str, path: Path, busy_s: float) -> HistoryError:
    if "locked" in error or "busy" in error:
        return HistoryError(
            f"another program has held the history for {exact_seconds(busy_s)}",
            str(path),
            "close that program, then try again",
        )
    return HistoryError(
        f"the history cannot be used: {error}",
        str(path),
        "if it is damaged, move it away and add the run directories again: numastudy history --add RUN_DIR",
    )


# Adding


def add_study(results: Results, database: Path, busy_s: float = BUSY_S) -> int:
    """Add the results of a study, or replace what its run directory gave before. Returns the study's id.

    database: outputs/history.db; created or migrated if need be. Run directories below its folder are stored relative
    to it, so that the whole folder can be moved.
    Raises HistoryError if the database cannot be used, or is locked for longer than busy_s.
    """
    with open_history(database, create=True, busy_s=busy_s) as history, transaction(history) as connection:
        row = _study_row(results, database)
        study_id = _replace_study(connection, row)
        cells = {cell.name: _add_cell(connection, row, study_id, cell) for cell in results.cells}
        for penalty in results.penalties:
            _insert(connection, "penalties", _penalty_row(cells, penalty) | {"study_id": study_id})
        return study_id


def add_verdicts(history: sqlite_utils.Database, study_id: int, verdicts: Sequence[NightCell], since: str = "") -> None:
    """Replace the verdicts of a night on the cells of a study. since: from when the night's baseline counted."""
    with transaction(history) as connection:
        connection.execute("DELETE FROM verdicts WHERE study_id = ?", [study_id])
        ids = dict(
            connection.execute(
                "SELECT cells.name, cells.id FROM measurements m JOIN cells ON cells.id = m.cell_id "
                "WHERE m.study_id = ?",
                [study_id],
            )
        )
        for one in verdicts:
            if one.name in ids:
                row = {"study_id": study_id, "cell_id": ids[one.name], "since": since}
                _insert(connection, "verdicts", row | _verdict_row(one))


def stored_path(run_directory: str, database: Path) -> str:
    """Relative to the database's folder if it is below it."""
    path, folder = Path(run_directory).resolve(), database.resolve().parent
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _replace_study(connection: sqlite3.Connection, row: dict[str, Any]) -> int:
    """The id stays the same, since other rows may refer to it; what was measured is replaced."""
    changed = ", ".join(f"{key} = excluded.{key}" for key in row)
    study_id = _insert(connection, "studies", row, f"ON CONFLICT (run_directory) DO UPDATE SET {changed} RETURNING id")
    for table in ("measurements", "penalties"):
        connection.execute(f"DELETE FROM {table} WHERE study_id = ?", [study_id])
    return study_id


def _add_cell(connection: sqlite3.Connection, study: dict[str, Any], study_id: int, cell: MeasuredCell) -> int:
    identity = [study["host"], study["study_name"], cell.key, cell.name]
    values = [cell.gpu, cell.cpu_node, cell.mem_node, cell.model.name]
    connection.execute(
        "INSERT OR IGNORE INTO cells (host, study_name, key, name, gpu, cpu_node, mem_node, model, settings) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [*identity, *values, _settings_text(cell)],
    )
    if cell.metric:
        # Of a command that failed before it was unknown what it measures.
        connection.execute(
            "UPDATE cells SET settings = ? WHERE host = ? AND study_name = ? AND key = ? AND name = ?",
            [_settings_text(cell), *identity],
        )
    cell_id: int
    (cell_id,) = connection.execute(
        "SELECT id FROM cells WHERE host = ? AND study_name = ? AND key = ? AND name = ?", identity
    ).fetchone()
    row = {"study_id": study_id, "cell_id": cell_id} | _measurement_row(cell)
    measurement_id = _insert(connection, "measurements", row, "RETURNING id")
    connection.executemany(
        "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)",
        [
            (measurement_id, str(run.repeat), run.status.value, run.throughput_samples_s, run.disturbed)
            for run in cell.runs
        ],
    )
    return cell_id


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any], clause: str = "RETURNING rowid") -> int:
    """The id of the row. Column names are this module's own."""
    row_id: int
    (row_id,) = connection.execute(
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) {clause}", list(row.values())
    ).fetchone()
    return row_id


def _study_row(results: Results, database: Path) -> dict[str, Any]:
    facts, counts = results.fingerprint, results.counts
    return {
        "run_directory": stored_path(results.run_directory, database),
        "study_name": results.study_name,
        "host": results.host or "unknown",
        "night": results.study.night,
        "measured_at": measured_at(results),
        "created_at": results.created_at,
        "invocation": results.invocation,
        "device": results.device,
        "driver": facts.driver or None,
        "kernel": facts.kernel or None,
        "torch": facts.torch or None,
        "fingerprint": json.dumps(plain(facts), sort_keys=True),
        "cells": counts.cells,
        "cells_ok": counts.ok,
        "runs": counts.runs,
        "runs_ok": counts.runs_ok,
        "duration_s": results.duration_s,
    }


def _settings_text(cell: MeasuredCell) -> str:
    """In JSON; of a command, which has none of the pipeline's settings, with the metric that it is known by."""
    if not cell.model.command:
        return json.dumps(plain(cell.settings), sort_keys=True)
    own = {"device": cell.settings.device, "binding": cell.settings.binding}
    metric = {"metric": cell.metric.name, "unit": cell.metric.unit, "better": cell.metric.better} if cell.metric else {}
    return json.dumps(plain(own | metric), sort_keys=True)


def _measurement_row(cell: MeasuredCell) -> dict[str, Any]:
    metrics, latency = cell.metrics, cell.latency_us
    return {
        "outcome": cell.outcome.value,
        "reason": cell.reason,
        "throughput_samples_s": cell.throughput_samples_s,
        # Of a command its rate, see Metric.rate: nights are compared by it.
        "undisturbed_samples_s": undisturbed_throughput(cell),
        "throughput_spread": cell.spread,
        "noise_class": cell.noise_class.value,
        "latency_p50_us": latency and latency.p50,
        "latency_p99_us": latency and latency.p99,
        "h2d_bandwidth_gb_s": metrics and metrics.h2d.bandwidth_gb_s,
        "d2h_bandwidth_gb_s": metrics and metrics.d2h.bandwidth_gb_s,
        "pipeline_efficiency": metrics and metrics.pipeline_efficiency,
        "regime": metrics and metrics.regime.value,
        "design": design_of(cell),
    } | {column: undisturbed(cell, measure) for measure, column in NIGHT_COLUMNS.items()}


def _penalty_row(cells: dict[str, int], penalty: Penalty) -> dict[str, Any]:
    low, high = penalty.interval or (None, None)
    return {
        "local_cell_id": cells.get(penalty.local_cell),
        "remote_cell_id": cells.get(penalty.remote_cell),
        "penalty": penalty.penalty,
        "low": low,
        "high": high,
        "verdict": penalty.verdict and penalty.verdict.value,
        "pairs": penalty.pairs,
        "text": penalty.text,
    }


def _verdict_row(cell: NightCell) -> dict[str, Any]:
    low, high = cell.interval or (None, None)
    return {
        "verdict": cell.worst and cell.worst.value,
        "effect": cell.effect,
        "low": low,
        "high": high,
        "baseline_samples_s": cell.baseline_samples_s,
        "nights": cell.nights,
        "nightly_spread": cell.nightly_spread,
        "guarded": cell.guarded,
        "text": cell.text,
        "lost": json.dumps(plain(cell.lost)) if cell.lost else None,
    }
