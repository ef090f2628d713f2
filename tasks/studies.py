"""The studies a user names: each expands into runs, exports, metrics, a report and a check."""

import socket
from pathlib import Path

import luigi

from bench.errors import StudyError
from bench.storage import remove_stale
from bench.study.directory import RunDirectory, resolve, resolve_into
from bench.study.load import TASKS, load_study, study_path
from tasks.before_runs import preflight
from tasks.luigi_runtime import (
    INVOCATION,
    OVERRIDES,
    Overrides,
    close_with_summary,
    given,
    host_lock,
    refusing,
    stop_cleanly,
    wait_for_cooldown,
)
from tasks.report import StudyCheck

_resolved: dict[str, RunDirectory] = {}


class StudyTask(Overrides, luigi.WrapperTask):
    """A study with its overrides, on this host. Complete when everything it asks for was measured and is ok."""

    output_dir = luigi.Parameter(default="outputs", description="where run directories are made")
    fresh = luigi.BoolParameter(description="measure all of it again, in a new run directory")
    strict = luigi.BoolParameter(description="a cell that cannot run on this host is a failure")
    night = luigi.Parameter(default="", description="measured anew for each night; NightlySweep sets it")
    host = luigi.Parameter(default=socket.gethostname(), description="this host; not to be set")
    into = luigi.Parameter(default="", description="one host's folder among many; numastudy submit sets it, and host")

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        # Bad input ends here, before the scheduler hears of anything. Nothing is made or deleted yet:
        # luigi constructs tasks before it takes its own lock.
        with refusing():
            self.study = load_study(self.study_file(), given(self))

    def study_file(self) -> Path:
        name = type(self).__name__
        if name not in TASKS:
            raise StudyError(f"{name} itself is no study", advice=f"name one: {', '.join(TASKS)}, Study")
        return study_path(name)

    def to_str_params(self, only_significant: bool = False, only_public: bool = False) -> dict[str, str]:
        """Of the overrides only those that were given: names on the scheduler's page stay short."""
        params = super().to_str_params(only_significant, only_public)
        return {key: value for key, value in params.items() if value or key not in (*OVERRIDES, "night", "into")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value}' for key, value in self.to_str_params().items())})"

    def directory(self) -> RunDirectory:
        with refusing():
            return self.resolved()

    def resolved(self) -> RunDirectory:
        """Resolved once in a call of luigi, when the scheduler first asks, and then remembered.

        Raise StudyError if this host cannot measure the study.
        """
        if self.task_id not in _resolved:
            if self.into:
                found = resolve_into(self.study, Path(self.into), self.host, INVOCATION)
            else:
                found = resolve(self.study, Path(self.output_dir), self.fresh, INVOCATION, self.night)
            preflight(found, self.strict)
            host_lock()
            stop_cleanly()
            remove_stale(found.path, "**/.*.part")
            close_with_summary(found)
            wait_for_cooldown(found)
            _resolved[self.task_id] = found
        return _resolved[self.task_id]

    def requires(self) -> StudyCheck:
        return StudyCheck(run_dir=str(self.directory().path), host=self.host, strict=self.strict)


class NumaStudy(StudyTask):
    """48 cells: 4 GPUs x 2 nodes x 6 models."""


class QuickTest(StudyTask):
    """3 cells, on any machine."""


class ScalingStudy(StudyTask):
    """9 cells: a series in depth and one in dim."""


class SelfCheck(StudyTask):
    """Every cell twice under two labels: the noise floor of this host."""


class Study(StudyTask):
    """Any other study: --config-file FILE, or the name of one that ships."""

    config_file = luigi.Parameter(default="", description="the study file, or the name of one that ships; needed")

    def study_file(self) -> Path:
        # Left to luigi, a parameter that is missing is a traceback.
        if not self.config_file:
            raise StudyError("Study needs a file", "Study", "add --config-file FILE, or the name of one that ships")
        return study_path(self.config_file)
