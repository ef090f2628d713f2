"""results.db: one study as SQLite, ready for datasette. Made whole: built beside its place, then renamed."""

import json
from pathlib import Path
from typing import Any

import sqlite_utils

from bench.databases import whole_database
from bench.results.tables import flat_row

# 2: peers, comparisons, links; cells have all settings
SCHEMA_VERSION = 2
Record = dict[str, Any]
_PLACE = {"gpu": int, "cpu_node": int, "mem_node": int}
_PEER = {
    "run": str, **_PLACE, "status": str, "throughput_samples_s": float, "h2d_gb_s": float, "d2h_gb_s": float,
    "placement": str,
}  # fmt: skip
_COMPARISON = {
    "axis": str, "base": str, "value": str, "cell": str, "base_cell": str, **_PLACE, "model": str, "verdict": str,
    "effect": float, "low": float, "high": float, "headline": int, "pairs": int, "text": str,
}  # fmt: skip
_LINK = {"name": str, **_PLACE, "direction": str, "bytes": int, "median_gb_s": float, "count": int}


def write_database(path: Path, results: Record) -> None:
    """Tables study (one row), cells, runs, peers (of runs), penalties, comparisons (along swept axes), links (one row a
    size and direction), meta (schema_version, as PRAGMA user_version)."""
    with whole_database(path) as temporary:
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
    runs = [(cell, run) for cell in results["cells"] for run in cell["runs"]]
    database["runs"].insert_all(
        {"cell": cell["name"], **_without(run, "peers"), "repeat": str(run["repeat"])} for cell, run in runs
    )
    database["peers"].create(_PEER, foreign_keys=[("run", "runs", "run")])
    database["peers"].insert_all({"run": run["run"], **peer} for _, run in runs for peer in run["peers"])
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
    database["comparisons"].create(_COMPARISON)
    database["comparisons"].insert_all(
        _comparison_row(entry, line) for entry in results["comparisons"] for line in entry["lines"]
    )
    database["links"].create(_LINK)
    database["links"].insert_all(
        {key: link[key] for key in ("name", "gpu", "cpu_node", "mem_node")} | copy
        for link in results["links"]
        for copy in link["copies"]
    )


def _comparison_row(entry: Record, line: Record) -> Record:
    low, high = line["interval"] or (None, None)
    kept = ("gpu", "cpu_node", "mem_node", "model", "base_cell", "verdict", "effect", "pairs", "text")
    row = {"axis": entry["axis"], "cell": line["name"], "base": _text(entry["base"]), "value": _text(line["value"])}
    return row | {key: line[key] for key in kept} | {"low": low, "high": high, "headline": int(line["headline"])}


def _without(record: Record, key: str) -> Record:
    return {name: value for name, value in record.items() if name != key}


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
    return row | {
        "model": _text(penalty.get("model")),
        "settings": _text(penalty.get("settings")),
        "low": low,
        "high": high,
        "pairs": penalty.get("pairs"),
    }


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
