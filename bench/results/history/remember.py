"""What the end of a study does to the history: best effort, a locked history must not cost a study."""

from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.files import write_text
from bench.results.history.add import add_study
from bench.results.history.database import open_history
from bench.results.history.page import render
from bench.results.history.query import history_path, series


def into_history(results: dict[str, Any], output_dir: Path) -> bool:
    """Add a study to outputs/history.db and draw outputs/index.html again. If that fails: a line, and False."""
    database = history_path(output_dir)
    try:
        add_study(results, database)
        write_index(database)
    except StudyError as error:
        by_hand = f"numastudy history --add {results['run_directory']}"
        print(f"not in the history: {error}\nlater: {by_hand}; the same command tries it too", flush=True)
        return False
    return True


def write_index(database: Path) -> Path:
    """index.html beside the database. Raises StudyError."""
    with open_history(database) as history:
        text = render(series(history), database)
    path = database.parent / "index.html"
    write_text(path, text)
    return path
