"""CSV, results.db, terminal tables."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlite_utils

from bench.legacy.aggregate import told_outcome
from bench.records.study import OPTIONAL_IN_KEY
from bench.storage import whole_database
from bench.units import bandwidth, microseconds, percent, rate

# --- spreadsheet
# CSV that a spreadsheet opens as what it says: no text of ours or of others is run as a formula.

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A line for the names of the columns, then the rows; None is an empty cell, numbers stay as they are.

    Text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV Injection").
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(row.get(key)) for key in columns} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return "" if value is None else value
    # A lone carriage return would end the row.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if value.startswith(_FORMULA) else text


# --- tables
# results.csv, and the table of cells for the terminal.

Record = dict[str, Any]
_SETTINGS = (
    *("batch_size", "num_samples", "image_size", "memory_size_mb", "buffers", "dtype", "compile_model", "cuda_graph"),
    *OPTIONAL_IN_KEY,
    *("device", "profiler", "binding"),
)


def flat_row(cell: Record) -> Record:
    """One cell as one flat row, the same columns for every cell."""
    metrics, latency = cell["metrics"] or {}, cell["latency_us"] or {}
    row = {key: cell[key] for key in ("name", "key", "gpu", "gpu_uuid", "cpu_node", "mem_node")}
    row |= {"model": cell["model"]["name"], "heads": cell["model"].get("heads")}
    row |= {key: cell["settings"].get(key) for key in _SETTINGS}
    row |= {
        "outcome": cell["outcome"],
        "reason": cell["reason"],
        "throughput_samples_s": cell["throughput_samples_s"],
        "throughput_spread": cell["throughput_spread"],
        "timed_runs": len(cell["throughput_runs"]),
        "noise_class": cell["noise_class"],
    }
    row |= {f"compile_s_{end}": (cell["compile_s"] or {}).get(end) for end in ("least", "most")}
    row |= {f"latency_{key}_us": latency.get(key) for key in ("p50", "p90", "p99", "max")}
    for direction in ("h2d", "d2h"):
        part = metrics.get(direction) or {}
        row |= {
            f"{direction}_bandwidth_gb_s": part.get("bandwidth_gb_s"),
            f"{direction}_bytes": part.get("bytes"),
            f"{direction}_busy_ns": part.get("busy_ns"),
        }
    row["compute_busy_ns"] = (metrics.get("compute") or {}).get("busy_ns")
    row |= {
        key: metrics.get(key)
        for key in (
            "batches",
            "window_ns",
            "overlap_ns",
            "exposed_copy_ns",
            "idle_ns",
            "pipeline_efficiency",
            "bottleneck",
        )
    }
    return row | {
        "regime": metrics.get("regime"),
        "penalty_class": cell["penalty_class"],
        "bound_us": (cell["bound"] or {}).get("bound_us"),
        "efficiency_solo": cell["efficiency_solo"],
        "perturbation": cell["perturbation"],
        "clock_host_over_trace": cell["clocks"]["host_over_trace"],
        "clock_events_over_trace": cell["clocks"]["events_over_trace"],
        "failed_run": cell["failed_run"],
    }


def csv_text(cells: list[Record]) -> str:
    rows = [flat_row(cell) for cell in cells]
    return csv_table(list(rows[0]) if rows else ["name"], rows)


COLUMNS = (
    "cell",
    "outcome",
    "samples/s",
    "spread",
    "p50",
    "p99",
    "H2D GB/s",
    "D2H GB/s",
    "efficiency",
    "regime",
)


def display_row(cell: Record) -> tuple[str, ...]:
    """One cell in words, in the order of COLUMNS; what is not known is a dash."""
    metrics, latency = cell["metrics"] or {}, cell["latency_us"] or {}
    return (
        cell["name"],
        told_outcome(cell),
        rate(cell["throughput_samples_s"]),
        percent(cell["throughput_spread"])
        if cell["throughput_spread"] is not None
        else "1 run"
        if cell["throughput_runs"]
        else "–",
        microseconds(latency.get("p50")),
        microseconds(latency.get("p99")),
        bandwidth((metrics.get("h2d") or {}).get("bandwidth_gb_s")),
        bandwidth((metrics.get("d2h") or {}).get("bandwidth_gb_s")),
        percent(metrics.get("pipeline_efficiency")),
        metrics.get("regime") or "–",
    )


def cells_table(results: Record) -> str:
    """The cells as aligned text for a terminal, failures with their reason below."""
    rows = [COLUMNS, *(display_row(cell) for cell in results["cells"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    left = (0, 1, len(COLUMNS) - 1)

    def line(row: tuple[str, ...]) -> str:
        return "  ".join(
            value.ljust(width) if column in left else value.rjust(width)
            for column, (value, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()

    lines = [line(rows[0]), "  ".join("-" * width for width in widths), *map(line, rows[1:])]
    failed = [cell for cell in results["cells"] if cell["outcome"] != "ok"]
    lines += [f"{cell['name']}: {told_outcome(cell)}: {_one_line(cell['reason'])}" for cell in failed]
    if results["device"] == "cpu":
        lines.append("CPU device: no GPU was measured")
    if results["binding"] == "none":
        lines.append("nothing was bound: the nodes are labels only")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


# --- database
# results.db: one study as SQLite, ready for datasette. Made whole: built beside its place, then renamed.

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
