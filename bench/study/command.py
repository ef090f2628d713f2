"""The block `command` of a study: what it starts, checked before anything runs. Its variants are in place of models."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from bench.errors import StudyError
from bench.records.base import DamagedRecord, convert
from bench.records.command import Command, CommandBlock
from bench.records.metric import RANK, Read, straggler_of
from bench.records.study import Model
from bench.study.settings import nearest, not_json

# The settings of a study that apply to a command; the others are of the pipeline.
COMMAND_SETTINGS = (
    "binding", "device", "seed", "timeout_s", "repeats", "target_precision", "max_repeats", "disturbed_repeats",
    "margin", "budget",
)  # fmt: skip
COMMAND_AXES = ("gpu_ids", "placements", "binding")
# What these start runs elsewhere: numactl would bind the client only.
_ELSEWHERE = (
    "docker", "podman", "podman-remote", "nerdctl", "kubectl", "oc", "ssh", "srun", "systemd-run", "at", "batch",
    "sbatch", "flux", "bsub", "qsub",
)  # fmt: skip
# They start a script, by whose name it is known.
_INTERPRETERS = re.compile(
    r"(python|pypy)[\d.]*|(ba|da|z)?sh|perl|ruby|node|julia|Rscript|torchrun|accelerate|deepspeed"
)
_SCRIPT = re.compile(r"[^-].*\.(py|sh|pl|rb|js|jl|R)")
_WITH_HOSTS = ("mpirun", "mpiexec", "orterun", "prun")
_HOST_OPTIONS = (
    "--host",
    "-host",
    "-H",
    "--hosts",
    "-hosts",
    "--hostfile",
    "-hostfile",
    "--machinefile",
    "-machinefile",
)
# They are compared with each other: all must be read in the same way.
_NOT_IN_VARIANTS = ("read", "metrics", "primary", "variants", "warmup_runs")
_ADVICE = "write {run: [PROGRAM, ARGUMENT, ...], read: wall}, or one text in the place of a list"


def read_command(value: Any, where: str, folder: Path) -> CommandBlock:
    """The block, with its folder, and those of its variants, as absolute paths. folder: of the study file.

    Raise StudyError.
    """
    if isinstance(value, str):
        value = {"run": value}
    if not isinstance(value, Mapping):
        raise StudyError(f"found {value!r}, allowed is a mapping of keys to values", where, not_json(value) or _ADVICE)
    plain = {str(key): _split(key, item, f"{where}.{key}") for key, item in value.items()}
    block = _converted(_anchored({"cwd": "."} | plain, folder), where)
    variants = {name: _anchored(changes, folder) for name, changes in block.variants.items()}
    block = structs.replace(block, variants=variants)
    _check(block, where)
    return block


def _anchored(keys: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The keys with cwd, where it is one of them and a path, from `folder`."""
    cwd = keys.get("cwd")
    return keys | {"cwd": str((folder / cwd).absolute())} if isinstance(cwd, str) else keys


def models_of(block: CommandBlock, where: str) -> tuple[Model, ...]:
    """One for each variant; without variants one, named after its program. Raise StudyError."""
    own = {key: getattr(block, key) for key in Command.__struct_fields__}
    if not block.variants:
        return (_model(program(block.measured), Command(**own)),)
    variants = {}
    for name, changes in block.variants.items():
        place = f"{where}.variants.{name}"
        if wrong := next((key for key in changes if key in _NOT_IN_VARIANTS), None):
            raise StudyError(f"{wrong} is the same for all variants", place, f"set {wrong} in the block itself")
        merged = msgspec.to_builtins(Command(**own)) | {
            key: _split(key, item, f"{place}.{key}") for key, item in changes.items()
        }
        variant = _converted(merged, place)
        _check(variant, place)
        variants[name] = Command(**{key: getattr(variant, key) for key in Command.__struct_fields__})
    return tuple(
        _model(name, command, _own_folder(command, variants.values(), block.cwd)) for name, command in variants.items()
    )


def _own_folder(command: Command, others: Iterable[Command], cwd: str) -> str:
    """Where it starts from cwd, if another one starts the same elsewhere: a history would know both as one."""
    alike = [other for other in others if other.identity == command.identity and other.cwd != command.cwd]
    return os.path.relpath(command.cwd, cwd) if alike and command.cwd != cwd else ""


def program(argv: tuple[str, ...]) -> str:
    """The name of the program, fit for the name of a cell."""
    return _fit(Path(argv[0]).name)


def study_name(argv: Sequence[str]) -> str:
    """The same, of an interpreter that of the script or module that it runs."""
    name = Path(argv[0]).name
    for option, word in pairwise(argv) if _INTERPRETERS.fullmatch(name) else ():
        if option == "-m" or _SCRIPT.fullmatch(word):
            return _fit(word if option == "-m" else Path(word).stem)
    return _fit(name)


def _fit(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.,+=-]", "-", name).lstrip("_.,+=-")[:64] or "command"


def why_elsewhere(command: Command) -> str:
    """Why numactl cannot bind what the command starts, or ""."""
    argv = command.measured
    name = Path(argv[0]).name
    if name in _WITH_HOSTS and any(word.partition("=")[0] in _HOST_OPTIONS for word in argv[1:]):
        return f"{name} with a list of hosts starts its processes elsewhere"
    return f"{name} starts its processes elsewhere" if name in _ELSEWHERE else ""


def _model(name: str, command: Command, folder: str = "") -> Model:
    return Model(name=name, patch_size=0, depth=0, dim=0, heads=0, command=command, folder=folder)


def _split(key: str, value: Any, where: str) -> Any:
    if key not in ("run", "server") or not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise StudyError(f"cannot be split into arguments: {error}", where, "write a list") from None


def _converted(values: dict[str, Any], where: str) -> CommandBlock:
    allowed = CommandBlock.__struct_fields__
    for key in values:
        if key not in allowed:
            what = f"unknown key {key!r}{nearest(key, allowed)}"
            raise StudyError(what, where, "the keys are " + ", ".join(allowed))
    if not values.get("run"):
        raise StudyError("there is nothing to run", f"{where}.run", _ADVICE)
    if isinstance(reader := values.get("read"), str) and reader not in (*Read,):
        allowed_readers = ", ".join(Read)
        what = f"found {reader!r}, allowed is one of {allowed_readers}{nearest(reader, (*Read,))}"
        raise StudyError(what, f"{where}.read", "wall is the time that the command takes; --metric reads any output")
    try:
        block = convert(values, CommandBlock)
        # Half of a surrogate pair, as of an argument that is not UTF-8: no record can hold it.
        msgspec.json.encode(block)
        return block
    except UnicodeEncodeError:
        raise StudyError("a text is not UTF-8", where, "write it in UTF-8") from None
    except DamagedRecord as error:
        what, _, path = str(error).partition(" - at `$")
        place = path.rstrip("`")
        advice = "write it in quotes" if "Expected `str`, got" in what else ""
        raise StudyError(what, f"{where}{place}", advice) from None


def _check(command: Command, where: str) -> None:
    if not command.run[0] or (command.server and not command.server[0]):
        raise StudyError("the name of the program is empty", where, _ADVICE)
    if bool(command.server) != bool(command.ready):
        what = "a server needs ready" if command.server else "ready is of a server, and there is none"
        raise StudyError(what, where, "set ready to a URL, or to a regex of a line that the server writes")
    if command.ready.startswith(("http://", "https://")):
        _check_url(command.ready, f"{where}.ready")
    elif command.ready:
        _compiled(command.ready, f"{where}.ready")
    for name, pattern in command.metrics.items():
        place = f"{where}.metrics.{name}.regex"
        regex = _compiled(pattern.regex, place)
        if regex.groups - (RANK in regex.groupindex) != 1:
            raise StudyError(f"{pattern.regex!r} does not have one group", place, "put ( ) around the number")
    of_ranks = {straggler_of(name) for name, pattern in command.metrics.items() if f"?P<{RANK}>" in pattern.regex}
    if twice := of_ranks & command.metrics.keys():
        raise StudyError(f"{min(twice)} is made from the ranks of another", f"{where}.metrics", "name it otherwise")
    if command.metrics and command.primary and command.primary not in {*command.metrics, *of_ranks}:
        named = ", ".join([*command.metrics, *sorted(of_ranks)])
        raise StudyError(f"there is no metric {command.primary}", f"{where}.primary", f"name one of {named}")
    secret = next((key for key in command.env if matches(key, command.pass_env)), None)
    if secret:
        raise StudyError(
            f"{secret} is in env and in pass_env", where, "keep it in pass_env: env is stored with the study"
        )


def _check_url(ready: str, where: str) -> None:
    """It would be asked in vain until timeout_s is over."""
    try:
        parts = urlsplit(ready.replace("{port}", "1"))
        wrong = "" if parts.hostname and parts.port != 0 else "it has no host"
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise StudyError(f"{ready!r} is no URL: {wrong}", where, "as http://127.0.0.1:{port}/health")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a variable is one of these, of which some name a beginning: NCCL_*."""
    return any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in patterns)


def _compiled(regex: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(regex, re.MULTILINE)
    except re.error as error:
        raise StudyError(f"{regex!r} is not a regular expression: {error}", where) from None
