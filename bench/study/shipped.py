"""The study files that ship, found by name."""

import re
import sysconfig
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError
from bench.study.settings import nearest

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
