"""The noise floor of a host: measured by SelfCheck, quoted by every later report of that host."""

from pathlib import Path
from typing import Any

from bench.files import write_json
from bench.results.measured import measured_at
from bench.results.rules import rules_of
from bench.results.selfcheck import evaluate
from bench.shape import NUMBER, TEXT, Each, Must, parse

Record = dict[str, Any]
_SHAPE = Each(Must({"spreads": [Must({"upper": Must(NUMBER), "noise_class": Must(TEXT)})]}))


def remember(results: Record, outputs: Path) -> Record | None:
    """Keep what an A/A study (cells listed twice) found. None if the study has no such cells."""
    found = evaluate(results["cells"], rules_of(results["study"]).margin)
    if not found.comparisons:
        return None
    record = found.as_json() | {"study": results["study_name"], "measured_at": measured_at(results)}
    path = _path(outputs)
    known = recall_all(outputs)
    write_json(path, known | {_host(results): record})
    return record


def recall(results: Record, outputs: Path) -> float | None:
    """The largest between-process spread (its upper 80 % bound) of the host's models that are not launch-bound."""
    record = recall_all(outputs).get(_host(results))
    spreads = [spread["upper"] for spread in (record or {}).get("spreads") or [] if spread["noise_class"] == "rest"]
    return max(spreads, default=None)


def recall_all(outputs: Path) -> Record:
    """By host; nothing where the file is not there or damaged."""
    try:
        found = parse(_path(outputs).read_bytes(), _SHAPE)
    except OSError:
        return {}
    return {} if isinstance(found, str) else found


def _host(results: Record) -> str:
    return str(results["host"].get("name") or "unknown")


def _path(outputs: Path) -> Path:
    return outputs / "noise_floor.json"
