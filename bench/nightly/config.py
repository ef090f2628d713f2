"""nightly.yaml: which studies a night measures, what they are compared with, and what is run on a regression."""

import datetime
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.storage import read_regular
from bench.study.load import shipped_names, study_path
from bench.study.settings import nearest
from bench.study.yaml_text import LARGEST_FILE_BYTES, parse_yaml

STUDIES = ("NumaStudy", "QuickTest", "ScalingStudy", "SelfCheck")
_KEYS = ("studies", "baseline_nights", "since", "confirm_next_night", "on_regression")
_ENTRY_KEYS = ("study", "baseline", "needs_gpu")
NIGHTS = 28


@dataclass(frozen=True)
class Entry:
    """One study of a night. study: one of STUDIES, or "" if config_file names a study file.

    overrides: keys of the study, checked by the study itself. baseline: a pinned run directory. needs_gpu: measured
    on device cuda only, and left out if the host has no GPU.
    """

    study: str
    config_file: Path | None
    overrides: dict[str, Any]
    baseline: Path | None
    needs_gpu: bool = False

    @property
    def label(self) -> str:
        name = self.study or str(self.config_file)
        changed = ", ".join(f"{key}={value}" for key, value in self.overrides.items())
        return f"{name} ({changed})" if changed else name


@dataclass(frozen=True)
class Nightly:
    """nights: number of nights in the baseline. since: nights before this date do not count (ISO, or "").

    confirm_next_night: whether a loss is reported only if the next night finds it too. on_regression: a command with
    its arguments, run when something is wrong.
    """

    studies: tuple[Entry, ...]
    nights: int = NIGHTS
    since: str = ""
    confirm_next_night: bool = False
    on_regression: tuple[str, ...] = ()


def read_nightly(path: Path) -> Nightly:
    """Raise StudyError with the file, the key, what was found and what is allowed."""
    try:
        values = parse_yaml(read_regular(path, LARGEST_FILE_BYTES).decode(), path)
    except OSError as error:
        raise StudyError(
            f"cannot read the list of nightly studies: {error.strerror}", str(path), "--config-file FILE"
        ) from None
    except ValueError as error:
        raise StudyError(f"not valid YAML: {error}", str(path)) from None
    if not isinstance(values, dict):
        raise StudyError("the file is not a mapping with the key studies", str(path), "write studies: [QuickTest]")
    for key in values:
        if key not in _KEYS:
            raise StudyError(f"unknown key {key!r}{nearest(str(key), _KEYS)}", str(path), f"the keys are {_KEYS}")
    return Nightly(
        studies=_read_studies(values.get("studies"), path),
        nights=_read_nights(values.get("baseline_nights", NIGHTS), path),
        since=_read_date(values.get("since"), path),
        confirm_next_night=_read_flag(values.get("confirm_next_night", False), f"{path}: confirm_next_night"),
        on_regression=_read_command(values.get("on_regression"), path),
    )


def _read_studies(value: Any, path: Path) -> tuple[Entry, ...]:
    where = f"{path}: studies"
    if not isinstance(value, list) or not value:
        raise StudyError(f"found {value!r}, allowed is a list of studies", where, "name at least one, as QuickTest")
    entries = tuple(_read_entry(item, f"{where}[{index}]", path.parent) for index, item in enumerate(value))
    labels = [entry.label for entry in entries]
    for label in labels:
        if labels.count(label) > 1:
            raise StudyError(f"{label} is listed twice", where, "list it once; repeats are a key of the study")
    return entries


def _read_entry(value: Any, where: str, folder: Path) -> Entry:
    values = {"study": value} if isinstance(value, str) else value
    if not isinstance(values, dict) or not isinstance(values.get("study"), str):
        raise StudyError(
            f"found {value!r}, allowed is a name, or a mapping with the key study",
            where,
            f"one of {', '.join(STUDIES)}, or a study file",
        )
    name, baseline = values["study"], values.get("baseline")
    file = None
    if name not in STUDIES:
        file = folder / name
        if not file.is_file() and name in shipped_names():
            file = study_path(name)
        if not file.is_file():
            known = (*STUDIES, *shipped_names())
            raise StudyError(
                f"no study is named {name!r}{nearest(name, known)}, and there is no such file",
                where,
                f"one of {', '.join(known)}, or a study file, relative to {folder}",
            )
    if baseline is not None and not (folder / str(baseline)).is_dir():
        raise StudyError(
            f"there is no run directory {baseline!r}", f"{where}.baseline", f"name one, relative to {folder}"
        )
    needs_gpu = _read_flag(values.get("needs_gpu", False), f"{where}.needs_gpu")
    overrides = {key: item for key, item in values.items() if key not in _ENTRY_KEYS}
    if needs_gpu:
        overrides = {"device": "cuda"} | overrides
    return Entry("" if file else name, file, overrides, None if baseline is None else folder / str(baseline), needs_gpu)


def _read_flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise StudyError(f"found {value!r}, allowed is true or false", where)
    return value


def _read_nights(value: Any, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 5 <= value <= 3650:
        raise StudyError(f"found {value!r}, allowed is a whole number from 5 to 3650", f"{path}: baseline_nights")
    return value


def _read_date(value: Any, path: Path) -> str:
    try:
        return "" if value is None else datetime.date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise StudyError(f"found {value!r}, allowed is a date as 2026-11-22", f"{path}: since") from None


def _read_command(value: Any, path: Path) -> tuple[str, ...]:
    where = f"{path}: on_regression"
    if isinstance(value, str):
        # It is not split here: there is no shell, and the user should see exactly what is run.
        raise StudyError("found a text, allowed is a list of arguments", where, f"write {shlex.split(value)}")
    if value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return tuple(value or ())
    raise StudyError(f"found {value!r}, allowed is a list of texts", where, "for example [mail, -s, slower, me]")
