"""results.csv, results.db, and the table of cells for the terminal."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from tabulate import tabulate

from bench.records.base import plain
from bench.records.results import AxisComparison, CellRun, Line, MeasuredCell, Penalty, Results
from bench.records.run import Latency, Outcome
from bench.records.study import Settings
from bench.report.text.cells import outcome_text
from bench.report.text.trust import CPU_ONLY, UNBOUND
from bench.report.view import metric_heading, value_heading
from bench.storage import whole_database
from bench.units import DASH, bandwidth, microseconds, percent, rate

if TYPE_CHECKING:
    from sqlite_utils.db import Database, Table

# 2: peers, comparisons, links; cells have all settings. 3: the crossing of a run, the design of a penalty.
SCHEMA_VERSION = 3
WORST_DIFFERS = 0.05
Row = dict[str, Any]
# Of a cell's settings, those that the tables leave out: they are alike in all cells.
_NOT_SHOWN = ("placement_threshold", "seed", "timeout_s", "warmup_samples", "window_s", "windows")
_SETTINGS = tuple(key for key in Settings.__struct_fields__ if key not in _NOT_SHOWN)
# Of a cell, all that is a single number.
_NUMBERS = tuple(field.name for field in msgspec.structs.fields(MeasuredCell) if field.type == float | None)


# The table of cells

_COLUMNS = ("cell", "outcome", "samples/s", "spread", "p50", "p99", "H2D GB/s", "D2H GB/s", "efficiency", "regime")
_MOST_METRICS = 4


def columns(cells: Iterable[MeasuredCell]) -> tuple[str, ...]:
    """Of the table of these cells: texts on the left at both ends, numbers from the third to the last but one."""
    cells = list(cells)
    if not any(cell.model.command for cell in cells):
        return _COLUMNS
    others = dict.fromkeys(
        metric_heading(name, one.unit) for cell in cells if cell.metric for name, one in cell.metric.others.items()
    )
    return ("cell", "outcome", value_heading(cells), "spread", *list(others)[:_MOST_METRICS], "placement")


def display_row(cell: MeasuredCell) -> dict[str, str]:
    """One cell as texts by column; a dash where something is unknown."""
    if cell.model.command:
        return _command_row(cell)
    metrics, latency = cell.metrics, cell.latency_us or Latency()
    rates = [metrics.h2d.bandwidth_gb_s, metrics.d2h.bandwidth_gb_s] if metrics else [None, None]
    row = (
        cell.name,
        outcome_text(cell),
        rate(cell.throughput_samples_s),
        _spread(cell),
        microseconds(latency.p50),
        worst_text(latency.p99, cell.worst_p99_us),
        *map(bandwidth, rates),
        percent(metrics.pipeline_efficiency if metrics else None),
        metrics.regime if metrics else DASH,
    )
    return dict(zip(_COLUMNS, row, strict=True))


def _command_row(cell: MeasuredCell) -> dict[str, str]:
    row = {"cell": cell.name, "outcome": outcome_text(cell), "spread": _spread(cell), "placement": _placement(cell)}
    if cell.metric:
        row |= {metric_heading(name, one.unit): rate(one.value) for name, one in cell.metric.others.items()}
    return row | {value_heading([cell]): rate(cell.value)}


def _spread(cell: MeasuredCell) -> str:
    if len(cell.values) == 1:
        return "1 run"
    return DASH if cell.spread is None else percent(cell.spread)


def _placement(cell: MeasuredCell) -> str:
    found = dict.fromkeys(str(run.placement) for run in cell.runs if run.placement)
    return ", ".join(found).replace("_", " ") or DASH


def cells_rows(cells: Sequence[MeasuredCell]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, one row a cell)"""
    heads = columns(cells)
    return heads, [tuple(display_row(cell).get(head, DASH) for head in heads) for cell in cells]


def worst_text(p99_us: float | None, worst_us: float | None) -> str:
    """The median p99 of the runs and, where it is higher by more than WORST_DIFFERS, that of the worst run."""
    text = microseconds(p99_us)
    if p99_us is None or worst_us is None or worst_us <= (1 + WORST_DIFFERS) * p99_us:
        return text
    return f"{text}, worst run {microseconds(worst_us)}"


def cells_table(results: Results, width: int | None = None) -> str:
    """The cells as aligned text for a terminal, failures with their reason below.

    width: columns of the terminal; what explains a figure is left out first, then the table is as wide as it must be.
    """
    heads, rows = cells_rows(results.cells)
    lines = _aligned(heads, rows)
    for head in _LEFT_OUT_FIRST:
        if width is None or len(lines[0]) <= width:
            break
        kept = [place for place, one in enumerate(heads) if one != head]
        heads, rows = tuple(heads[place] for place in kept), [tuple(row[place] for place in kept) for row in rows]
        lines = _aligned(heads, rows)
    failed = [cell for cell in results.cells if cell.outcome is not Outcome.OK]
    lines += [f"{cell.name}: {outcome_text(cell)}: {' '.join(cell.reason.split())}" for cell in failed]
    lines += [CPU_ONLY] * (results.device == "cpu") + [UNBOUND] * (results.binding == "none")
    return "\n".join(lines)


_LEFT_OUT_FIRST = ("efficiency", "D2H GB/s", "H2D GB/s", "p99", "regime", "outcome", "p50")


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    align = ["left" if head in _TEXTS else "right" for head in heads]
    table = tabulate(rows, heads, tablefmt="simple", colalign=align, disable_numparse=True)
    return [line.rstrip() for line in table.splitlines()]


_TEXTS = ("cell", "outcome", "regime", "placement")


# CSV


def flat_row(cell: MeasuredCell) -> Row:
    """One cell as one flat row, the same columns for every cell of a study."""
    if cell.model.command:
        return _flat_command(cell)
    metrics, latency = cell.metrics, cell.latency_us
    row = {key: getattr(cell, key) for key in ("name", "key", "gpu", "gpu_uuid", "cpu_node", "mem_node")}
    row |= {"model": cell.model.name, "heads": cell.model.heads}
    row |= {key: getattr(cell.settings, key) for key in _SETTINGS}
    row |= {
        "outcome": cell.outcome,
        "reason": cell.reason,
        **{key: getattr(cell, key) for key in _NUMBERS},
        "timed_runs": len(cell.values),
        "noise_class": cell.noise_class,
        "compile_s_least": cell.compile_s and cell.compile_s.least,
        "compile_s_most": cell.compile_s and cell.compile_s.most,
    }
    row |= {f"latency_{key}_us": latency and getattr(latency, key) for key in ("p50", "p90", "p99", "max")}
    for direction in ("h2d", "d2h"):
        copies = metrics and getattr(metrics, direction)
        row |= {f"{direction}_{key}": copies and getattr(copies, key) for key in ("bandwidth_gb_s", "bytes", "busy_ns")}
    row["compute_busy_ns"] = metrics and metrics.compute.busy_ns
    for key in ("batches", "window_ns", "overlap_ns", "exposed_copy_ns", "idle_ns", "pipeline_efficiency",
                "bottleneck", "regime"):  # fmt: skip
        row[key] = metrics and getattr(metrics, key)
    row |= {
        "bound_us": cell.bound and cell.bound.bound_us,
        "clock_host_over_trace": cell.clocks and cell.clocks.host_over_trace,
        "clock_events_over_trace": cell.clocks and cell.clocks.events_over_trace,
        "failed_run": cell.failed_run,
    }
    return {key: plain(value) for key, value in row.items()}


def _flat_command(cell: MeasuredCell) -> Row:
    own = cell.metric
    row = {key: getattr(cell, key) for key in ("name", "key", "gpu", "gpu_uuid", "cpu_node", "mem_node")}
    row |= {"variant": cell.model.name, "device": cell.settings.device, "binding": cell.settings.binding}
    row |= {"outcome": cell.outcome, "reason": cell.reason}
    row |= {"metric": own and own.name, "unit": own and own.unit, "better": own and own.better}
    row |= {"value": cell.value, "spread": cell.spread, "timed_runs": len(cell.values)}
    others = own.others if own else {}
    row |= {"other_metrics": json.dumps(plain(others)), "failed_run": cell.failed_run}
    return {key: plain(value) for key, value in row.items()}


def csv_text(cells: Sequence[MeasuredCell]) -> str:
    rows = [flat_row(cell) for cell in cells]
    return csv_table(list(rows[0]) if rows else ["name"], rows)


def csv_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A line for the names of the columns, then the rows; None is an empty cell, numbers stay as they are.

    Text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV Injection").
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_value(row.get(key)) for key in columns} for row in rows)
    return out.getvalue()


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _csv_value(value: Any) -> Any:
    if not isinstance(value, str):
        return "" if value is None else value
    # A lone carriage return would end the row.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if value.startswith(_FORMULA) else text


# SQLite

_PLACE = {"gpu": int, "cpu_node": int, "mem_node": int}
_RUN = {
    "run": str, "cell": str, "repeat": str, "status": str, "reason": str, "block": int, "position": int,
    "attempts": int, "wall_s": float, "throughput_samples_s": float, "value": float, "placement": str, "disturbed": int,
    "started_at": str, "crossing": str, "birth_cpu_node": int,
}  # fmt: skip
_PEER = {
    "run": str, **_PLACE, "status": str, "throughput_samples_s": float, "h2d_gb_s": float, "d2h_gb_s": float,
    "placement": str,
}  # fmt: skip
_PENALTY = {
    "gpu": int, "model": str, "settings": str, "local_node": int, "remote_node": int, "local_source": str,
    "local_cell": str, "remote_cell": str, "penalty": float, "low": float, "high": float, "verdict": str,
    "pairs": int, "text": str, "design": str, "births": str,
}  # fmt: skip
_COMPARISON = {
    "axis": str, "base": str, "value": str, "cell": str, "base_cell": str, **_PLACE, "model": str, "verdict": str,
    "effect": float, "low": float, "high": float, "headline": int, "pairs": int, "text": str,
}  # fmt: skip
_LINK = {"name": str, **_PLACE, "direction": str, "bytes": int, "median_gb_s": float, "count": int}
_STUDY = ("study_name", "run_directory", "created_at", "invocation", "host", "device", "binding", "duration_s")
_STUDY_AS_JSON = ("study", "fingerprint", "counts", "device_names")


def write_database(path: Path, results: Results) -> None:
    """Tables study (one row), cells, runs, peers (of runs), penalties, comparisons (along swept axes), links (one row a
    size and direction), meta (schema_version, as PRAGMA user_version).

    results: with their texts. The database is built in a temporary file, then renamed.
    """
    # It imports pandas, which takes half a second: not for the table in the terminal, which is printed at exit.
    from sqlite_utils import Database

    with whole_database(path) as temporary:
        temporary.unlink()
        database = Database(temporary)
        # The file is synced as a whole before it takes its name; what is not finished is thrown away.
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA journal_mode = OFF")
        try:
            _fill(database, results)
        finally:
            database.close()


def _fill(database: "Database", results: Results) -> None:
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    _table(database, "meta").insert({"key": "schema_version", "value": str(SCHEMA_VERSION)}, pk="key")
    study = {key: getattr(results, key) for key in _STUDY}
    study |= {key: _json(getattr(results, key)) for key in _STUDY_AS_JSON}
    _table(database, "study").insert({"id": 1, **study}, pk="id")
    cells = [flat_row(cell) | {"advice": cell.advice, "metrics": _json(cell.metrics)} for cell in results.cells]
    _table(database, "cells").insert_all(cells, pk="name")
    runs = [(cell, run) for cell in results.cells for run in cell.runs]
    _table(database, "runs").create(_RUN, pk="run", foreign_keys=[("cell", "cells", "name")])
    _table(database, "runs").insert_all(
        _columns(run, _RUN)
        | {"value": run.value, "cell": cell.name, "repeat": str(run.repeat)}
        | _crossing_columns(run)
        for cell, run in runs
    )
    _table(database, "peers").create(_PEER, foreign_keys=[("run", "runs", "run")])
    _table(database, "peers").insert_all(
        _columns(peer, _PEER) | {"run": run.run} for _, run in runs for peer in run.peers
    )
    _table(database, "penalties").create(_PENALTY)
    _table(database, "penalties").insert_all(map(_penalty_row, results.penalties))
    _table(database, "comparisons").create(_COMPARISON)
    _table(database, "comparisons").insert_all(
        _comparison_row(entry, line) for entry in results.comparisons for line in entry.lines
    )
    _table(database, "links").create(_LINK)
    _table(database, "links").insert_all(
        _columns(link, _LINK) | _columns(copy, _LINK) for link in results.links for copy in link.copies
    )


def _table(database: "Database", name: str) -> "Table":
    return database.table(name)


def _columns(record: Any, columns: Mapping[str, type]) -> Row:
    """The fields of a record that are columns."""
    return {key: plain(getattr(record, key)) for key in record.__struct_fields__ if key in columns}


def _crossing_columns(run: CellRun) -> Row:
    crossing = run.crossing
    return {
        "crossing": crossing.id if crossing else None,
        "birth_cpu_node": crossing.birth_cpu_node if crossing else None,
    }


def _penalty_row(entry: Penalty) -> Row:
    low, high = entry.interval or (None, None)
    return _columns(entry, _PENALTY) | {
        "settings": _json(entry.settings),
        "births": _json(entry.births),
        "low": low,
        "high": high,
    }


def _comparison_row(entry: AxisComparison, line: Line) -> Row:
    low, high = line.interval or (None, None)
    row = _columns(line, _COMPARISON) | {"axis": entry.axis, "cell": line.name, "base": _json(entry.base)}
    return row | {"value": _json(line.value), "low": low, "high": high}


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(plain(value), sort_keys=True)
