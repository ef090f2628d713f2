"""Read a study file or shipped study with overrides."""

import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError
from bench.shape import TEXT
from bench.study.axes import (
    FOLDED,
    Axes,
    Combination,
    axis_key,
    check_once,
    combinations,
    named,
    read_axes,
    read_crossed,
    reshaped,
)
from bench.study.constraints import contradiction, refuse
from bench.study.model import Model, check_model, parse_model
from bench.study.settings import (
    SETTINGS,
    SHAPE,
    Placement,
    check_keys,
    nearest,
    read_id,
    read_ids,
    read_list,
    read_placements,
)

# --- shipped
# The study files that ship, found by name.

# The studies that are tasks of their own.
TASKS = {
    "NumaStudy": "numa_locality_study",
    "QuickTest": "quick_test",
    "ScalingStudy": "model_scaling_study",
    "SelfCheck": "self_check",
}
# A task over several studies, and their list.
NIGHTLY = "NightlySweep"
_NO_STUDIES = ("nightly",)
_LARGEST_FILE_BYTES = 1 << 20


def configs_folder() -> Path:
    """configs/ of a checkout, else where pip put it."""
    checkout = Path(__file__).resolve().parents[2] / "configs"
    return checkout if checkout.is_dir() else Path(sysconfig.get_path("data")) / "share/numastudy/configs"


def shipped_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in configs_folder().glob("*.yaml") if path.stem not in _NO_STUDIES))


def study_path(name: Path | str) -> Path:
    """The file of a study: of the task of that name, or `name` itself, or the one of that name that ships.

    Raise StudyError if there is neither, or if it cannot be told.
    """
    path, stem = Path(name), str(name).removesuffix(".yaml")
    if name in TASKS:
        return configs_folder() / f"{TASKS[str(name)]}.yaml"
    try:
        is_file, is_there = path.is_file(), path.exists()
    except OSError as error:  # too long a name, or a folder that may not be looked into
        raise StudyError(f"cannot read the study file: {error.strerror}", str(name)) from None
    if not is_file and stem in shipped_names():
        return configs_folder() / f"{stem}.yaml"
    if not is_there and name == NIGHTLY:
        advice = f"`cat {configs_folder() / 'nightly.yaml'}` shows its list; name one of them here, as QuickTest"
        raise StudyError(f"{NIGHTLY} is a task over several studies, and itself none", NIGHTLY, advice)
    if not is_there:
        raise StudyError(
            f"there is no study file of that name{nearest(stem, (*TASKS, *shipped_names()))}",
            str(name),
            "the studies that ship are " + ", ".join(shipped_names()),
        )
    return path


def read_yaml(path: Path) -> Any:
    """The content of a study file. Raise StudyError for what is none."""
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise StudyError(f"larger than {_LARGEST_FILE_BYTES} bytes; that is no study file", str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        advice = "the studies that ship are " + ", ".join(shipped_names())
        raise StudyError(f"cannot read the study file: {error.strerror}", str(path), advice) from None
    except UnicodeDecodeError as error:
        raise StudyError(f"not a text file: {error.reason} at byte {error.start}", str(path)) from None
    if re.search(r"(?m)(^|[\s\[{,:-])[&*][A-Za-z0-9_]", text):
        # An alias of an alias of an alias fills the memory; a study needs none.
        raise StudyError("YAML anchors and aliases are not read", str(path), "write the values out")
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> Any:
    """The content of a file that a user wrote. Raise StudyError for what is no YAML, and for a key given twice."""
    try:
        return yaml.load(text, _EachKeyOnce)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        if isinstance(error, _GivenTwice):
            raise StudyError(str(error.problem), where, "keep one of them, with what belongs to both") from None
        raise StudyError(f"not valid YAML: {getattr(error, 'problem', error)}", where) from None


class _GivenTwice(yaml.MarkedYAMLError):
    pass


class _EachKeyOnce(yaml.SafeLoader):
    """Of a key that is given twice yaml itself takes the last, and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here each mapping passes once, as it was written: what `<<` brings in, and may give again, is not in it yet.
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            known_as = key.tag, key.value
            if known_as in first:
                problem = f"the key {key.value} is given twice, first in line {first[known_as]}"
                raise _GivenTwice(problem=problem, problem_mark=key.start_mark)
            first[known_as] = key.start_mark.line + 1
        return node


# --- study
# A study: what to measure. Read from YAML, changed by overrides, checked as a whole before anything runs.

__all__ = ["Study", "configs_folder", "load_study", "read_study"]
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
Values = dict[str, Any]
At = Callable[[str], str]


@dataclass(frozen=True)
class Study:
    """gpu_ids: indexes in PCI bus order; placements: (CPU node, memory node); either may be "all".

    settings: the study's own values; axes: what it varies beside GPUs, placements and models.
    """

    name: str
    question: str
    gpu_ids: tuple[int, ...] | str
    placements: tuple[Placement, ...] | str
    models: tuple[Model, ...]
    settings: Values
    axes: Axes = field(default_factory=Axes)

    def as_json(self) -> Values:
        return {
            "name": self.name,
            "question": self.question,
            "gpu_ids": _plain(self.gpu_ids),
            "placements": _plain(self.placements),
            "models": [{"model": model.name, "heads": model.heads} for model in self.models],
            **self.axes.as_json(),
            **self.settings,
        }


def load_study(path: Path | str, overrides: Values | None = None) -> Study:
    """Read and check a study file, or one that ships by its name.

    overrides: keys of a study; patch_size, depth, dim of its models; sweep: {key: values}, more axes.
    Raise StudyError with file, key path, what was found and what is allowed.
    """
    found = study_path(path)
    return read_study(read_yaml(found), str(found), overrides or {})


def read_study(values: Any, where: str, overrides: Values | None = None) -> Study:
    if not isinstance(values, dict):
        raise StudyError(f"a study is a mapping of keys, found {type(values).__name__}", where)
    check_keys(list(values), where)
    overrides = dict(overrides or {})
    sweep = read_crossed(overrides.pop("sweep", None), "--sweep")
    shape = {key: read_id(overrides.pop(key), _option(key)) for key in SHAPE if key in overrides}
    check_keys(list(overrides), "command line")
    # Either says where the cells are: the one that is given takes the place of the file's.
    for given, other in (("numa_nodes", "placements"), ("placements", "numa_nodes")):
        if given in overrides:
            values = {key: value for key, value in values.items() if key != other}
    origin = {key: f"{where}: {key}" for key in values} | {key: _option(key) for key in overrides}
    merged = values | overrides
    if "numa_nodes" in merged and "placements" in merged:
        both = "command line" if {"numa_nodes", "placements"} <= overrides.keys() else where
        raise StudyError("numa_nodes and placements exclude each other", both, "keep one of them")

    def at(key: str) -> str:
        return origin.get(key, f"{where}: {key}")

    axes = _read_axes(merged, at, overrides, {*shape}, sweep)
    folded = {key: axes.crossed[key] for key in FOLDED if key in axes.crossed}
    axes = replace(axes, crossed={key: value for key, value in axes.crossed.items() if key not in folded})
    _check_missing(merged, folded, where)
    settings = {key: setting.read(merged.get(key, setting.default), at(key)) for key, setting in SETTINGS.items()}
    models = folded.get("model") or _read_models(merged["models"], at("models"))
    models = _change_models(models, shape)
    if not {"image_size", "patch_size"} & axes.varied:
        for index, model in enumerate(models):
            check_model(model, settings["image_size"], f"{at('models')}[{index}]")
    study = Study(
        name=_read_name(merged["name"], at("name")),
        question=_read_question(merged.get("question"), at("question")),
        gpu_ids=folded.get("gpu_ids") or read_ids(merged["gpu_ids"], at("gpu_ids")),
        placements=folded.get("placements") or _read_places(merged, at),
        models=models,
        settings=settings,
        axes=axes,
    )
    _check_together(study, where)
    return study


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _read_axes(merged: Values, at: At, overrides: Values, shape: set[str], sweep: Values) -> Axes:
    """Those of the file, without what the command line gives a value or an axis of its own; then those of --sweep."""
    axes = read_axes(merged, at)
    given = {axis_key(key) for key in overrides} | shape
    if "models" in overrides:
        given |= set(SHAPE)  # the models that were named, not others
    own = axes.without(given)
    # What the command line itself says of axes stays.
    axes = replace(
        axes,
        crossed=axes.crossed if "axes" in overrides else own.crossed,
        zipped=axes.zipped if "zip" in overrides else own.zipped,
    )
    axes = axes.without(sweep)
    axes = replace(axes, crossed=axes.crossed | sweep)
    check_once(axes, at("axes"))
    return axes


def _check_missing(merged: Values, folded: Values, where: str) -> None:
    for key, folds in (("name", ""), ("gpu_ids", "gpu_ids"), ("models", "model")):
        if key not in merged and folds not in folded:
            raise StudyError(f"missing key {key}", where)
    if not {"numa_nodes", "placements"} & merged.keys() and "placements" not in folded:
        raise StudyError("missing key numa_nodes (or placements)", where)


def _read_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _STUDY_NAME.fullmatch(value):
        raise StudyError(
            f"found {value!r}, allowed are up to 64 letters, digits, '_', '-' and '.'",
            where,
            "the name becomes a folder below the output directory",
        )
    return value


def _read_question(value: Any, where: str) -> str:
    if not TEXT.fits("" if value is None else value):
        raise StudyError(f"found {value!r}, allowed is a text", where)
    return (value or "").strip()


def _read_places(merged: Values, at: At) -> tuple[Placement, ...] | str:
    if "placements" in merged:
        return "all" if merged["placements"] == "all" else read_placements(merged["placements"], at("placements"))
    nodes = read_ids(merged["numa_nodes"], at("numa_nodes"))
    return nodes if isinstance(nodes, str) else tuple((node, node) for node in nodes)


def _read_models(value: Any, where: str) -> tuple[Model, ...]:
    return tuple(parse_model(item, f"{where}[{index}]") for index, item in enumerate(read_list(value, where)))


def _change_models(models: tuple[Model, ...], shape: dict[str, int]) -> tuple[Model, ...]:
    """Apply patch_size, depth, dim to every model that computes; models that become equal are kept once.

    With all three given there is one model, whatever the study lists.
    """
    return tuple(dict.fromkeys(reshaped(model, shape) for model in models)) if shape else models


def _check_together(study: Study, where: str) -> None:
    """Refuse what no host can run. "all" stands for GPU 0 and node 0 here: no contradiction depends on the place, and
    what is excluded at some places only is there at others."""
    unknown = {key for key in ("gpu_ids", "placements") if isinstance(getattr(study, key), str)}
    known = tuple(entry for entry in study.axes.exclude if not unknown & entry.keys())
    axes = replace(study.axes, exclude=known)
    gpus = (0,) if isinstance(study.gpu_ids, str) else study.gpu_ids
    placements = ((0, 0),) if isinstance(study.placements, str) else study.placements
    found = combinations(gpus, placements, study.models, axes, study.settings, where)
    # Several models of a study are varied too, for what depends on the model.
    varied = study.axes.varied | ({"model"} if len(set(study.models)) > 1 else set())
    broken = []
    for one, name, _ in named(found, study.settings):
        why = contradiction(one.model, study.settings | one.settings, varied)
        if why:
            broken.append((name, why, lambda key, one=one: _told(one, key, study.settings), one.added))
    refuse(broken, len(found), varied, where)


def _told(one: Combination, key: str, base: dict[str, Any]) -> Any:
    """As an entry of exclude says it."""
    return one.model.name if key == "model" else one.value(key, base)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else [list(item) if isinstance(item, tuple) else item for item in value]
