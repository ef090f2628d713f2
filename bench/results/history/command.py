"""What `numastudy history` prints."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.results.history.database import open_history
from bench.results.history.query import history_path, studies, with_cells

Record = dict[str, Any]
_COLUMNS = ("measured (UTC)", "study", "host", "night", "cells ok", "slower", "driver", "run directory")


def history_command(
    output_dir: Path, study: str, host: str, since: str, as_json: bool, add: Sequence[Path], page: bool
) -> str:
    """Add run directories, draw index.html again, and tell what the history holds, newest first.

    Raises StudyError for what cannot be added or read.
    """
    path = history_path(output_dir)
    if add:
        _add(add, path)
    if page or add:
        from bench.results.history.remember import write_index

        drawn = write_index(path)
        if page:
            return f"page: {drawn}"
    with open_history(path) as history:
        found = studies(history, study, host, since)
        if as_json:
            return json.dumps({"history": str(path), "studies": with_cells(history, found)}, indent=1)
    return _table(found) if found else "no study fits"


def _add(run_dirs: Sequence[Path], path: Path) -> None:
    from bench.results.history.add import add_study
    from bench.results.load import read_results

    for run_dir in run_dirs:
        results = read_results(run_dir)
        if not Path(results["run_directory"]).exists():
            # The folder was moved since its results were written: it lies where it was found.
            results |= {"run_directory": str(run_dir.resolve())}
        try:
            add_study(results, path)
        except (KeyError, TypeError) as error:
            raise StudyError(
                f"results.json is not as this version writes it: {error!r}",
                str(run_dir),
                f"make it again: numastudy report {run_dir}",
            ) from None


def _table(found: Sequence[Record]) -> str:
    rows = [_COLUMNS, *(_row(study) for study in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _row(study: Record) -> tuple[str, ...]:
    return (
        study["measured_at"][:16].replace("T", " "),
        study["study_name"],
        study["host"],
        study["night"] or "–",
        f"{study['cells_ok']} of {study['cells']}",
        str(study["slower"] or "–"),
        study["driver"] or "–",
        study["run_directory"],
    )
