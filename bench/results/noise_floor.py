"""The noise floor of a host: measured by SelfCheck, quoted by every later report of that host."""

from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.files import read_json, write_json
from bench.results.selfcheck import evaluate

Record = dict[str, Any]


def remember(results: Record, outputs: Path) -> Record | None:
    """Keep what an A/A study (cells listed twice) found. None if the study has no such cells."""
    found = evaluate(results["cells"])
    if not found.comparisons:
        return None
    record = found.as_json() | {"study": results["study_name"], "measured_at": results["created_at"]}
    path = _path(outputs)
    known = recall_all(outputs)
    write_json(path, known | {_host(results): record})
    return record


def recall(results: Record, outputs: Path) -> float | None:
    """The largest between-process spread (its upper 80 % bound) of the host's models that are not launch-bound."""
    record = recall_all(outputs).get(_host(results))
    spreads = [spread["upper"] for spread in (record or {}).get("spreads", []) if spread["noise_class"] == "rest"]
    return max(spreads, default=None)


def recall_all(outputs: Path) -> Record:
    try:
        return read_json(_path(outputs))
    except (OSError, StudyError):
        return {}


def _host(results: Record) -> str:
    return str(results["host"].get("name") or "unknown")


def _path(outputs: Path) -> Path:
    return outputs / "noise_floor.json"
