"""What every task inside a run directory has."""

from functools import cache
from pathlib import Path

import luigi

from bench.study.directory import Grid, RunDirectory


@cache
def grid_of(run_dir: str) -> Grid:
    return RunDirectory(Path(run_dir)).grid()


class OfStudy(luigi.Task):
    """A task inside one run directory. host: where hosts share a scheduler, each runs its own tasks."""

    run_dir = luigi.Parameter(description="the study's folder")
    host = luigi.Parameter(description="the host that measures")

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(Path(self.run_dir))

    @property
    def turns(self) -> dict[str, int]:
        """The resource of what may not go on at once, by a name that is short enough for the page."""
        return {"/".join([self.host, *self.directory.path.parts[-3:]]): 1}
