"""history.db: schema, locking, adding a study."""

import json
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlite_utils

from bench.errors import StudyError
from bench.legacy.load import measured_at
from bench.legacy.pairs import throughputs
from bench.storage import local_copy, on_network

# --- schema
# The tables of history.db, version by version; an older database is brought up to date when it is opened.
#
# 1: studies, cells (a point of the grid on a host), measurements (a cell in a study), runs, penalties.
# 2: studies.night, the date a study was measured for; verdicts, what each night was compared with and what came out.

SCHEMA_VERSION = 2

_VERSION_1 = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)",
    """CREATE TABLE studies (
        id INTEGER PRIMARY KEY,
        run_directory TEXT NOT NULL UNIQUE,
        study_name TEXT NOT NULL,
        host TEXT NOT NULL,
        measured_at TEXT NOT NULL,
        created_at TEXT,
        invocation TEXT,
        device TEXT,
        driver TEXT,
        kernel TEXT,
        torch TEXT,
        fingerprint TEXT,
        cells INTEGER,
        cells_ok INTEGER,
        runs INTEGER,
        runs_ok INTEGER,
        duration_s REAL
    )""",
    "CREATE INDEX studies_by_time ON studies (host, study_name, measured_at)",
    """CREATE TABLE cells (
        id INTEGER PRIMARY KEY,
        host TEXT NOT NULL,
        study_name TEXT NOT NULL,
        key TEXT NOT NULL,
        name TEXT NOT NULL,
        gpu INTEGER,
        cpu_node INTEGER,
        mem_node INTEGER,
        model TEXT,
        settings TEXT,
        UNIQUE (host, study_name, key, name)
    )""",
    """CREATE TABLE measurements (
        id INTEGER PRIMARY KEY,
        study_id INTEGER NOT NULL REFERENCES studies (id) ON DELETE CASCADE,
        cell_id INTEGER NOT NULL REFERENCES cells (id),
        outcome TEXT NOT NULL,
        reason TEXT,
        throughput_samples_s REAL,
        calm_samples_s REAL,
        throughput_spread REAL,
        noise_class TEXT,
        latency_p50_us REAL,
        latency_p99_us REAL,
        h2d_bandwidth_gb_s REAL,
        d2h_bandwidth_gb_s REAL,
        pipeline_efficiency REAL,
        regime TEXT,
        UNIQUE (study_id, cell_id)
    )""",
    "CREATE INDEX measurements_of_cell ON measurements (cell_id)",
    """CREATE TABLE runs (
        measurement_id INTEGER NOT NULL REFERENCES measurements (id) ON DELETE CASCADE,
        repeat TEXT NOT NULL,
        status TEXT NOT NULL,
        throughput_samples_s REAL,
        disturbed INTEGER,
        PRIMARY KEY (measurement_id, repeat)
    )""",
    """CREATE TABLE penalties (
        id INTEGER PRIMARY KEY,
        study_id INTEGER NOT NULL REFERENCES studies (id) ON DELETE CASCADE,
        local_cell_id INTEGER REFERENCES cells (id),
        remote_cell_id INTEGER REFERENCES cells (id),
        penalty REAL,
        low REAL,
        high REAL,
        verdict TEXT,
        pairs INTEGER,
        text TEXT
    )""",
    "CREATE INDEX penalties_of_study ON penalties (study_id)",
)
_VERSION_2 = (
    "ALTER TABLE studies ADD COLUMN night TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX studies_by_night ON studies (host, study_name, night)",
    """CREATE TABLE verdicts (
        study_id INTEGER NOT NULL REFERENCES studies (id) ON DELETE CASCADE,
        cell_id INTEGER NOT NULL REFERENCES cells (id),
        verdict TEXT,
        effect REAL,
        low REAL,
        high REAL,
        baseline_samples_s REAL,
        nights INTEGER,
        nightly_spread REAL,
        guarded INTEGER,
        text TEXT,
        since TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (study_id, cell_id)
    )""",
    "CREATE INDEX verdicts_of_cell ON verdicts (cell_id)",
)
_STEPS = (_VERSION_1, _VERSION_2)


def version_of(connection: sqlite3.Connection) -> int:
    """0 for a new database."""
    return connection.execute("PRAGMA user_version").fetchone()[0]


def migrate(connection: sqlite3.Connection) -> None:
    """Apply the steps that are missing, inside the transaction that the caller has begun."""
    for statements in _STEPS[version_of(connection) :]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(
        "INSERT INTO meta VALUES ('schema_version', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [str(SCHEMA_VERSION)],
    )
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


# --- database
# history.db: every finished study of an output directory, in one database that several programs may use at once.

BUSY_S = 30.0


class HistoryError(StudyError):
    """The history cannot be used; the studies themselves are not touched by that."""


@contextmanager
def open_history(path: Path, create: bool = False, busy_s: float = BUSY_S) -> Iterator[sqlite_utils.Database]:
    """The history at `path`, brought to the current schema. Wait up to busy_s for other writers.

    Raise HistoryError if it is not there (unless `create`), damaged, of a newer schema, or locked for too long.
    """
    if not create and not path.is_file():
        raise HistoryError(
            "there is no history yet", str(path), "finish a study, or add one: numastudy history --add RUN_DIR"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with local_copy(path, busy_s) if on_network(path) else nullcontext(path) as place:
            # Autocommit: the only transactions are the ones begun here, and they begin as writers.
            connection = sqlite3.connect(place, timeout=busy_s, isolation_level=None)
            try:
                connection.execute("PRAGMA foreign_keys = ON")
                _bring_up_to_date(connection, path, busy_s)
                yield sqlite_utils.Database(connection)
            finally:
                connection.close()
    except sqlite3.Error as error:
        raise _told(error, path, busy_s) from None
    except TimeoutError:
        raise _told(sqlite3.OperationalError("locked"), path, busy_s) from None
    except OSError as error:
        raise HistoryError(f"cannot use the history: {error.strerror}", str(path), "mend the permissions") from None


@contextmanager
def writing(database: sqlite_utils.Database) -> Iterator[sqlite3.Connection]:
    """One transaction that has the write lock from its start: two writers wait for each other, and never fail half-way.

    Insert with the connection, not with sqlite-utils' insert, which before its version 4 ends the transaction.
    """
    connection = database.conn
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _bring_up_to_date(connection: sqlite3.Connection, path: Path, busy_s: float) -> None:
    version = version_of(connection)
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise HistoryError(
            f"the history has schema version {version}, this program knows up to {SCHEMA_VERSION}",
            str(path),
            "use the newer version of numastudy that wrote it, or another --output-dir",
        )
    _choose_journal(connection, path, busy_s)
    with writing(sqlite_utils.Database(connection)):
        # Another program may have done it while this one waited for the lock.
        if version_of(connection) < SCHEMA_VERSION:
            migrate(connection)


def _choose_journal(connection: sqlite3.Connection, path: Path, busy_s: float) -> None:
    """WAL, so that readers and a writer do not wait for each other; it needs memory shared by all its users, which
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


def _told(error: sqlite3.Error, path: Path, busy_s: float) -> HistoryError:
    if "locked" in str(error) or "busy" in str(error):
        return HistoryError(
            f"another program has held the history for {busy_s:g} s", str(path), "close that program, then try again"
        )
    return HistoryError(
        f"the history cannot be used: {error}",
        str(path),
        "if it is damaged, move it away and add the run directories again: numastudy history --add RUN_DIR",
    )


# --- add
# One study into the history, once for each run directory however often it is added.

Record = dict[str, Any]


def add_study(results: Record, database: Path, busy_s: float = BUSY_S) -> int:
    """Add results.json of a study, or replace what its run directory gave before. Returns the study's id.

    database: outputs/history.db; made, or brought to the current schema, if need be. Run directories below its folder
    are kept relative to it, so that the whole folder can be moved.
    Raises HistoryError if the database cannot be used, or is locked for longer than busy_s.
    """
    with open_history(database, create=True, busy_s=busy_s) as history, writing(history) as connection:
        study = _study_row(results, database)
        study_id = _replace_study(connection, study)
        cells = {cell["name"]: _add_cell(connection, study, study_id, cell) for cell in results["cells"]}
        connection.executemany(
            "INSERT INTO penalties (study_id, local_cell_id, remote_cell_id, penalty, low, high, verdict, pairs, text) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_penalty_row(study_id, cells, penalty) for penalty in results.get("penalties") or []],
        )
        return study_id


def stored_path(run_directory: str, database: Path) -> str:
    """Relative to the database's folder where it lies below it."""
    path, folder = Path(run_directory).resolve(), database.resolve().parent
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _study_row(results: Record, database: Path) -> Record:
    facts, counts = results.get("fingerprint") or {}, results.get("counts") or {}
    return {
        "run_directory": stored_path(results["run_directory"], database),
        "study_name": results["study_name"],
        "host": (results.get("host") or {}).get("name") or "unknown",
        "night": (results.get("study") or {}).get("night") or "",
        "measured_at": measured_at(results),
        "created_at": results["created_at"],
        "invocation": results.get("invocation"),
        "device": results.get("device"),
        **{key: facts.get(key) for key in ("driver", "kernel", "torch")},
        "fingerprint": json.dumps(facts, sort_keys=True),
        "cells": counts.get("cells"),
        "cells_ok": counts.get("ok"),
        "runs": counts.get("runs"),
        "runs_ok": counts.get("runs_ok"),
        "duration_s": results.get("duration_s"),
    }


def _replace_study(connection: sqlite3.Connection, row: Record) -> int:
    """The id stays the same, since others may refer to it; what was measured is replaced."""
    columns = ", ".join(row)
    changed = ", ".join(f"{key} = excluded.{key}" for key in row)
    (study_id,) = connection.execute(
        f"INSERT INTO studies ({columns}) VALUES ({', '.join('?' * len(row))}) "
        f"ON CONFLICT (run_directory) DO UPDATE SET {changed} RETURNING id",
        list(row.values()),
    ).fetchone()
    connection.execute("DELETE FROM measurements WHERE study_id = ?", [study_id])
    connection.execute("DELETE FROM penalties WHERE study_id = ?", [study_id])
    return study_id


def _add_cell(connection: sqlite3.Connection, study: Record, study_id: int, cell: Record) -> int:
    identity = [study["host"], study["study_name"], cell["key"], cell["name"]]
    values = [cell["gpu"], cell["cpu_node"], cell["mem_node"], cell["model"]["name"]]
    connection.execute(
        "INSERT OR IGNORE INTO cells (host, study_name, key, name, gpu, cpu_node, mem_node, model, settings) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [*identity, *values, json.dumps(cell["settings"], sort_keys=True)],
    )
    (cell_id,) = connection.execute(
        "SELECT id FROM cells WHERE host = ? AND study_name = ? AND key = ? AND name = ?", identity
    ).fetchone()
    row = _measurement_row(cell) | {"study_id": study_id, "cell_id": cell_id}
    (measurement_id,) = connection.execute(
        f"INSERT INTO measurements ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) RETURNING id",
        list(row.values()),
    ).fetchone()
    connection.executemany(
        "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)",
        [
            (
                measurement_id,
                str(run["repeat"]),
                run["status"],
                run["throughput_samples_s"],
                bool(run.get("disturbed")),
            )
            for run in cell["runs"]
        ],
    )
    return cell_id


def _measurement_row(cell: Record) -> Record:
    metrics, latency = cell.get("metrics") or {}, cell.get("latency_us") or {}
    return {
        "outcome": cell["outcome"],
        "reason": cell.get("reason") or "",
        "throughput_samples_s": cell.get("throughput_samples_s"),
        "calm_samples_s": calm_throughput(cell),
        "throughput_spread": cell.get("throughput_spread"),
        "noise_class": cell.get("noise_class"),
        "latency_p50_us": latency.get("p50"),
        "latency_p99_us": latency.get("p99"),
        "h2d_bandwidth_gb_s": (metrics.get("h2d") or {}).get("bandwidth_gb_s"),
        "d2h_bandwidth_gb_s": (metrics.get("d2h") or {}).get("bandwidth_gb_s"),
        "pipeline_efficiency": metrics.get("pipeline_efficiency"),
        "regime": metrics.get("regime"),
    }


def calm_throughput(cell: Record) -> float | None:
    """Samples/s, the median of the runs that nothing disturbed (of all, where fewer than two are left).

    One night stands for itself: of its runs, one that went wrong should not make it an outlier.
    """
    rates = list(throughputs(cell).values())
    return statistics.median(rates) if rates else None


def _penalty_row(study_id: int, cells: dict[str, int], penalty: Record) -> tuple[Any, ...]:
    low, high = penalty.get("interval") or (None, None)
    return (
        study_id,
        cells.get(penalty["local_cell"]),
        cells.get(penalty["remote_cell"]),
        penalty.get("penalty"),
        low,
        high,
        penalty.get("verdict"),
        penalty.get("pairs"),
        penalty.get("text"),
    )
