"""What a run directory stands on, its study and its grid, as they were frozen; the directory may come from anywhere."""

import math
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError
from bench.shape import COUNT, FLAG, NAME, NUMBER, POSITIVE, TEXT, Kind, Must, misfit
from bench.study.cell import CELL_SETTINGS
from bench.study.order import TRACED
from bench.study.settings import SETTINGS, Setting

FRESH = "start the study again with --fresh"
_NAME_A_RUN = "name a folder outputs/<study name>/<date>/<time>"
_NO_RUN = "no {}: this is not a run directory"
_LARGEST_BYTES = 1 << 20
# An alias of an alias of an alias is small in the file and in memory, and endless for whoever walks through it.
_MOST_VALUES = 100_000


def _kind(setting: Setting) -> Kind:
    if setting.kind is int:
        return POSITIVE if setting.minimum > 0 else COUNT
    return {float: NUMBER, bool: FLAG, str: TEXT}[setting.kind]


_SHAPE = {key: _kind(setting) for key, setting in SETTINGS.items()} | {"name": Must(NAME), "question": TEXT}

REPEAT = Kind(f"a repeat or {TRACED!r}", lambda value: value == TRACED or (COUNT.fits(value) and 0 < value < 10**6))
MODEL = {"name": Must(TEXT), "heads": NUMBER, "patch_size": NUMBER, "depth": NUMBER, "dim": NUMBER}
CELL = {
    "name": Must(NAME), "key": TEXT, "group": TEXT, "reason": TEXT, "gpu": COUNT, "gpu_uuid": TEXT,
    "cpu_node": COUNT, "mem_node": COUNT, "model": Must(MODEL), **{key: _kind(SETTINGS[key]) for key in CELL_SETTINGS},
    "batch_size": Must(POSITIVE),
}  # fmt: skip
SLOT = {"cell": Must(NAME), "repeat": Must(REPEAT), "block": Must(COUNT), "position": Must(COUNT), "group": TEXT}
GRID = {"cells": Must([Must(CELL)]), "order": Must([Must(SLOT)])}


def read_frozen_study(path: Path) -> dict[str, Any]:
    """study.yaml of the run directory `path`. Raise StudyError if it is not there or not what was written."""
    file = path / "study.yaml"
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise StudyError(f"the resolved study has more than {_LARGEST_BYTES} bytes", str(file), FRESH)
        # Not CSafeLoader: a thousand nested lists end the process there.
        study = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StudyError(_NO_RUN.format("study.yaml"), str(path), _NAME_A_RUN) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise StudyError(f"the resolved study cannot be read: {error}", str(file), FRESH) from None
    if not isinstance(study, dict):
        raise StudyError(f"the resolved study is a {type(study).__name__}, not a mapping", str(file), FRESH)
    if not _is_plain(study):
        raise StudyError("the resolved study holds what was never written there", str(file), FRESH)
    wrong = misfit(study, _SHAPE)
    if wrong:
        raise StudyError(f"the resolved study is damaged: {wrong}", str(file), FRESH)
    # Settings that came after it was frozen.
    return {key: setting.default for key, setting in SETTINGS.items() if key not in study} | study


def check_run_directory(path: Path) -> None:
    """Raise StudyError for a folder that is none, and was not found damaged but named by mistake."""
    if (path / "cluster.json").is_file():
        advice = f"its run directories are hosts/<host>; numastudy status --report {path} reports on all of them"
        raise StudyError("the folder of a study on many hosts, not a run directory", str(path), advice)
    if not (path / "study.yaml").exists():
        raise StudyError(_NO_RUN.format("study.yaml"), str(path), _NAME_A_RUN)
    if not (path / "grid.json").exists():
        # It is written last. A call that was killed before is taken up by the next one.
        advice = f"{_NAME_A_RUN}; if the start of the study was cut short, the same command goes on from here"
        raise StudyError(_NO_RUN.format("grid.json"), str(path), advice)


def _is_plain(value: Any) -> bool:
    """Nothing but JSON, and an end to it: whoever refers to himself has none."""
    waiting, seen = [value], 0
    while waiting and seen < _MOST_VALUES:
        one, seen = waiting.pop(), seen + 1
        if isinstance(one, dict) and all(isinstance(key, str) for key in one):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        elif not isinstance(one, str | int | None) and not (isinstance(one, float) and math.isfinite(one)):
            return False
    return not waiting
