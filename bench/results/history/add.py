"""One study into the history, once for each run directory however often it is added."""

import json
import sqlite3
import statistics
from pathlib import Path
from typing import Any

from bench.results.history.database import BUSY_S, open_history, writing
from bench.results.measured import measured_at
from bench.results.pairs import throughputs

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
