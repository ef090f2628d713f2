"""`numastudy run`: the study file of a command, and the call of luigi that measures a study."""

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError
from bench.host.connections import listens_as_own_user
from bench.records.metric import Better
from bench.records.study import Model
from bench.storage import write_text
from bench.study.command import study_name
from bench.study.load import TASKS

LOOPBACK = ("127.0.0.1", 8082)
REPEATS = 6
_METRIC = "'tok_s=REGEX,tok/s,higher'"


@dataclass(frozen=True)
class Asked:
    """What options say of a command; "" and () where they do not. metrics: NAME=REGEX,UNIT,BETTER; env: NAME=VALUE."""

    server: str = ""
    ready: str = ""
    read: str = ""
    metrics: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()

    def block(self) -> dict[str, Any]:
        """Keys of the block `command`. Raise StudyError."""
        keys: dict[str, Any] = {"server": self.server, "ready": self.ready, "read": self.read}
        keys |= {"metrics": dict(map(_metric, self.metrics)), "env": dict(map(_variable, self.env))}
        keys |= {"pass_env": [*self.pass_env]}
        return {key: value for key, value in keys.items() if value}


def study_of(block: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """The content of a study file: GPU 0 and all nodes, unless something else is asked for."""
    argv = block.get("server") or block.get("run") or ""
    words = [*argv] if isinstance(argv, list | tuple) else str(argv).split()
    return {
        "name": name or (study_name([*map(str, words)]) if words else "command"),
        "gpu_ids": [0],
        "numa_nodes": "all",
        "repeats": REPEATS,
        "command": dict(block),
    }


def check_programs(models: Iterable[Model]) -> None:
    """Raise StudyError for one that this host does not have, before anything is measured."""
    for command in filter(None, (model.command for model in models)):
        for argv in (command.run, *([command.server] if command.server else [])):
            path = command.env.get("PATH", os.environ.get("PATH"))
            place = os.path.join(command.cwd, argv[0]) if "/" in argv[0] else argv[0]
            if "{" in argv[0] or shutil.which(place, path=path):
                continue
            what = "cannot be executed" if "/" in argv[0] and os.path.exists(place) else "there is no such program"
            shell = " ".join(argv) if " " in argv[0] else ""
            advice = f"there is no shell: -- sh -c {shlex.quote(shell)}" if shell else "name another, or give its path"
            raise StudyError(what, argv[0], advice)


def write_study(study: Mapping[str, Any], output_dir: Path) -> Path:
    """outputs/<name>/study.yaml. Raise StudyError."""
    path = output_dir / str(study["name"]) / "study.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True))
    except OSError as error:
        what, advice = f"cannot write: {error.strerror}", "choose another folder with --output-dir"
        raise StudyError(what, str(path), advice) from None
    return path


def luigi_argv(study: str, output_dir: Path, overrides: Mapping[str, str], flags: Sequence[str] = ()) -> list[str]:
    """The call that measures a study: a task's name, or a file. By the scheduler of your own `make ui` if it runs."""
    task = [study] if study in TASKS else ["Study", "--config-file", study]
    argv = [*_luigi(), "--module", "tasks", *task, "--output-dir", str(output_dir)]
    for key, value in overrides.items():
        argv += [f"--{key.replace('_', '-')}", value]
    return [*argv, *flags, *([] if _own_scheduler_answers() else ["--local-scheduler"])]


def _luigi() -> list[str]:
    """The script beside this interpreter, else the module: where only PYTHONPATH has it, there is no script."""
    beside = Path(sys.executable).with_name("luigi")
    if os.access(beside, os.X_OK):
        return [str(beside)]
    if not find_spec("luigi"):
        raise StudyError("luigi is not installed for this Python", sys.executable, "install numastudy with pip")
    return [sys.executable, "-m", "luigi"]


def _own_scheduler_answers() -> bool:
    # luigi imports and runs what a scheduler names: that of another user could run any code.
    if not listens_as_own_user(LOOPBACK[1]):
        return False
    with suppress(OSError), socket.create_connection(LOOPBACK, timeout=1):
        return True
    return False


def _metric(text: str) -> tuple[str, dict[str, str]]:
    name, equals, rest = text.partition("=")
    parts = rest.rsplit(",", 2)
    if not equals or len(parts) != 3 or parts[2] not in [*Better]:
        raise StudyError(f"found {text!r}, allowed is NAME=REGEX,UNIT,higher or lower", "--metric", f"as {_METRIC}")
    return name, {"regex": parts[0], "unit": parts[1], "better": parts[2]}


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise StudyError(f"found {text!r}, allowed is NAME=VALUE", "--env", "name it with --pass-env to take its value")
    return name, value
