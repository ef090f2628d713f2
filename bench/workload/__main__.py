"""python -m bench.workload: the program that runs inside a cell.

Exit code 0: the result was written; 3: a failure with a name was written; anything else: a crash.
"""

import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from bench.storage import read_json
from bench.workload.barrier import Barrier, Progress
from bench.workload.cell import as_load, parse_cell
from bench.workload.failures import CRASHED, RunFailure
from bench.workload.result import write_result
from bench.workload.run import Phases

_THREADS = "OPENBLAS_NUM_THREADS"
MODES = ("timed", "traced", "load")


@click.command()
@click.option("--cell", "cell_path", type=click.Path(path_type=Path), required=True, help="The cell: JSON.")
@click.option("--mode", type=click.Choice(MODES), required=True, help="load: run beside the measured process.")
@click.option("--result", type=click.Path(path_type=Path), required=True, help="Where the result goes.")
@click.option("--progress", "progress_path", type=click.Path(path_type=Path), help="16 bytes to count into.")
@click.option("--trace", type=click.Path(path_type=Path), help="Where torch.profiler's trace goes.")
@click.option(
    "--barrier",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An empty folder in which the processes of a contention run meet.",
)
@click.option("--peers", type=click.IntRange(2), help="Processes that meet there, this one included.")
def main(
    cell_path: Path,
    mode: str,
    result: Path,
    progress_path: Path | None,
    trace: Path | None,
    barrier: Path | None,
    peers: int | None,
) -> None:
    """Run one cell once and write its result."""
    if (barrier is None) != (peers is None) or (mode == "load" and barrier is None):
        raise click.UsageError("--barrier and --peers go together, and --mode load needs both")
    sys.exit(run_cell(cell_path, mode, result, progress_path, trace, barrier, peers or 1))


def run_cell(
    cell_path: Path,
    mode: str,
    result: Path,
    progress_path: Path | None = None,
    trace: Path | None = None,
    barrier: Path | None = None,
    peers: int = 1,
) -> int:
    """Run the cell and write its result; the exit code."""
    phases = Phases()

    def measure() -> dict[str, Any]:
        phases.mark("interpreter")
        raw = read_json(cell_path)
        if mode == "load":
            raw = as_load(raw)
        cell = parse_cell(raw)
        progress = Progress(progress_path)
        import_torch(cell.model.computes)
        from bench.workload.run import execute

        phases.mark("imports")
        # Half the time of a run, so that the one that waits still ends by itself.
        meeting = Barrier(barrier, peers, cell.timeout_s / 2) if barrier else None
        record = execute(raw, mode, progress, phases, trace, meeting)
        print(f"{cell.name} {mode}: {record['throughput_samples_s']:.1f} samples/s")
        return record

    code = write_result(result, measure)
    if code and barrier:
        Barrier(barrier, peers, 0).failed()
    return code


def import_torch(computes: bool) -> None:
    """Here and not at first use, so that the time is booked as imports. Raise RunFailure if it cannot be."""
    _import_numpy()
    try:
        import bench.workload.models as models

        if computes:
            models.import_timm()
    except ImportError as error:
        raise RunFailure(
            CRASHED,
            f"cannot import {error.name or 'torch'}: {error}",
            "install the package with its constraints.txt",
        ) from error


def _import_numpy() -> None:
    """Without the threads that its OpenBLAS starts when it is loaded: nothing here computes with it."""
    said = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    with suppress(ImportError):
        importlib.import_module("numpy")
    # A torch that is built on OpenBLAS reads it too.
    del os.environ[_THREADS]
    if said is not None:
        os.environ[_THREADS] = said


if __name__ == "__main__":
    main()
