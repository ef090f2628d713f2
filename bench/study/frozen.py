"""The study of a run directory, as it was frozen there; the directory may come from anywhere."""

import math
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError
from bench.shape import NAME, POSITIVE, Must, misfit

FRESH = "start the study again with --fresh"
_NAME_A_RUN = "name a folder outputs/<study name>/<date>/<time>"
_LARGEST_BYTES = 1 << 20
# An alias of an alias of an alias is small in the file and in memory, and endless for whoever walks through it.
_MOST_VALUES = 100_000
_SHAPE = {"name": Must(NAME), "repeats": POSITIVE}


def read_frozen_study(path: Path) -> dict[str, Any]:
    """study.yaml of the run directory `path`. Raise StudyError if it is not there or not what was written."""
    file = path / "study.yaml"
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise StudyError(f"the resolved study has more than {_LARGEST_BYTES} bytes", str(file), FRESH)
        # Not CSafeLoader: a thousand nested lists end the process there.
        study = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError("no study.yaml: this is not a run directory", str(path), _NAME_A_RUN) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise StudyError(f"the resolved study cannot be read: {error}", str(file), FRESH) from None
    if not isinstance(study, dict):
        raise StudyError(f"the resolved study is a {type(study).__name__}, not a mapping", str(file), FRESH)
    if _values(study, _MOST_VALUES) <= 0:
        raise StudyError("the resolved study holds what was never written there", str(file), FRESH)
    wrong = misfit(study, _SHAPE)
    if wrong:
        raise StudyError(f"the resolved study is damaged: {wrong}", str(file), FRESH)
    return study


def _values(value: Any, left: int) -> int:
    """How many of `left` values are not used up. Whoever refers to himself, and what is no JSON, uses up all."""
    if not isinstance(value, dict | list | str | int | float | None):
        return 0
    if isinstance(value, float) and not math.isfinite(value):
        return 0
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        return 0
    left -= 1
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if left <= 0:
            break
        left = _values(each, left)
    return left
