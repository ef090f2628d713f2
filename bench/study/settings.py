"""Every key of a study, and how its value is read. Types, limits, defaults and meanings are those of the records."""

import difflib
import json
import re
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from bench.errors import StudyError
from bench.records.study import Axis, Placement, StudyMinimum, StudySettings
from bench.units import tick

_MOST_NODES = 4096
_RANGE = re.compile(r"(\d+)-(\d+)")
_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")
_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Setting:
    """A field of StudySettings. minimum, maximum: of a number. axis: None if cells of one study cannot differ in it."""

    key: str
    kind: type
    choices: tuple[str, ...]
    minimum: float
    maximum: float
    default: Any
    meaning: str
    axis: Axis | None

    @property
    def allowed(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.key == "budget":
            return "a time, as 10m, 90s or 1h30m, or seconds"
        if self.kind is int:
            return f"a whole number from {int(self.minimum)} to {int(self.maximum)}"
        return f"a number from {tick(self.minimum)} to {tick(self.maximum)}"

    def read(self, value: Any, where: str) -> Any:
        """The value in its own type. Raise StudyError with what was found and what is allowed."""
        if self.key == "compile_model":
            value = {"False": "off", "True": "default", "false": "off", "true": "default"}.get(str(value), value)
        if self.key == "budget" and isinstance(value, str):
            value = _seconds(value)
        kinds = int | float if self.kind is float else self.kind
        good = isinstance(value, kinds) and (self.kind is bool or not isinstance(value, bool))
        if good and self.choices:
            good = value in self.choices
        elif good and self.kind is not bool:
            good = self.minimum <= value <= self.maximum
        if not good:
            hint = nearest(str(value), self.choices)
            raise StudyError(f"found {shown(value)}, allowed is {self.allowed}{hint}", where)
        return self.kind(value)


def _seconds(text: str) -> float | str:
    """Of a time in hours, minutes, seconds; the text itself if it is not a time."""
    parts = _TIME.fullmatch(text.replace(" ", ""))
    if not text.strip() or not parts:
        return text
    return sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))


def _settings() -> dict[str, Setting]:
    hints = get_type_hints(StudySettings, include_extras=True)
    return {one.name: _setting(one.name, hints[one.name], one.default) for one in msgspec.structs.fields(StudySettings)}


def _setting(key: str, annotated: Any, default: Any) -> Setting:
    kind, *about = get_args(annotated)
    meta, minimum = _first(about, msgspec.Meta) or msgspec.Meta(), _first(about, StudyMinimum)
    least = minimum.value if minimum else meta.ge
    return Setting(
        key=key,
        kind=kind if isinstance(kind, type) else str,
        choices=() if isinstance(kind, type) else get_args(kind),
        minimum=0 if least is None else least,
        maximum=0 if meta.le is None else meta.le,
        default=default,
        meaning=meta.description or "",
        axis=_first(about, Axis),
    )


def _first(about: list[Any], kind: type[_Kind]) -> _Kind | None:
    return next((one for one in about if isinstance(one, kind)), None)


SETTINGS = _settings()
# What can be overridden beside the settings: the grid, in words for the command lines.
GRID = {
    "gpu_ids": "GPUs, as 0,1 or 0-3 or all",
    "numa_nodes": "nodes, as 0,2 or all; CPU node = memory node",
    "placements": "[CPU node, memory node] pairs, as '[[0,0],[0,2]]', in place of numa_nodes; on a host with one node "
    'groups of its CPUs, as \'["0-7","8-15"]\', or those that the probe finds: cpu-groups',
    "models": "models, as vit32x6x512,timm:resnet50",
    "python_path": "folders that factories are imported from, after all else, as src",
    "command": "of a study of a command: what is started, as 'PROGRAM ARGUMENT...' or a block in JSON",
    "patch_size": "patch size of every model of the study",
    "depth": "depth of every model of the study",
    "dim": "dim of every model of the study",
    "sweep": "more axes, as 'batch_size=1,10 dtype=fp32,bf16' or '{\"depth\": [2, 4]}': "
    "every value with every cell of the study",
    "axes": "in place of the study's axes; as sweep",
    "zip": "lists that vary together, as 'gpu_ids=0,1 numa_nodes=0,2' or '[{\"gpu_ids\": [0,1], ...}]'",
    "exclude": "combinations left out, as 'dtype=bf16 depth=2,4' or '[{\"dtype\": \"bf16\"}]'",
    "include": "combinations added, as batch_size=64 or '[{\"batch_size\": 64}]'; "
    "other keys have the study's own values",
}
# Every override by key, with its meaning and what is allowed.
OVERRIDES = GRID | {key: f"{setting.meaning} ({setting.allowed})" for key, setting in SETTINGS.items()}
TEXTS = ("name", "question")
PLACES = ("gpu_ids", "numa_nodes", "placements")
SHAPE = ("patch_size", "depth", "dim")
COMBINING = ("axes", "zip", "exclude", "include")
KEYS = (*TEXTS, *PLACES, "models", "python_path", "command", *COMBINING, *SETTINGS)
# Of a run directory's study.yaml: how it came about, and what is resolved for a pipeline alone.
_OF_ONE_RUN = ("binding_reason", "created_by", "night", "again_of", "cpu_groups", "left_out")
OF_THE_PIPELINE = ("profiler", "design", "measure_link")
# What the combining keys may vary. "model" stands for "models": one of them a combination.
AXIS_KEYS = (*PLACES, "model", *SHAPE, *(key for key, setting in SETTINGS.items() if setting.axis))


_LISTS = ("gpu_ids", "numa_nodes", "models", "python_path")


def parse_option(key: str, text: str) -> Any:
    """The value of a key on a command line: JSON, or in plain words.

    A word for one value; with commas for a list (0,1 or 0-3); KEY=VALUE,VALUE, several with spaces, for axes.
    """
    text = text.strip()
    value = _json_or_word(text)
    if isinstance(value, list | dict) or not_json(value):
        return value
    if key in ("sweep", *COMBINING) and text and all("=" in word for word in text.split()):
        pairs = [word.partition("=") for word in text.split()]
        axes = {axis: _listed(axis, values) for axis, _, values in pairs}
        if key in ("exclude", "include"):
            axes = {axis: values[0] if len(values) == 1 else values for axis, values in axes.items()}
        return axes if key in ("sweep", "axes") else [axes]
    return _listed(key, text) if key in _LISTS and value != "all" else value


def _listed(key: str, text: str) -> Any:
    """Values with commas; of GPUs and nodes also a range, or all."""
    if key in ("gpu_ids", "numa_nodes") and text == "all":
        return text
    parts = [part.strip() for part in text.split(",")]
    if key not in ("gpu_ids", "numa_nodes"):
        return [_json_or_word(part) for part in parts]
    return [number for part in parts for number in _ids(part)]


def _ids(part: str) -> list[Any]:
    ends = _RANGE.fullmatch(part)
    if not ends:
        return [_json_or_word(part)]
    first, last = int(ends[1]), int(ends[2])
    # What ends before it begins, or far beyond any host, is refused as it was written.
    return [*range(first, last + 1)] if first <= last < _MOST_NODES else [part]


def _json_or_word(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def nearest(word: str, words: tuple[str, ...]) -> str:
    """' (did you mean ...?)' where a name is near, else ''."""
    near = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def check_keys(keys: list[Any], where: str, allowed: tuple[str, ...] = KEYS) -> None:
    """Raise StudyError with every one that is not allowed."""
    unknown = {key: nearest(str(key), allowed) for key in keys if key not in allowed}
    if unknown:
        names = ", ".join(f"{key!r}{hint}" for key, hint in unknown.items())
        what = f"unknown key{'s' if len(unknown) > 1 else ''} {names}"
        # A long list helps only where no name is near.
        advice = "" if all(unknown.values()) else "the keys are " + ", ".join(allowed)
        raise StudyError(what, where, advice)


def not_json(value: Any) -> str:
    """What to do about a text that was meant as JSON and is not; "" for anything else."""
    meant = isinstance(value, str) and value.lstrip().startswith(("[", "{"))
    return "this is not valid JSON: check brackets and quotes; words need double quotes" if meant else ""


def read_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        found = shown(value)
        advice = not_json(value) or (f"write [{found}]" if isinstance(value, str | int | float) else "")
        raise StudyError(f"found {found}, allowed is a list", where, advice)
    if not value:
        raise StudyError("an empty list: nothing would be measured", where, "name at least one value")
    return list(value)


def read_id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST_NODES:
        raise StudyError(f"found {shown(value)}, allowed is a whole number from 0 to {_MOST_NODES - 1}", where)
    return value


def read_ids(value: Any, where: str) -> tuple[int, ...] | str:
    """Distinct ids, or "all"."""
    if value == "all":
        return "all"
    if not isinstance(value, list | tuple):
        raise StudyError(
            f"found {shown(value)}, allowed is a list, or all", where, not_json(value) or "for example [0, 1]"
        )
    ids = tuple(read_id(item, f"{where}[{index}]") for index, item in enumerate(read_list(value, where)))
    if len(set(ids)) != len(ids):
        raise StudyError(f"found {list(ids)}, which has an id twice", where, "name each once")
    return ids


def read_placement(value: Any, where: str) -> Placement:
    """[CPU node, memory node]."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise StudyError(f"found {shown(value)}, allowed is [CPU node, memory node]", where)
    return read_id(value[0], f"{where}[0]"), read_id(value[1], f"{where}[1]")


def read_placements(value: Any, where: str) -> tuple[Placement, ...]:
    pairs = [read_placement(pair, f"{where}[{index}]") for index, pair in enumerate(read_list(value, where))]
    if len(set(pairs)) != len(pairs):
        raise StudyError(f"found {shown(pairs)}, which has a placement twice", where, "name each once")
    return tuple(pairs)


def shown(value: Any) -> str:
    return json.dumps(value, default=str)


def of_run_directory(values: Any) -> Any:
    """The content of a study file; of the one in a run directory, what it says of that run is left out."""
    if not isinstance(values, dict) or "created_by" not in values:
        return values
    left_out = {*_OF_ONE_RUN, *(OF_THE_PIPELINE if values.get("command") else ("command",))}
    # Their places are numbers among them there.
    groups = values.get("cpu_groups")
    return {key: value for key, value in values.items() if key not in left_out} | (
        {"placements": groups} if groups else {}
    )
