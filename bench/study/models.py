"""Models of a study: ViTs of the grid, and models from elsewhere, which are identified and never imported here."""

import hashlib
import importlib.machinery
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from bench.errors import StudyError
from bench.host.processes import without_relative_paths
from bench.records.study import ListedModel, Model
from bench.storage import why_untrusted
from bench.study.settings import nearest, read_list, shown

_VIT = re.compile(r"(?:vit)?(\d{1,4})x(\d{1,4})x(\d{1,5})")
_DOOR = re.compile(r"(timm|python|pt2):")
_WITH_MODELS = ("models", "axes", "zip", "exclude", "include", "sweep")
_KEYS = ("model", "heads", "as", "sha256", "own_size")
_ADVICE = (
    'write "vit{patch}x{depth}x{dim}", for example "vit32x6x512" ("vit0x0x0" copies and does not compute), '
    '"timm:NAME", "python:package.module:factory" or "pt2:FILE"'
)


def read_model(value: Any, where: str) -> Model:
    """Of a name, or of a mapping that has it as `model`. Raise StudyError.

    {"model": "vit32x6x512", "heads": 8}, {"model": "timm:resnet50", "as": "resnet", "own_size": true}.
    """
    given: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"model": value}
    if set(given) - {*_KEYS} or "model" not in given:
        found = sorted(map(str, given))
        raise StudyError(
            f"found {found}, allowed is a name or a mapping with the keys {', '.join(_KEYS)}", where, _ADVICE
        )
    text = given["model"]
    if isinstance(text, str) and _DOOR.match(text):
        return _from_elsewhere(text, given, where)
    if vit := isinstance(text, str) and _VIT.fullmatch(text):
        if foreign := next((key for key in given if key not in ("model", "heads")), None):
            raise StudyError(f"{foreign} is for models from elsewhere, and {text} is a ViT", where, f"remove {foreign}")
        patch_size, depth, dim = map(int, vit.groups())
        heads = given.get("heads")
        heads = default_heads(dim) if heads is None else heads
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 0:
            raise StudyError(f"found {shown(heads)}, allowed is a whole number from 1", f"{where}.heads")
        return Model(patch_size=patch_size, depth=depth, dim=dim, heads=heads)
    hint = f" (did you mean timm:{text}?)" if isinstance(text, str) and text in timm_names() else ""
    raise StudyError(f"{text!r} is not the name of a model{hint}", where, _ADVICE)


def _from_elsewhere(source: str, given: Mapping[str, Any], where: str) -> Model:
    if "heads" in given:
        raise StudyError(f"heads is for ViTs of the grid, and {source} brings its own", where, "remove heads")
    if "own_size" in given and not source.startswith("timm:"):
        raise StudyError(f"own_size is for timm models, and {source} brings its inputs", where, "remove own_size")
    shape = {"patch_size": 0, "depth": 0, "dim": 0, "heads": 0, "source": source}
    about = {"name": given.get("as", ""), "sha256": given.get("sha256", ""), "own_size": given.get("own_size", False)}
    try:
        model = msgspec.convert(shape | about, Model)
    except msgspec.ValidationError as error:
        what = re.sub(r" - at `\$\.?(.*)`$", lambda at: f": {at[1]}" if at[1] else "", str(error))
        raise StudyError(f"{source!r}: {what}", where, _ADVICE) from None
    if _VIT.fullmatch(model.name):
        raise StudyError(f"{model.name} is the name of a ViT", f"{where}.as", "give another name")
    return model


def default_heads(dim: int) -> int:
    """64 channels a head as in the ViT paper, but at least 8 heads (4 below dim 256), so that small models divide."""
    return max(dim // 64, 8 if dim >= 256 else 4) if dim else 0


def listed(model: Model) -> dict[str, Any]:
    """The model as a study file lists it, with everything that identifies it."""
    if not model.source:
        return {"model": model.name, "heads": model.heads}
    entry = ListedModel(
        model=model.source,
        name="" if model.name == structs.replace(model, name="").name else model.name,
        sha256=model.sha256,
        own_size=model.own_size,
    )
    return dict(msgspec.to_builtins(entry))


def anchored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Keys of a study, with the paths of .pt2 files in them taken from `folder`."""
    return {key: _anchored(value, folder) if key in _WITH_MODELS else value for key, value in values.items()}


def _anchored(value: Any, folder: Path) -> Any:
    if isinstance(value, str) and value.startswith("pt2:"):
        return f"pt2:{_absolute(folder, value.removeprefix('pt2:'))}"
    if isinstance(value, Mapping):
        return {key: _anchored(item, folder) for key, item in value.items()}
    return [_anchored(item, folder) for item in value] if isinstance(value, list | tuple) else value


def _absolute(folder: Path, path: str) -> Path:
    """Without looking: it may be no path at all."""
    return Path(os.path.abspath(folder / path))


def read_python_path(value: Any, folder: Path, where: str) -> tuple[str, ...]:
    """Folders, relative to `folder`. Raise StudyError for one that does not exist or that others can write."""
    if value is None or value == []:
        return ()
    found = []
    for index, item in enumerate(read_list(value, where)):
        if not isinstance(item, str) or not item:
            raise StudyError(f"found {shown(item)}, allowed is the path of a folder", f"{where}[{index}]")
        path = _absolute(folder, item)
        reason = why_untrusted(path) or ("" if path.is_dir() else f"{path} is not a folder")
        if reason:
            raise StudyError(reason, f"{where}[{index}]", "programs are imported from there: name a folder of your own")
        found.append(str(path))
    return tuple(dict.fromkeys(found))


def identify(python_path: Sequence[str], own_size: bool, where: str) -> Callable[[Model], Model]:
    """A function that completes a model from elsewhere with what identifies its program. It raises StudyError.

    own_size: the study does not set image_size.
    """

    @cache
    def completed(model: Model) -> Model:
        if model.kind == "timm":
            _check_timm(model, where)
            return structs.replace(model, own_size=model.own_size or own_size)
        if model.kind == "vit":
            return model
        if model.kind == "pt2":
            path = Path(model.source.removeprefix("pt2:"))
            if reason := why_untrusted(path) or ("" if path.is_file() else f"{path} is no regular file"):
                raise StudyError(reason, where, "a .pt2 file is a program: name one that only its owner can write")
        else:
            path = source_file(model.source.split(":")[1], python_path, where)
            if reason := why_untrusted(path):
                raise StudyError(reason, where, "a factory is a program: name one that only its owner can write")
            model = structs.replace(model, python_path=tuple(python_path))
        found = _sha256(path, where)
        if model.sha256 and model.sha256 != found:
            advice = f"remove sha256 to measure it as it is: {found}"
            raise StudyError(f"{path} is not the file with sha256 {model.sha256}", where, advice)
        return structs.replace(model, sha256=found)

    return completed


def check_names(models: Iterable[Model], where: str) -> None:
    """Raise StudyError for two models from elsewhere whose cells would have the same names."""
    first: dict[str, Model] = {}
    for model in models:
        other = first.setdefault(model.name, model)
        if other != model and (model.source or other.source):
            advice = f"give one of them a name: {{model: {model.source or model.name}, as: NAME}}"
            raise StudyError(f"two models are named {model.name}", where, advice)


def source_file(module: str, python_path: Sequence[str], where: str) -> Path:
    """The file that a run will import the module from; nothing is imported to find it. Raise StudyError."""
    searched: list[str] | None = None
    spec: importlib.machinery.ModuleSpec | None = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        spec = _find(name, searched, python_path)
        if spec is None:
            advice = "install its package where numastudy is, or set python_path: [FOLDER] in the study"
            raise StudyError(f"there is no module {name}", where, advice)
        searched = list(spec.submodule_search_locations or ())
    if not (spec and spec.has_location and spec.origin):
        raise StudyError(f"{module} has no source file", where, "name the module that defines the factory")
    return Path(spec.origin)


def _find(name: str, searched: list[str] | None, python_path: Sequence[str]) -> importlib.machinery.ModuleSpec | None:
    """As Python finds it in a run."""
    if searched is not None:
        return importlib.machinery.PathFinder.find_spec(name, searched)
    # Those after the finders of built-in, frozen and installed files know packages that are installed in place.
    editable = [finder for finder in sys.meta_path if finder.__module__.startswith("__editable__")]
    return (
        importlib.machinery.PathFinder.find_spec(name, list(_path_of_runs()))
        or next(filter(None, (finder.find_spec(name, None) for finder in editable)), None)
        or importlib.machinery.PathFinder.find_spec(name, list(python_path))
    )


@cache
def _path_of_runs() -> tuple[str, ...]:
    """sys.path of a run, which has neither the current folder nor relative entries. This process may have both."""
    environment = without_relative_paths(dict(os.environ)) | {"PYTHONNOUSERSITE": "1"}
    argv = [sys.executable, "-P", "-c", "import json, sys; print(json.dumps(sys.path))"]
    return tuple(json.loads(subprocess.check_output(argv, env=environment)))


def _sha256(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror}", where) from None


def _check_timm(model: Model, where: str) -> None:
    names, name = timm_names(), model.source.removeprefix("timm:").split(".")[0]
    if name not in names:
        what = f"timm has no model {name}{nearest(name, tuple(sorted(names)))}" if names else "timm is not installed"
        raise StudyError(what, where, "python -c 'import timm; print(timm.list_models())' lists them")


@cache
def timm_names() -> frozenset[str]:
    """The models of the timm that is installed, read from its source: to import it takes seconds."""
    spec = importlib.machinery.PathFinder.find_spec("timm")
    names: set[str] = set()
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder, "models").glob("*.py")):
            text = file.read_text(errors="replace")
            names.update(re.findall(r"^@register_model\s+def (\w+)", text, re.MULTILINE))
            for block in re.findall(
                r"^register_model_deprecations\(__name__, \{(.*?)^\}", text, re.MULTILINE | re.DOTALL
            ):
                names.update(re.findall(r"^\s*['\"]([\w.]+)['\"]\s*:", block, re.MULTILINE))
    return frozenset(names)
