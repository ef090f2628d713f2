"""What comes before the first run of a study: the checks of the host, the locality probe, the link benchmark."""

import sys
from functools import cache
from pathlib import Path

import luigi

from bench.errors import StudyError
from bench.records.host import CheckName, CheckState
from bench.records.run import Outcome, ProbeStage, write_record
from bench.records.study import Cell
from bench.run.progress import Progress
from bench.study.directory import RunDirectory
from bench.units import byte_size
from tasks.base import DirectoryTask, Exclusive, RecordTask, grid_of
from tasks.luigi_runtime import INVOCATION, host_lock
from tasks.progress import WaitProgress, reporting


def preflight(directory: RunDirectory, strict: bool) -> None:
    """Check the host once for a study and print what is not ok. Raise StudyError for any of it if strict, and for what
    no run of it could do: to pin its pools."""
    if directory.preflight.exists() and not strict:
        return
    from bench.host.doctor import run_doctor

    grid = grid_of(str(directory.path))
    processes = [[grid.cell(slot.cell) for slot in grid.process(one)] for one in grid.order]
    pools_mb = max(sum(cell.memory_size_mb for cell in cells) for cells in processes)
    pinned_mb = max(sum(cell.memory_size_mb for cell in cells if _is_pinned(cell)) for cells in processes)
    found = run_doctor(directory.path, pools_mb << 20, pinned_mb << 20)
    # Before the record is written: the next call looks again.
    for check in found.checks:
        if check.name is CheckName.LOCKED_MEMORY and check.state is CheckState.ERROR:
            what = f"locked memory is {check.fact}; a process of this study pins {byte_size(pinned_mb << 20)}"
            raise StudyError(what, "this process's limits", check.remedy)
    write_record(directory.preflight, found)
    failed = [check for check in found.checks if check.state is not CheckState.OK]
    for check in failed:
        command = f"\n         {check.command}" if check.command else ""
        print(f"{check.state}: {check.name}: {check.fact}\n  to do: {check.remedy}{command}", file=sys.stderr)
    if strict and failed:
        names = "; ".join(check.name for check in failed)
        raise StudyError(
            f"{len(failed)} warnings of the preflight are errors with --strict: {names}",
            str(directory.preflight),
            "`numastudy doctor` lists what to do about each",
        )


def _is_pinned(cell: Cell) -> bool:
    return cell.device == "cuda" and cell.host_memory != "pageable"


class Probe(Exclusive, RecordTask):
    """Small-copy latency from each node to each GPU, in seconds. The record says what could not be measured."""

    when = "before"
    activity = "probing locality"
    share_done = 0.0

    @property
    def record_path(self) -> Path:
        return self.directory.probe(self.when)

    def run(self) -> None:
        from bench.host.probe import measured_locality

        wait = WaitProgress()
        with reporting(self) as reporter:

            def report_wait(progress: Progress) -> None:
                reporter(progress.text, progress.percent)
                wait(progress.text)

            host_lock().acquire(str(self.directory.path), report_wait)
            found = measured_locality(self.directory.study().device)
        state = self.directory.state()
        stage = ProbeStage(status=Outcome.OK, invocation=INVOCATION, state=state, found=found)
        write_record(self.record_path, stage)


class MeasureLink(Exclusive, RecordTask):
    """Bandwidth over sizes, small copies and launches. A failure is a record, and stops nothing."""

    link: str = luigi.Parameter(description="GPU and nodes, as gpu0_numa0")
    priority = 1
    activity = "measuring a link"
    share_done = 0.0

    @property
    def record_path(self) -> Path:
        return self.directory.link(self.link)

    def requires(self) -> Probe:
        return Probe(**self.where)

    def run(self) -> None:
        from bench.run.stages import measure_link

        cell = links_of(self.run_dir)[self.link]
        with reporting(self) as reporter:

            def report(progress: Progress) -> None:
                reporter(f"link: {progress.text}", progress.percent)

            link = measure_link(self.directory, self.link, cell, INVOCATION, host_lock(), report)
            reporter(f"{link.status} {link.reason}".strip(), 100)


@cache
def links_of(run_dir: str) -> dict[str, Cell]:
    """By name, the links that the study measures."""
    if not RunDirectory(Path(run_dir)).study().measure_link:
        return {}
    from bench.run.stages import link_cells

    return link_cells(grid_of(run_dir).cells)


def before_runs(task: DirectoryTask) -> list[luigi.Task]:
    """The tasks that a run of the study requires."""
    links = [MeasureLink(**task.where, link=link) for link in links_of(task.run_dir)]
    return [*links] or [Probe(**task.where)]
