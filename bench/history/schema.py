"""The tables of history.db, and how an older one becomes one of today."""

from bench.records.results import Measure

# 2: the first one that users have. 3: undisturbed_samples_s and the names of noise classes. 4: design. 5: latency and
# steadiness of a night. 6: what of a cell a night found slower.
SCHEMA_VERSION = 6
OLDEST_VERSION = 2
# The column of what else a night compares. It has no values in nights of an older version: the series begin later.
NIGHT_COLUMNS = {
    Measure.LATENCY_P50: "undisturbed_p50_us",
    Measure.LATENCY_P99: "undisturbed_p99_us",
    Measure.SPREAD_IN_RUNS: "undisturbed_window_spread",
}
TABLES = (
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
        duration_s REAL,
        night TEXT NOT NULL DEFAULT ''
    )""",
    "CREATE INDEX studies_by_time ON studies (host, study_name, measured_at)",
    "CREATE INDEX studies_by_night ON studies (host, study_name, night)",
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
        undisturbed_samples_s REAL,
        throughput_spread REAL,
        noise_class TEXT,
        latency_p50_us REAL,
        latency_p99_us REAL,
        h2d_bandwidth_gb_s REAL,
        d2h_bandwidth_gb_s REAL,
        pipeline_efficiency REAL,
        regime TEXT,
        design TEXT NOT NULL DEFAULT 'processes',
        undisturbed_p50_us REAL,
        undisturbed_p99_us REAL,
        undisturbed_window_spread REAL,
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
        lost TEXT,
        PRIMARY KEY (study_id, cell_id)
    )""",
    "CREATE INDEX verdicts_of_cell ON verdicts (cell_id)",
)
# By the version that they start from.
MIGRATIONS = {
    2: (
        "ALTER TABLE measurements RENAME COLUMN calm_samples_s TO undisturbed_samples_s",
        "UPDATE measurements SET noise_class = 'device-bound' WHERE noise_class = 'rest'",
    ),
    3: ("ALTER TABLE measurements ADD COLUMN design TEXT NOT NULL DEFAULT 'processes'",),
    4: tuple(f"ALTER TABLE measurements ADD COLUMN {name} REAL" for name in NIGHT_COLUMNS.values()),
    5: ("ALTER TABLE verdicts ADD COLUMN lost TEXT",),
}
