"""results.db: one study as SQLite, ready for datasette. Made whole: built beside its place, then renamed."""

import json
from pathlib import Path
from typing import Any

import sqlite_utils

from bench.files import whole_file
from bench.results.tables import flat_row

SCHEMA_VERSION = 1
Record = dict[str, Any]


def write_database(path: Path, results: Record) -> None:
    """Tables study (one row), cells, runs, penalties, meta (schema_version, as PRAGMA user_version)."""
    with whole_file(path) as temporary:
        temporary.unlink()
        database = sqlite_utils.Database(temporary)
        try:
            _fill(database, results)
        finally:
            database.close()


def _fill(database: sqlite_utils.Database, results: Record) -> None:
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    database["meta"].insert({"key": "schema_version", "value": str(SCHEMA_VERSION)}, pk="key")
    study = {
        key: results[key]
        for key in (
            "study_name",
            "run_directory",
            "created_at",
            "invocation",
            "device",
            "binding",
            "duration_s",
        )
    }
    plain = {key: _text(results[key]) for key in ("study", "host", "fingerprint", "counts", "device_names")}
    database["study"].insert({"id": 1, **study, **plain}, pk="id")
    database["cells"].insert_all(
        ({**flat_row(cell), "advice": cell["advice"], "metrics": _text(cell["metrics"])} for cell in results["cells"]),
        pk="name",
    )
    database["runs"].create(
        {
            "run": str,
            "cell": str,
            "repeat": str,
            "status": str,
            "reason": str,
            "block": int,
            "position": int,
            "attempts": int,
            "wall_s": float,
            "throughput_samples_s": float,
            "placement": str,
            "disturbed": int,
            "started_at": str,
        },
        pk="run",
        foreign_keys=[("cell", "cells", "name")],
    )
    database["runs"].insert_all(
        {"cell": cell["name"], **run, "repeat": str(run["repeat"])} for cell in results["cells"] for run in cell["runs"]
    )
    columns = {
        "gpu": int,
        "model": str,
        "settings": str,
        "local_node": int,
        "remote_node": int,
        "local_source": str,
        "local_cell": str,
        "remote_cell": str,
        "penalty": float,
        "low": float,
        "high": float,
        "verdict": str,
        "pairs": int,
        "text": str,
    }
    database["penalties"].create(columns)
    database["penalties"].insert_all(map(_penalty_row, results["penalties"]))


def _penalty_row(penalty: Record) -> Record:
    low, high = penalty.get("interval") or (None, None)
    names = (
        "gpu",
        "local_node",
        "remote_node",
        "local_source",
        "local_cell",
        "remote_cell",
        "penalty",
        "verdict",
        "text",
    )
    row = {name: penalty.get(name) for name in names}
    pairs = penalty.get("pairs")
    return row | {
        "model": _text(penalty.get("model")),
        "settings": _text(penalty.get("settings")),
        "low": low,
        "high": high,
        "pairs": len(pairs) if isinstance(pairs, list) else pairs,
    }


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
