"""When a study was measured, which is not when its report was made."""

from typing import Any


def measured_at(results: dict[str, Any]) -> str:
    """Start of the first run, ISO 8601 in UTC; of results without runs, when they were made."""
    started = [run["started_at"] for cell in results["cells"] for run in cell["runs"] if run.get("started_at")]
    return min(started, default=results["created_at"])
