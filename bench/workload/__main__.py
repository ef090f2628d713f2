"""python -m bench.workload: the program that runs inside a cell.

Exit code 0: the result was written; 3: a failure with a name was written; anything else: a crash.
"""

import sys
import traceback
from pathlib import Path

import click

from bench.files import write_json
from bench.workload.cell import read_cell
from bench.workload.failures import CRASHED, RunFailure, name_failure
from bench.workload.phases import Phases
from bench.workload.progress import Progress


@click.command()
@click.option("--cell", "cell_path", type=click.Path(path_type=Path), required=True, help="The cell: JSON.")
@click.option("--mode", type=click.Choice(["timed", "traced"]), required=True)
@click.option("--result", type=click.Path(path_type=Path), required=True, help="Where the result goes.")
@click.option("--progress", "progress_path", type=click.Path(path_type=Path), help="16 bytes to count into.")
@click.option("--trace", type=click.Path(path_type=Path), help="Where torch.profiler's trace goes.")
def main(cell_path: Path, mode: str, result: Path, progress_path: Path | None, trace: Path | None) -> None:
    """Run one cell once and write its result."""
    phases = Phases()
    try:
        phases.mark("interpreter")
        cell, raw = read_cell(cell_path)
        progress = Progress(progress_path)
        import_torch(cell.model.computes)
        from bench.workload.run import execute

        phases.mark("imports")
        record = execute(raw, mode, progress, phases, trace)
        write_json(result, record)
        print(f"{cell.name} {mode}: {record['throughput_samples_s']:.1f} samples/s")
    except Exception as error:
        failure = name_failure(error)
        write_json(result, failure.record())
        if failure.status == CRASHED and not isinstance(error, RunFailure):
            # For the log of the run: what the record says in one line.
            traceback.print_exc()
        print(failure, file=sys.stderr)
        sys.exit(failure.exit_code)


def import_torch(computes: bool) -> None:
    """Here and not at first use, so that the time is booked as imports. Raise RunFailure if it cannot be."""
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


if __name__ == "__main__":
    main()
