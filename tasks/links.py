"""The link of each GPU from each placement, measured before the first run."""

from functools import cache, cached_property
from pathlib import Path

import luigi

from bench.run.links import link_cells, measure_link
from bench.study.cell import Cell
from bench.study.directory import RunDirectory
from tasks.invocation import INVOCATION, host_lock
from tasks.of_study import InTurn, OfStudy, Recorded, grid_of
from tasks.probe import Probe
from tasks.reporting import reporting


class MeasureLink(InTurn, Recorded):
    """Bandwidth over sizes, small copies and launches. What failed is a record, and stops nothing."""

    link = luigi.Parameter(description="GPU and nodes, as gpu0_numa0")
    priority = 1

    @cached_property
    def record_path(self) -> Path:
        return self.directory.link(self.link)

    def requires(self) -> Probe:
        return Probe(run_dir=self.run_dir, host=self.host)

    def run(self) -> None:
        with reporting(self) as reporter:
            record = measure_link(
                self.directory, self.link, links_of(self.run_dir)[self.link], INVOCATION, host_lock(), reporter
            )
            reporter(f"{record['status']} {record['reason']}".strip(), 100)


@cache
def links_of(run_dir: str) -> dict[str, Cell]:
    """By name, the links that the study measures."""
    wanted = RunDirectory(Path(run_dir)).study()["measure_link"]
    return link_cells(grid_of(run_dir).cells.values()) if wanted else {}


def before_runs(task: OfStudy) -> list[luigi.Task]:
    """What comes before the first run: a look at the host, and at its links."""
    links = [MeasureLink(run_dir=task.run_dir, host=task.host, link=link) for link in links_of(task.run_dir)]
    return links or [Probe(run_dir=task.run_dir, host=task.host)]
