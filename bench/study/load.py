"""Read a study, from a file or one that ships, with overrides. All of it is checked here, before anything runs."""

import re
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import Problems, StudyError
from bench.records.base import plain
from bench.records.command import CommandBlock
from bench.records.study import Model, Placement, StudySettings
from bench.storage import read_regular
from bench.study.axes import (
    FOLDED,
    Axes,
    Combination,
    axis_key,
    check_once,
    combinations,
    name_cells,
    read_axes,
    read_crossed,
    reshaped,
)
from bench.study.command import COMMAND_AXES, COMMAND_SETTINGS, models_of, read_command
from bench.study.constraints import Refused, refuse, violation
from bench.study.cpu_groups import CPU_GROUPS, numbered, read_cpu_groups
from bench.study.models import anchored, check_names, identify, listed, read_model, read_python_path
from bench.study.settings import (
    COMBINING,
    PLACES,
    SETTINGS,
    SHAPE,
    check_keys,
    nearest,
    not_json,
    of_run_directory,
    read_id,
    read_ids,
    read_list,
    read_placements,
    shown,
)
from bench.study.yaml_text import LARGEST_FILE_BYTES, parse_yaml
from bench.workload.constraints import why_no_model

# The studies that are tasks of their own.
TASKS = {
    "NearestNode": "nearest_node",
    "NumaStudy": "numa_locality_study",
    "QuickTest": "quick_test",
    "ScalingStudy": "model_scaling_study",
    "SelfCheck": "self_check",
}
# A task over several studies, and their list.
NIGHTLY = "NightlySweep"
_NOT_STUDIES = ("nightly",)
# What the output directory holds beside the studies.
_RESERVED_NAMES = ("history.db", "history.db-wal", "history.db-shm", "history.db-journal", "index.html", "nightly",
                   "noise_floor.json")  # fmt: skip
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# The place of a key, for errors: the file and the key, or the option of the command line.
At = Callable[[str], str]


@dataclass(frozen=True)
class StudyDefinition:
    """What a study file and its overrides ask for, on whatever host.

    gpu_ids: indexes in PCI bus order; placements: (CPU node, memory node); either may be "all", and placements
    "cpu-groups", which the probe finds. cpu_groups: lists of CPUs in place of nodes; the placements are their numbers.
    settings: the study's own values; axes: what it varies beside GPUs, placements and models. command: whose variants
    are its models. given: which of gpu_ids and placements the command line names.
    """

    name: str
    question: str
    gpu_ids: tuple[int, ...] | str
    placements: tuple[Placement, ...] | str
    models: tuple[Model, ...]
    settings: StudySettings
    axes: Axes = field(default_factory=Axes)
    command: CommandBlock | None = None
    python_path: tuple[str, ...] = ()
    cpu_groups: tuple[str, ...] = ()
    given: frozenset[str] = field(default=frozenset(), compare=False)

    def as_json(self) -> dict[str, Any]:
        """As in a study file, with every setting that applies."""
        return {
            "name": self.name,
            "question": self.question,
            "gpu_ids": _listed(self.gpu_ids),
            "placements": list(self.cpu_groups) or _listed(self.placements),
            **(
                {"command": plain(self.command)}
                if self.command
                else {"models": [listed(model) for model in self.models]}
            ),
            **({"python_path": list(self.python_path)} if self.python_path else {}),
            **self.axes.as_json(),
            **{
                key: value for key, value in plain(self.settings).items() if not self.command or key in COMMAND_SETTINGS
            },
        }


def configs_folder() -> Path:
    """configs/ of a checkout, else where pip put it."""
    checkout = Path(__file__).resolve().parents[2] / "configs"
    return checkout if checkout.is_dir() else Path(sysconfig.get_path("data")) / "share/numastudy/configs"


def shipped_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in configs_folder().glob("*.yaml") if path.stem not in _NOT_STUDIES))


def study_path(name: Path | str) -> Path:
    """The file of a study: of the task of that name, or `name` itself, or the one of that name that ships.

    Raise StudyError if there is neither, or if that cannot be determined.
    """
    path, stem = Path(name), str(name).removesuffix(".yaml")
    if name in TASKS:
        return configs_folder() / f"{TASKS[str(name)]}.yaml"
    try:
        is_file, exists = path.is_file(), path.exists()
    except OSError as error:  # a name that is too long, or a folder without permission
        raise StudyError(f"cannot read the study file: {error.strerror}", str(name)) from None
    if not is_file and stem in shipped_names():
        return configs_folder() / f"{stem}.yaml"
    if not exists and name == NIGHTLY:
        advice = f"`cat {configs_folder() / 'nightly.yaml'}` shows its list; name one of them here, as QuickTest"
        raise StudyError(f"{NIGHTLY} is a task over several studies, not a study", NIGHTLY, advice)
    if not exists:
        raise StudyError(
            f"there is no study file of that name{nearest(stem, (*TASKS, *shipped_names()))}",
            str(name),
            "the studies that ship are " + ", ".join(shipped_names()),
        )
    return path


def load_study(path: Path | str, overrides: Mapping[str, Any] | None = None) -> StudyDefinition:
    """Read and check a study file, or one that ships by its name.

    overrides: keys of a study; patch_size, depth, dim of its models; sweep: {key: values}, more axes.
    Raise StudyError with file, key path, what was found and what is allowed.
    """
    file = study_path(path)
    return read_study(of_run_directory(read_yaml(file)), str(file), overrides or {}, file.parent)


def read_study(
    values: Any, where: str, overrides: Mapping[str, Any] | None = None, folder: Path = Path()
) -> StudyDefinition:
    """The study of the content of a file, as load_study.

    where: the file, for errors; folder: in which a command starts, and which paths of the file are relative to.
    """
    if not isinstance(values, dict):
        found = "found an empty file" if values is None else f"found {shown(values)[:60]}"
        advice = "as the studies that ship: numastudy list; docs/axes.md has every key"
        raise StudyError(f"a study is a mapping of keys, {found}", where, advice)
    values, overrides = anchored(values, folder), anchored(overrides or {}, Path.cwd())
    sweep = read_crossed(overrides.pop("sweep", None), "--sweep")
    if "command" in overrides and isinstance(values.get("command"), dict):
        # What the command line says of the command replaces that part of the file's block.
        own = overrides["command"]
        overrides["command"] = values["command"] | (own if isinstance(own, dict) else {"run": own})
    shape = {key: read_id(overrides.pop(key), _option(key)) for key in SHAPE if key in overrides}
    # Both place the cells: the one that is overridden replaces the other in the file.
    for given, other in (("numa_nodes", "placements"), ("placements", "numa_nodes")):
        if given in overrides:
            values = {key: value for key, value in values.items() if key != other}
    origin = {key: f"{where}: {key}" for key in values} | {key: _option(key) for key in (*overrides, *shape)}
    origin |= dict.fromkeys(sweep, "--sweep")
    merged = values | overrides
    if "numa_nodes" in merged and "placements" in merged:
        both = "command line" if {"numa_nodes", "placements"} <= overrides.keys() else where
        raise StudyError("numa_nodes and placements exclude each other", both, "keep one of them")

    def at(key: str) -> str:
        return origin.get(key, f"{where}: {key}")

    problems = Problems()
    with problems:
        check_keys(list(values), where)
    with problems:
        check_keys(list(overrides), "command line")
    for key, value in merged.items():
        if reader := _READERS.get(key):
            with problems:
                reader(value, at(key))
    problems.raise_any()
    axes = _read_axes(merged, at, overrides, {*shape}, sweep)
    folded: dict[str, Any] = {key: axes.crossed[key] for key in FOLDED if key in axes.crossed}
    axes = axes.without(folded)
    _check_missing(merged, folded, where)
    if "command" in merged:
        _check_applies(merged, axes.varied | {*folded} | {*shape}, at)
    settings = StudySettings(
        **{key: setting.read(merged.get(key, setting.default), at(key)) for key, setting in SETTINGS.items()}
    )
    own_size = "image_size" not in merged and "image_size" not in axes.varied
    searched = Path.cwd() if "python_path" in overrides else folder
    python_path = read_python_path(merged.get("python_path"), searched, at("python_path"))
    identified = identify(python_path, own_size, at("models"))
    command = read_command(merged["command"], at("command"), folder) if "command" in merged else None
    if command:
        models = models_of(command, at("command"))
    else:
        models = folded.get("model") or _read_models(merged["models"], at("models"))
        models = tuple(map(identified, _change_models(models, shape)))
    axes = axes.with_models(identified)
    if not {"image_size", "patch_size"} & axes.varied:
        for index, model in enumerate(models):
            if why := why_no_model(model, settings.image_size):
                options = [_option(key) for key in ("image_size", *SHAPE) if key in overrides or key in shape]
                raise StudyError(why.what, "; ".join(options) or f"{at('models')}[{index}]", why.advice)
    placements, groups = _read_places(merged, at) if "placements" not in folded else (folded["placements"], ())
    study = StudyDefinition(
        name=_read_name(merged["name"], at("name")),
        question=_read_question(merged.get("question"), at("question")),
        gpu_ids=folded.get("gpu_ids") or read_ids(merged["gpu_ids"], at("gpu_ids")),
        placements=placements,
        models=models,
        settings=settings,
        axes=axes,
        command=command,
        python_path=python_path,
        cpu_groups=groups,
        given=frozenset(map(axis_key, {**overrides, **sweep})) & {"gpu_ids", "placements"},
    )
    _check_together(study, where, origin)
    return study


def read_yaml(path: Path) -> Any:
    """The content of a study file. Raise StudyError if it cannot be read or is not a study file."""
    try:
        text = read_regular(path, LARGEST_FILE_BYTES).decode()
    except OSError as error:
        advice = "the studies that ship are " + ", ".join(shipped_names())
        raise StudyError(f"cannot read the study file: {error.strerror}", str(path), advice) from None
    except UnicodeDecodeError as error:
        raise StudyError(f"not a text file: {error.reason} at byte {error.start}", str(path)) from None
    return parse_yaml(text, path, aliases=False)


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _read_axes(
    merged: Mapping[str, Any], at: At, overrides: Mapping[str, Any], shape: set[str], sweep: dict[str, Any]
) -> Axes:
    """Those of the file, without what the command line gives a value or an axis of its own; then those of --sweep."""
    axes = read_axes(merged, at)
    given = {axis_key(key) for key in overrides} | shape
    if "models" in overrides:
        given |= set(SHAPE)  # exactly the models that were named
    own = axes.without(given)
    # Axes of the command line itself stay.
    axes = replace(
        axes,
        crossed=axes.crossed if "axes" in overrides else own.crossed,
        zipped=axes.zipped if "zip" in overrides else own.zipped,
    )
    axes = axes.without(sweep)
    axes = replace(axes, crossed=axes.crossed | sweep)
    check_once(axes, at("axes"))
    return axes


def _check_missing(merged: Mapping[str, Any], folded: Mapping[str, Any], where: str) -> None:
    needed = [("name", ""), ("gpu_ids", "gpu_ids")] + [("models", "model")] * ("command" not in merged)
    for key, folds in needed:
        if key not in merged and folds not in folded:
            raise StudyError(f"missing key {key}", where)
    if not {"numa_nodes", "placements"} & merged.keys() and "placements" not in folded:
        raise StudyError("missing key numa_nodes (or placements)", where)


def _check_applies(merged: Mapping[str, Any], varied: set[str], at: At) -> None:
    """Refuse settings of the pipeline in a study of a command, where they would have no effect."""
    if "models" in merged:
        raise StudyError("models and command exclude each other", at("command"), "keep one of them")
    allowed = ("name", "question", "command", *PLACES, *COMBINING, *COMMAND_SETTINGS)
    axes = [key for part in ("axes", "zip", "exclude", "include") for key in _keys_in(merged.get(part))]
    for key in (*merged, *varied, *axes):
        if key not in allowed or (key in varied and key not in COMMAND_AXES):
            advice = f"leave it out; a study of a command has {', '.join(COMMAND_SETTINGS)}, and binding as an axis"
            raise StudyError(f"{key} is of the pipeline, and a command is measured", at(key), advice)


def _keys_in(part: Any) -> list[str]:
    parts = part if isinstance(part, list | tuple) else [part]
    return [key for one in parts if isinstance(one, Mapping) for key in one]


def _read_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _STUDY_NAME.fullmatch(value):
        raise StudyError(
            f"found {value!r}, allowed are up to 64 letters, digits, '_', '-' and '.'",
            where,
            "the name becomes a folder below the output directory",
        )
    if value.lower() in _RESERVED_NAMES:
        advice = "name the study otherwise"
        raise StudyError(f"{value} is a file or a folder of the output directory itself", where, advice)
    return value


def _read_question(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not _encodes(value):
        raise StudyError(f"found {value!r}, allowed is a text", where)
    return value.strip()


def _encodes(text: str) -> bool:
    """False for half of a surrogate pair, which no file can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_places(merged: Mapping[str, Any], at: At) -> tuple[tuple[Placement, ...] | str, tuple[str, ...]]:
    """The placements, and the groups of CPUs that they are the numbers of, if any."""
    if "placements" not in merged:
        nodes = read_ids(merged["numa_nodes"], at("numa_nodes"))
        return nodes if isinstance(nodes, str) else tuple((node, node) for node in nodes), ()
    value, where = merged["placements"], at("placements")
    if value in ("all", CPU_GROUPS):
        return value, ()
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        groups = read_cpu_groups(value, where)
        return numbered(groups), groups
    if not isinstance(value, list | tuple) and not not_json(value):
        what = f"found {shown(value)}, allowed are [CPU node, memory node] pairs, groups of CPUs, all or {CPU_GROUPS}"
        raise StudyError(what, where, "as '[[0,0],[0,2]]'; nodes alone are given by numa_nodes, as [0,2]")
    return read_placements(value, where), ()


def _read_models(value: Any, where: str) -> tuple[Model, ...]:
    return tuple(read_model(item, f"{where}[{index}]") for index, item in enumerate(read_list(value, where)))


# What is wrong with each of these by itself is reported together.
_READERS: dict[str, Callable[[Any, str], Any]] = {
    "name": _read_name,
    "question": _read_question,
    "gpu_ids": read_ids,
    "numa_nodes": read_ids,
    "models": _read_models,
    **{key: setting.read for key, setting in SETTINGS.items()},
}


def _change_models(models: tuple[Model, ...], shape: Mapping[str, int]) -> tuple[Model, ...]:
    """Apply patch_size, depth, dim to every model that computes; models that become equal are kept once.

    With all three given there is one model, whatever the study lists.
    """
    return tuple(dict.fromkeys(reshaped(model, shape) for model in models)) if shape else models


def _check_together(study: StudyDefinition, where: str, origin: Mapping[str, str]) -> None:
    """Refuse what no host can run. origin: the place of each key that was given.

    "all" is GPU 0 and node 0 here: no violation depends on the place, and an entry of exclude that names places may
    apply to some of them only.
    """
    unknown = {key for key in ("gpu_ids", "placements") if isinstance(getattr(study, key), str)}
    known = tuple(entry for entry in study.axes.exclude if not unknown & entry.keys())
    axes = replace(study.axes, exclude=known)
    gpus = (0,) if isinstance(study.gpu_ids, str) else study.gpu_ids
    placements = ((0, 0),) if isinstance(study.placements, str) else study.placements
    found = combinations(gpus, placements, study.models, axes, study.settings, where)
    # Several models of a study are varied too, for what depends on the model.
    varied = study.axes.varied | ({"model"} if len(set(study.models)) > 1 else set())
    check_names((one.model for one in found), where)
    refused = []
    for one, name, _ in name_cells(found, study.cpu_groups):
        if why := violation(one.model, one.settings(study.settings), varied):
            values = {key: _as_excluded(one, key, study.settings) for key in why.keys if key in varied}
            refused.append(Refused(name, why, values, one.added))
    keys = [{"model": "models"}.get(key, key) for key in (refused[0].why.keys if refused else ())]
    places = dict.fromkeys(origin[key] for key in keys if key in origin)
    refuse(refused, len(found), "; ".join(places) or where)


def _as_excluded(one: Combination, key: str, base: StudySettings) -> Any:
    if key != "model":
        return one.value(key, base)
    return {"model": one.model.source, "as": one.model.name} if one.model.source else one.model.name


def _listed(value: tuple[Any, ...] | str) -> Any:
    return value if isinstance(value, str) else [list(item) if isinstance(item, tuple) else item for item in value]
