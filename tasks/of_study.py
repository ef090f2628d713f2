"""What tasks inside a run directory have in common."""

from functools import cache, cached_property
from pathlib import Path
from typing import Any

import luigi

from bench.run.record import is_final, read_head
from bench.study.directory import Grid, RunDirectory
from tasks.luigi_runtime import INVOCATION


@cache
def grid_of(run_dir: str) -> Grid:
    return RunDirectory(Path(run_dir)).grid()


class OfStudy(luigi.Task):
    """A task inside one run directory. host: where hosts share a scheduler, each runs its own tasks."""

    run_dir = luigi.Parameter(description="the study's folder")
    host = luigi.Parameter(description="the host that measures")

    @cached_property
    def directory(self) -> RunDirectory:
        return RunDirectory(Path(self.run_dir))


class InTurn(OfStudy):
    """Measures, or would disturb what is measured: one such task of a study at a time."""

    @property
    def resources(self) -> dict[str, int]:
        # A name that is short enough for the page.
        return {"/".join([self.host, *self.directory.path.parts[-3:]]): 1}


class Recorded(OfStudy):
    """Leaves one record; what failed is one too, and is tried again by the next call."""

    record_path: Path

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.record_path))

    def record(self) -> dict[str, Any] | None:
        return read_head(self.record_path)

    def complete(self) -> bool:
        return is_final(self.record(), INVOCATION)
