"""The link of each GPU from each placement, measured beside the pipeline: the ceiling that percentages refer to."""

import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.files import write_json
from bench.run.attempt import Report
from bench.run.lock import HostLock
from bench.run.process import Process, scratch_folder
from bench.run.record import write_record
from bench.run.step_aside import step_aside
from bench.study.cell import LATER_SETTINGS, Cell
from bench.study.directory import RunDirectory

# On an H100 host the sizes from 4 KiB to 1 GiB take seconds.
TIMEOUT_S = 300.0


def link_cells(cells: Iterable[Cell]) -> dict[str, Cell]:
    """For each GPU and placement of the cells that can run here, a cell that stands for it, by the link's name."""
    found: dict[str, Cell] = {}
    for cell in cells:
        if not cell.reason:
            found.setdefault(link_name(cell), _plain(cell))
    return found


def link_name(cell: Cell) -> str:
    suffix = f"_cpu{cell.cpu_node}" if cell.cpu_node != cell.mem_node else ""
    return f"gpu{cell.gpu}_numa{cell.mem_node}{suffix}"


def measure_link(
    directory: RunDirectory, name: str, cell: Cell, invocation: str, lock: HostLock, report: Report
) -> dict[str, Any]:
    """Write links/<name>.json: what was measured, or an outcome that says why nothing was."""
    cell_file = directory.path / "cells" / f"link_{name}.json"
    write_json(cell_file, cell.as_json())
    lock.acquire(str(directory.path), lambda holder: report(holder, 1))
    report("measuring the link", 50)
    begin = time.monotonic()
    logs = directory.log(f"link_{name}", "stdout"), directory.log(f"link_{name}", "stderr")
    with scratch_folder() as scratch:
        result = Path(scratch, "link.json")
        argv = [sys.executable, "-m", "bench.workload.microbench", "--cell", str(cell_file), "--result", str(result)]
        process = Process(cell, argv, logs, result)
        outcome = _outcome(process, directory, lock)
        record = outcome | {"result": process.read_result(), "command": process.command}
    return write_record(
        directory.link(name),
        {
            "invocation": invocation,
            "gpu": cell.gpu,
            "cpu_node": cell.cpu_node,
            "mem_node": cell.mem_node,
            "wall_s": round(time.monotonic() - begin, 3),
            **record,
        },
    )


def _outcome(process: Process, directory: RunDirectory, lock: HostLock) -> dict[str, Any]:
    cell = process.cell
    try:
        with step_aside(directory.host(), cell.cpu_node, cell.binding) as cpus:
            return process.outcome(process.run(lock, cpus))
    except OSError as error:
        return process.failed(error)


def _plain(cell: Cell) -> Cell:
    """The cell as far as the link is concerned."""
    return replace(cell, timeout_s=TIMEOUT_S, **{setting: getattr(Cell, setting) for setting in LATER_SETTINGS})
