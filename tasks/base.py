"""What the tasks of a run directory share: its folder, one measurement at a time, a record that completes a task."""

from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import luigi

from bench.errors import StudyError
from bench.records.run import Head, read_head
from bench.records.study import Grid
from bench.study.directory import RunDirectory
from tasks.luigi_runtime import INVOCATION


@cache
def grid_of(run_dir: str) -> Grid:
    return RunDirectory(Path(run_dir)).grid()


class ReasonTask(luigi.Task):
    """Shows on the scheduler's page why it failed, without a traceback where the reason says it all."""

    def on_failure(self, exception: BaseException) -> str:
        return str(exception) if isinstance(exception, StudyError) else super().on_failure(exception)


class DirectoryTask(ReasonTask):
    """A task inside one run directory.

    host: hosts that share a scheduler each run their own tasks. activity: shown in the terminal while the task runs,
    with a bar that is full to share_done.
    """

    run_dir: str = luigi.Parameter(description="the run directory of the study")
    host: str = luigi.Parameter(description="the host that measures")
    activity: ClassVar[str] = ""
    share_done: ClassVar[float] = 1.0

    @cached_property
    def directory(self) -> RunDirectory:
        return RunDirectory(Path(self.run_dir))

    @property
    def where(self) -> dict[str, Any]:
        """The parameters that every task of this run directory shares."""
        return {"run_dir": self.run_dir, "host": self.host}


class Exclusive(DirectoryTask):
    """Measures, or would disturb a measurement: one such task of a study at a time."""

    @property
    def resources(self) -> dict[str, int]:  # type: ignore[override]  # luigi declares an attribute, and reads it only
        # The last parts of the path: short enough for the page.
        return {"/".join([self.host, *self.directory.path.parts[-3:]]): 1}


class RecordTask(DirectoryTask):
    """Writes one record, on success or failure; after a failure the next call of luigi tries again."""

    @property
    def record_path(self) -> Path:
        raise NotImplementedError

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.record_path))

    def head(self) -> Head | None:
        return read_head(self.record_path)

    def complete(self) -> bool:
        head = self.head()
        return head is not None and head.is_final(INVOCATION)
