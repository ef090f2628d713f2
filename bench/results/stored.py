"""Results of an earlier study, wherever they lie: a run directory, results.json or results.db."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.files import read_json
from bench.results import shapes
from bench.shape import misfit
from bench.trace.database import PLAIN_TABLES, connect_read_only

Record = dict[str, Any]
_ADVICE = "name a run directory, its results.json, or its results.db, there with ?CONDITION on table cells"


def read_results(place: str) -> Record:
    """The results with the keys that a comparison needs: study_name, created_at, device, fingerprint, cells.

    place: a path; for a database also `results.db?model = 'vit32x2x128' and gpu = 0`.
    Raises StudyError for what is not there or not results.
    """
    name, _, condition = place.partition("?")
    path = Path(name)
    if path.is_dir():
        path, place = _in_directory(path), name
        if path.is_dir():
            return _built(path)
    if not path.is_file():
        raise StudyError("no results here", place, _ADVICE)
    if path.suffix == ".json":
        return _checked(read_json(path), path)
    return _from_database(path, condition)


def _in_directory(path: Path) -> Path:
    return next((path / name for name in ("results.json", "results.db") if (path / name).is_file()), path)


def _built(path: Path) -> Record:
    from bench.results.load import load
    from bench.results.results import build_results

    return build_results(load(path), invocation="compare")


def _checked(results: Any, path: Path) -> Record:
    if not isinstance(results, dict) or not isinstance(results.get("cells"), list):
        raise StudyError("this is JSON, but not results: it has no list of cells", str(path), _ADVICE)
    wrong = misfit(results, shapes.RESULTS)
    if wrong:
        raise StudyError(f"these results are damaged: {wrong}", str(path), "make the report again")
    return results


def _from_database(path: Path, condition: str) -> Record:
    try:
        with closing(connect_read_only(path)) as connection:
            # A view may never end.
            missing = {"study", "cells", "runs"}.difference(name for (name,) in connection.execute(PLAIN_TABLES))
            if missing:
                raise StudyError(f"the database has no table {', '.join(sorted(missing))}", str(path), _ADVICE)
            connection.row_factory = sqlite3.Row
            study = dict(connection.execute("select * from study").fetchone() or {})
            where = f" where {condition}" if condition else ""
            cells = [dict(row) for row in connection.execute(f"select * from cells{where}")]
            runs = [dict(row) for row in connection.execute("select * from runs")]
        fingerprint = json.loads(study.get("fingerprint") or "{}")
    except (sqlite3.Error, sqlite3.Warning, OverflowError, MemoryError, ValueError, TypeError, RecursionError) as error:
        raise StudyError(f"the database cannot be read: {error}", str(path), _ADVICE) from None
    found = {
        **{key: study.get(key) for key in ("study_name", "created_at", "device", "run_directory")},
        "fingerprint": fingerprint,
        "cells": [_cell(cell, [run for run in runs if run.get("cell") == cell.get("name")]) for cell in cells],
    }
    return _checked(found, path)


def _cell(row: Record, runs: list[Record]) -> Record:
    identity = ("name", "key", "gpu", "cpu_node", "mem_node", "outcome", "reason", "noise_class")
    return {
        **{key: row.get(key) for key in identity},
        "model": {"name": row.get("model"), "heads": row.get("heads")},
        "settings": {
            **{key: row[key] for key in ("batch_size", "dtype", "compile_model", "device") if key in row},
            "cuda_graph": bool(row.get("cuda_graph")),
        },
        "throughput_samples_s": row.get("throughput_samples_s"),
        "runs": runs,
    }
