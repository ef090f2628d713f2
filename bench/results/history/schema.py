"""The tables of history.db, version by version; an older database is brought up to date when it is opened.

1: studies, cells (a point of the grid on a host), measurements (a cell in a study), runs, penalties.
2: studies.night, the date a study was measured for; verdicts, what each night was compared with and what came out.
"""

import sqlite3

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
