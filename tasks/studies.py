"""The studies a user names: each expands into runs, exports, metrics, a report and a check."""

import json
import os
import shlex
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import luigi
from luigi.freezing import recursively_unfreeze

from bench.command.start import Asked, study_of
from bench.errors import HostChanged, StudyError
from bench.records.host import Topology
from bench.storage import remove_stale
from bench.study import settings
from bench.study.budget import expand_in_time, left_out_text
from bench.study.comparable import without_placements
from bench.study.directory import RunDirectory, resolve, resolve_into
from bench.study.grid import Expansion
from bench.study.load import TASKS, StudyDefinition, load_study, read_study, study_path
from bench.study.start import refuse_start
from bench.terminal import visible
from tasks.before_runs import preflight
from tasks.luigi_runtime import (
    INVOCATION,
    handle_signals,
    lock_folder,
    refusing,
    release_stale_tasks,
    require_scheduler,
    wait_for_cooldown,
)
from tasks.report import STRICT, StudyCheck, print_summary_at_exit

Task = TypeVar("Task", bound=type[luigi.Task])

_resolved: dict[str, RunDirectory] = {}


class OverrideParameter(luigi.Parameter):
    """A key of a study on luigi's command line (settings.parse_option). "" if it is not given.

    Its value is canonical JSON text: the study itself checks it, and reports what is allowed.
    """

    def __init__(self, key: str, description: str) -> None:
        super().__init__(default="", description=description)
        self._key = key

    def normalize(self, value: Any) -> str:
        if isinstance(value, str):
            if not value.strip():
                return ""
            value = settings.parse_option(self._key, value)
        return json.dumps(recursively_unfreeze(value))


class TextsParameter(luigi.Parameter):
    """Texts on luigi's command line: a list in JSON, or one text as it is. Its value is the list in JSON."""

    def __init__(self, description: str) -> None:
        super().__init__(default="[]", description=f"{description}; several as a list in JSON")

    def normalize(self, value: Any) -> str:
        found = recursively_unfreeze(value)
        if isinstance(value, str):
            with suppress(ValueError):
                found = json.loads(value)
        return json.dumps([*map(str, found)] if isinstance(found, list) else [value] if value else [])


OVERRIDES = {key: OverrideParameter(key, text) for key, text in settings.OVERRIDES.items()}


def with_overrides(task: Task) -> Task:
    """Add one parameter for each key of a study to the task."""
    for key, parameter in OVERRIDES.items():
        setattr(task, key, parameter)
        # As Python does for what a class body assigns.
        parameter.__set_name__(task, key)
    return task


@with_overrides
class StudyTask(luigi.WrapperTask):
    """A study with its overrides, on this host. Complete when everything it asks for was measured and is ok."""

    output_dir: str = luigi.Parameter(default="outputs", description="the folder of all run directories")
    fresh: bool = luigi.BoolParameter(description="measure everything again, in a new run directory")
    strict: bool = luigi.BoolParameter(description=STRICT)
    long: bool = luigi.BoolParameter(
        significant=False, description="start even if this takes more than two hours on the cpu device"
    )
    night: str = luigi.Parameter(default="", description="measured again for each night; NightlySweep sets it")
    host: str = luigi.Parameter(default=socket.gethostname(), description="this host; not to be set")
    into: str = luigi.Parameter(default="", description="the folder of one of many hosts; numastudy submit sets it")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Invalid input is rejected here, before any task is scheduled and before anything is created or deleted.
        with refusing():
            self.study = self.load()
            require_scheduler()

    def load(self) -> StudyDefinition:
        """Raise StudyError."""
        return load_study(self.study_file(), self.overrides())

    def overrides(self) -> dict[str, Any]:
        """The overrides that were given, as plain values by key."""
        texts: dict[str, str] = {key: getattr(self, key) for key in OVERRIDES}
        return {key: json.loads(text) for key, text in texts.items() if text}

    def study_file(self) -> Path:
        name = type(self).__name__
        if name not in TASKS:
            raise StudyError(f"{name} itself is not a study", advice=f"name one: {', '.join(TASKS)}, Study")
        return study_path(name)

    def to_str_params(self, only_significant: bool = False, only_public: bool = False) -> dict[str, str]:
        """Of the overrides only those that were given: names on the scheduler's page stay short."""
        params = super().to_str_params(only_significant, only_public)
        short = (*OVERRIDES, "long", "night", "into")
        return {key: value for key, value in params.items() if key not in short or value not in ("", "False")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value}' for key, value in self.to_str_params().items())})"

    def directory(self) -> RunDirectory:
        with refusing():
            # Nights are compared with each other, and the hosts of a cluster too.
            if self.task_id not in _resolved and not (self.into or self.night):
                # A job of a cluster was planned by somebody.
                long = self.long or "SLURM_JOB_ID" in os.environ
                refuse_start(self.study, Path(self.output_dir), self.fresh, long, _own_command())
            return self.resolved()

    def resolved(self) -> RunDirectory:
        """The run directory, resolved when the scheduler first asks and then remembered for this call of luigi.

        Raise StudyError if this host cannot measure the study, AlreadyRunning if another call measures it.
        """
        if self.task_id not in _resolved:
            if self.into:
                directory = resolve_into(self.study, Path(self.into), self.host, INVOCATION, self.expand)
            else:
                directory = self._resolve()
            lock_folder(directory.path)
            preflight(directory, self.strict)
            if note := without_placements(self.study, directory.grid(), directory.host()):
                print(visible(f"note: {note}"), file=sys.stderr)
            if left_out := left_out_text(directory.study()):
                print(visible(f"note: {left_out}"), file=sys.stderr)
            handle_signals(self)
            remove_stale(directory.path, "**/.*.part")
            print_summary_at_exit(directory)
            release_stale_tasks(directory.path, run_dir=str(directory.path))
            wait_for_cooldown(directory)
            _resolved[self.task_id] = directory
        return _resolved[self.task_id]

    def _resolve(self) -> RunDirectory:
        try:
            return resolve(self.study, Path(self.output_dir), self.fresh, INVOCATION, self.night, self.expand)
        except HostChanged as error:
            raise StudyError(error.what, error.where, f"{error.advice}: {_own_command()} --fresh") from None

    def expand(self, study: StudyDefinition, topology: Topology) -> Expansion:
        return expand_in_time(study, topology, Path(self.output_dir))

    def complete(self) -> bool:
        # luigi would print a traceback.
        with refusing():
            return super().complete()

    def requires(self) -> StudyCheck:
        return StudyCheck(run_dir=str(self.directory().path), host=self.host, strict=self.strict)


def _own_command() -> str:
    """As it can be pasted, also where the environment is not activated."""
    program = sys.argv[0]
    started = [sys.executable, "-m", "luigi"] if Path(program).name == "__main__.py" else [program]
    name = Path(started[0]).name
    found = shutil.which(name)
    if found and Path(found).absolute() == Path(started[0]).absolute():
        started[0] = name
    return shlex.join([*started, *sys.argv[1:]])


class NearestNode(StudyTask):
    """Every GPU x every node x 2 models: which node is near each GPU, and what another one costs at most."""


class NumaStudy(StudyTask):
    """48 cells: 4 GPUs x 2 nodes x 6 models."""


class QuickTest(StudyTask):
    """3 cells, on any machine."""


class ScalingStudy(StudyTask):
    """9 cells: a series in depth and one in dim."""


class SelfCheck(StudyTask):
    """Every cell twice under two labels: the noise floor of this host."""


class Study(StudyTask):
    """Any other study: --config-file FILE, or the name of a shipped one."""

    config_file: str = luigi.Parameter(default="", description="the study file, or the name of a shipped one; required")

    def study_file(self) -> Path:
        # luigi would report a missing parameter with a traceback.
        if not self.config_file:
            raise StudyError("Study needs a file", "Study", "add --config-file FILE, or the name of a shipped study")
        return study_path(self.config_file)


class CommandStudy(StudyTask):
    """Any command in place of the pipeline: --command 'PROGRAM ARGUMENT...' (docs/own_workloads.md)."""

    config_file: str = luigi.Parameter(default="", description="a study file; these options change its block `command`")
    server: str = luigi.Parameter(default="", description="a server that is started before the command")
    ready: str = luigi.Parameter(default="", description="when it is ready: a URL, or a regex of a line that it writes")
    read: str = luigi.Parameter(default="", description="the program that wrote the output: json, vllm, wall, ...")
    metric: str = TextsParameter(description="a number in the output: NAME=REGEX,UNIT,higher or lower")
    env: str = TextsParameter(description="a variable of the command, stored with the study: NAME=VALUE")
    pass_env: str = TextsParameter(description="the name of a variable whose value is passed and never stored")

    def load(self) -> StudyDefinition:
        texts = (tuple(json.loads(each)) for each in (self.metric, self.env, self.pass_env))
        asked = Asked(self.server, self.ready, self.read, *texts).block()
        overrides = self.overrides()
        given = overrides.pop("command", {})
        block = (given if isinstance(given, dict) else {"run": given}) | asked
        if self.config_file:
            return load_study(self.config_file, overrides | ({"command": block} if block else {}))
        return read_study(study_of(block), "CommandStudy", overrides)
