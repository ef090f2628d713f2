"""Tasks before the first run: preflight, locality probe, link benchmark."""

import sys
from functools import cache, cached_property
from pathlib import Path

import luigi

from bench.errors import StudyError
from bench.host.doctor import OK as OKPreflight
from bench.host.doctor import run_doctor
from bench.run.record import OK, failure, write_record
from bench.run.stages import link_cells, measure_link
from bench.storage import write_json
from bench.study.cell import Cell
from bench.study.directory import RunDirectory
from tasks.luigi_runtime import INVOCATION, host_lock
from tasks.of_study import InTurn, OfStudy, Recorded, grid_of
from tasks.progress import WaitOnTerminal, reporting

# --- probe
# Measured locality, before the first run of a study.

class Probe(InTurn, Recorded):
    """Small-copy latency from each node to each GPU. Seconds; what it cannot find out is in its record."""

    when = "before"

    @cached_property
    def record_path(self) -> Path:
        return self.directory.probe(self.when)

    def run(self) -> None:
        from bench.host.probe import measured_locality

        wait = WaitOnTerminal()
        with reporting(self) as reporter:

            def waiting(text: str) -> None:
                reporter(text, 1)
                wait(text)

            host_lock().acquire(str(self.directory.path), waiting)
            found = measured_locality(self.directory.study()["device"])
        state = self.directory.state()
        write_record(self.record_path, {"invocation": INVOCATION, "state": state, **failure(OK, ""), "found": found})


# --- links
# The link of each GPU from each placement, measured before the first run.

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


# --- preflight
# The doctor's look at the host before a study measures anything. Kept beside the study, for its report.

def preflight(directory: RunDirectory, strict: bool) -> None:
    """Run the doctor once for a study and print what is not ok. Raise StudyError for any of it if strict."""
    if directory.preflight.exists() and not strict:
        return
    largest_mb = max(cell.memory_size_mb for cell in grid_of(str(directory.path)).cells.values())
    checks = run_doctor(directory.path, largest_mb << 20)
    write_json(directory.preflight, {"checks": [vars(check) for check in checks]})
    bad = [check for check in checks if check.state != OKPreflight]
    for check in bad:
        print(f"{check.state}: {check.name}: {check.fact}\n  to do: {check.remedy}", file=sys.stderr)
    if strict and bad:
        raise StudyError(
            f"{len(bad)} warnings of the preflight are errors with --strict: " + "; ".join(check.name for check in bad),
            str(directory.preflight),
            "numastudy doctor says what to do about each",
        )
