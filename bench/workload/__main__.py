"""python -m bench.workload: the program inside a cell.

Exit code 0: the result was written; 3: a named failure was written; anything else: a crash.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click
from msgspec.structs import replace

from bench.records.run import ChildReport, Group, Mode, Outcome
from bench.records.study import NO_COMPUTE, Cell
from bench.units import rate
from bench.workload.barrier import Barrier
from bench.workload.constraints import why_impossible
from bench.workload.failures import RunFailure, read_input, write_report
from bench.workload.progress import PhaseTimes, Progress

_THREADS = "OPENBLAS_NUM_THREADS"


@click.command()
@click.option("--cell", "cell_path", type=click.Path(path_type=Path), help="The cell: JSON.")
@click.option("--group", "group_path", type=click.Path(path_type=Path), help="The group to cross: JSON.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    required=True,
    help="load: run beside the measured process.",
)
@click.option("--result", type=click.Path(path_type=Path), required=True, help="File for the result.")
@click.option("--progress", "progress_path", type=click.Path(path_type=Path), help="A file to count into.")
@click.option(
    "--trace",
    "traces",
    multiple=True,
    type=click.Path(path_type=Path),
    help="File for torch.profiler's trace; of a group, one for each cell.",
)
@click.option(
    "--barrier",
    "barrier_folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An empty folder by which the processes of a contention run wait for each other.",
)
@click.option("--peers", type=click.IntRange(2), help="Processes that do so, this one included.")
def main(
    cell_path: Path | None,
    group_path: Path | None,
    mode: str,
    result: Path,
    progress_path: Path | None,
    traces: tuple[Path, ...],
    barrier_folder: Path | None,
    peers: int | None,
) -> None:
    """Run one cell once, or the cells of a group by turns, and write what they gave."""
    modes = (Mode.CROSSED, Mode.TRACED) if group_path else (Mode.TIMED, Mode.TRACED, Mode.LOAD)
    if (cell_path is None) == (group_path is None) or mode not in modes:
        raise click.UsageError(
            "--mode crossed needs --group, traced one of --group and --cell, every other mode --cell"
        )
    if (barrier_folder is None) != (peers is None) or (mode == Mode.LOAD and barrier_folder is None):
        raise click.UsageError("--barrier and --peers go together, and --mode load needs both")
    if group_path:
        sys.exit(run_group(group_path, Mode(mode), result, progress_path, traces, barrier_folder, peers or 1))
    assert cell_path is not None
    sys.exit(
        run_cell(cell_path, Mode(mode), result, progress_path, next(iter(traces), None), barrier_folder, peers or 1)
    )


def run_cell(
    cell_path: Path,
    mode: Mode,
    result: Path,
    progress_path: Path | None = None,
    trace: Path | None = None,
    barrier_folder: Path | None = None,
    peers: int = 1,
) -> int:
    """Run the cell and write its result. Return the exit code."""
    phases = PhaseTimes()

    def measure() -> ChildReport:
        phases.mark("interpreter")
        cell = read_input(cell_path, Cell)
        if violation := why_impossible(cell.model, cell):
            raise RunFailure(Outcome.NOT_RUNNABLE, violation.what, violation.advice)
        if mode is Mode.LOAD:
            cell = load_cell(cell)
        progress = Progress(progress_path)
        import_torch(cell.model.needs_timm)
        from bench.workload.run import execute

        phases.mark("imports")
        # Half the time of a run, so that a process that waits still ends by itself.
        barrier = Barrier(barrier_folder, peers, cell.timeout_s / 2) if barrier_folder else None
        measured = execute(cell, mode, progress, phases, trace, barrier)
        print(f"{cell.name} {mode}: {rate(measured.throughput_samples_s)} samples/s")
        return ChildReport(result=measured)

    return _reported(result, measure, barrier_folder, peers)


def run_group(
    group_path: Path,
    mode: Mode,
    result: Path,
    progress_path: Path | None = None,
    traces: Sequence[Path] = (),
    barrier_folder: Path | None = None,
    peers: int = 1,
) -> int:
    """Cross the cells of the group, or trace one after the other, and write the result. Return the exit code."""
    phases = PhaseTimes()

    def measure() -> ChildReport:
        phases.mark("interpreter")
        group = read_input(group_path, Group)
        first = group.cells[0]
        if violation := why_impossible(first.model, first):
            raise RunFailure(Outcome.NOT_RUNNABLE, violation.what, violation.advice)
        progress = Progress(progress_path)
        import_torch(first.model.needs_timm)
        from bench.workload.crossing import cross, trace

        phases.mark("imports")
        timeout_s = len(group.cells) * first.timeout_s
        barrier = Barrier(barrier_folder, peers, timeout_s / 2) if barrier_folder else None
        if mode is Mode.TRACED:
            crossing, crossed = trace(group, progress, phases, traces, barrier)
        else:
            crossing, crossed = cross(group, progress, phases, barrier)
        for one in crossed:
            found = f"{rate(one.result.throughput_samples_s)} samples/s" if one.result else "not measured"
            print(f"{one.cell} {mode}: {found}")
        return ChildReport(crossing=crossing, crossed=crossed)

    return _reported(result, measure, barrier_folder, peers)


def _reported(result: Path, measure: Callable[[], ChildReport], barrier_folder: Path | None, peers: int) -> int:
    """Write what it measured, or why it failed, which the processes beside it learn too. Return the exit code."""
    code = write_report(result, measure)
    if code and barrier_folder:
        Barrier(barrier_folder, peers, 0).failed()
    return code


def load_cell(cell: Cell) -> Cell:
    """The cell of a process that loads the host: with concurrent_load copies it computes nothing."""
    return replace(cell, model=NO_COMPUTE) if cell.concurrent_load == "copies" else cell


def import_torch(with_timm: bool) -> None:
    """Here and not at first use, so that its time counts as imports. Raise RunFailure if that fails."""
    _import_numpy()
    try:
        import bench.workload.models as models

        if with_timm:
            models.import_timm()
    except ImportError as error:
        raise RunFailure(
            Outcome.CRASHED,
            f"cannot import {error.name or 'torch'}: {error}",
            "install the package with its constraints.txt",
        ) from error


def _import_numpy() -> None:
    """Without the threads that its OpenBLAS starts when it is loaded: nothing here computes with it."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    with suppress(ImportError):
        importlib.import_module("numpy")
    # A torch that is built on OpenBLAS reads it too.
    del os.environ[_THREADS]
    if before is not None:
        os.environ[_THREADS] = before


if __name__ == "__main__":
    main()
