"""Where a night's verdict lies. Loads little, since luigi asks often."""

from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.shape import TEXT, Each, Must, parse
from bench.storage import read_json

OK, SLOWER = "ok", "slower"
_AGAIN = Each(Must({"cells": Must([Must(TEXT)]), "run_directory": Must(TEXT)}))
_KEYS = {"verdict", "text", "host", "studies", "inputs"}


def night_folder(output_dir: Path, night: str) -> Path:
    return output_dir / "nightly" / night


def read_verdict(folder: Path) -> dict[str, Any] | None:
    """None where there is none that can be used: the night is then judged again."""
    try:
        verdict = read_json(folder / "verdict.json")
    except (OSError, StudyError):
        return None
    return verdict if isinstance(verdict, dict) and verdict.keys() >= _KEYS else None


def second_measurements(folder: Path) -> dict[str, dict[str, Any]]:
    """What was measured a second time in a night: by label of the study, {"cells": names, "run_directory": path}."""
    try:
        found = parse((folder / "again.json").read_bytes(), _AGAIN)
    except OSError:
        return {}
    return {} if isinstance(found, str) else found
