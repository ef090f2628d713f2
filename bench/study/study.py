"""A study: what to measure. Read from YAML, changed by overrides, checked as a whole before anything runs."""

import json
import re
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError
from bench.study.model import Model, check_model, default_heads, parse_model
from bench.study.settings import SETTINGS, check_keys

MODEL_OVERRIDES = ("patch_size", "depth", "dim")
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LARGEST_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Study:
    """gpu_ids: indexes in PCI bus order; placements: (CPU node, memory node); either may be "all"."""

    name: str
    question: str
    gpu_ids: tuple[int, ...] | str
    placements: tuple[tuple[int, int], ...] | str
    models: tuple[Model, ...]
    settings: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "question": self.question,
            "gpu_ids": _plain(self.gpu_ids),
            "placements": _plain(self.placements),
            "models": [{"model": model.name, "heads": model.heads} for model in self.models],
            **self.settings,
        }


def configs_folder() -> Path:
    """configs/ of a checkout, else where pip put it."""
    checkout = Path(__file__).resolve().parents[2] / "configs"
    return checkout if checkout.is_dir() else Path(sysconfig.get_path("data")) / "share/numastudy/configs"


def load_study(path: Path | str, overrides: dict[str, Any] | None = None) -> Study:
    """Read and check a study file; `overrides` are keys of a study, or patch_size, depth, dim of its models.

    Raise StudyError with file, key path, what was found and what is allowed.
    """
    return read_study(_load_yaml(Path(path)), str(path), overrides or {})


def read_study(values: Any, where: str, overrides: dict[str, Any] | None = None) -> Study:
    if not isinstance(values, dict):
        raise StudyError(f"a study is a mapping of keys, found {type(values).__name__}", where)
    check_keys(list(values), where)
    overrides = dict(overrides or {})
    model_changes = {key: overrides.pop(key) for key in MODEL_OVERRIDES if key in overrides}
    check_keys(list(overrides), "command line")
    if "numa_nodes" in overrides:
        values = {key: value for key, value in values.items() if key != "placements"}
    origin = {key: f"{where}: {key}" for key in values} | {key: f"--{key.replace('_', '-')}" for key in overrides}
    values = values | overrides
    if "numa_nodes" in values and "placements" in values:
        raise StudyError("numa_nodes and placements exclude each other", where, "keep one of them")

    def at(key: str) -> str:
        return origin.get(key, f"{where}: {key}")

    for key in ("name", "gpu_ids", "models"):
        if key not in values:
            raise StudyError(f"missing key {key}", where)
    if "numa_nodes" not in values and "placements" not in values:
        raise StudyError("missing key numa_nodes (or placements)", where)
    settings = {key: setting.read(values.get(key, setting.default), at(key)) for key, setting in SETTINGS.items()}
    models = _read_models(values["models"], at("models"))
    models = _change_models(models, model_changes)
    for index, model in enumerate(models):
        check_model(model, settings["image_size"], f"{at('models')}[{index}]")
    study = Study(
        name=_read_name(values["name"], at("name")),
        question=str(values.get("question", "")).strip(),
        gpu_ids=_read_ids(values["gpu_ids"], at("gpu_ids")),
        placements=_read_placements(values, at),
        models=models,
        settings=settings,
    )
    _check_together(study, where)
    return study


def _load_yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise StudyError(f"larger than {_LARGEST_FILE_BYTES} bytes; that is no study file", str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        advice = "the studies that ship are " + ", ".join(sorted(p.stem for p in configs_folder().glob("*.yaml")))
        raise StudyError(f"cannot read the study file: {error.strerror}", str(path), advice) from None
    except UnicodeDecodeError as error:
        raise StudyError(f"not a text file: {error.reason} at byte {error.start}", str(path)) from None
    if re.search(r"(?m)(^|[\s\[{,:-])[&*][A-Za-z0-9_]", text):
        # An alias of an alias of an alias fills the memory; a study needs none.
        raise StudyError("YAML anchors and aliases are not read", str(path), "write the values out")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise StudyError(f"not valid YAML: {getattr(error, 'problem', error)}", f"{path}{line}") from None


def _read_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _STUDY_NAME.fullmatch(value):
        raise StudyError(
            f"found {value!r}, allowed are up to 64 letters, digits, '_', '-' and '.'",
            where,
            "the name becomes a folder below the output directory",
        )
    return value


def _read_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise StudyError(f"found {json.dumps(value, default=str)}, allowed is a list", where)
    if not value:
        raise StudyError("an empty list: nothing would be measured", where, "name at least one value")
    return list(value)


def _read_id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 4096:
        raise StudyError(f"found {json.dumps(value, default=str)}, allowed is a whole number from 0 up", where)
    return value


def _read_ids(value: Any, where: str) -> tuple[int, ...] | str:
    if value == "all":
        return "all"
    ids = tuple(_read_id(item, f"{where}[{index}]") for index, item in enumerate(_read_list(value, where)))
    if len(set(ids)) != len(ids):
        raise StudyError(f"found {list(ids)}, where an id stands twice", where, "name each once")
    return ids


def _read_placements(values: dict[str, Any], at: Any) -> tuple[tuple[int, int], ...] | str:
    if "placements" not in values:
        nodes = _read_ids(values["numa_nodes"], at("numa_nodes"))
        return nodes if isinstance(nodes, str) else tuple((node, node) for node in nodes)
    where = at("placements")
    placements = []
    for index, pair in enumerate(_read_list(values["placements"], where)):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise StudyError(f"found {pair!r}, allowed is [CPU node, memory node]", f"{where}[{index}]")
        placements.append((_read_id(pair[0], f"{where}[{index}][0]"), _read_id(pair[1], f"{where}[{index}][1]")))
    if len(set(placements)) != len(placements):
        raise StudyError("a placement stands twice", where, "name each once")
    return tuple(placements)


def _read_models(value: Any, where: str) -> tuple[Model, ...]:
    return tuple(parse_model(item, f"{where}[{index}]") for index, item in enumerate(_read_list(value, where)))


def _change_models(models: tuple[Model, ...], changes: dict[str, Any]) -> tuple[Model, ...]:
    """Apply patch_size, depth, dim to every model that computes; models that become equal are kept once.

    With all three given there is one model, whatever the study lists.
    """
    if not changes:
        return models
    for key, value in changes.items():
        _read_id(value, f"--{key.replace('_', '-')}")
    base = models if len(changes) < len(MODEL_OVERRIDES) else models[:1]
    changed = []
    for model in base:
        if model.computes or len(changes) == len(MODEL_OVERRIDES):
            heads = default_heads(changes["dim"]) if "dim" in changes else model.heads
            model = replace(model, **changes, heads=heads)
        changed.append(model)
    return tuple(dict.fromkeys(changed))


def _check_together(study: Study, where: str) -> None:
    settings = study.settings
    if settings["num_samples"] % settings["batch_size"]:
        raise StudyError(
            f"num_samples {settings['num_samples']} is not a multiple of batch_size {settings['batch_size']}",
            where,
            "a pass is made of whole batches: change one of the two",
        )
    if settings["cuda_graph"] and settings["compile_model"] != "off":
        raise StudyError(
            "cuda_graph and compile_model exclude each other",
            where,
            "compile_model: reduce-overhead uses CUDA graphs itself",
        )
    if settings["cuda_graph"] and settings["device"] == "cpu":
        raise StudyError("cuda_graph needs device cuda", where, "leave cuda_graph out, or set device: cuda")


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else [list(item) if isinstance(item, tuple) else item for item in value]
