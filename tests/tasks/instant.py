"""luigi with stubs in place of what takes time: `python -m tests.tasks.instant` in place of `luigi`.

Stubbed are the runs (each writes its record at once), the exports, the metrics, the report, and the statistics that
ask for more repeats. Real are luigi, every task, the study, its run directory, and what is read of it again and again.

INSTANT_FAIL: cells whose runs crash, separated by commas. INSTANT_SIGNAL: a signal that the second run sends to luigi.
INSTANT_DEMAND: timed repeats of every cell that the statistics ask for.
INSTANT_TASK_PER_RUN: runs up to which each is a task of its own; INSTANT_TASKS: tasks beyond that.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
from msgspec.structs import replace

import bench.run.attempt
import bench.run.crossing
import bench.run.stages
import tasks.progress
import tasks.report
import tasks.stages
from bench.records.base import Record
from bench.records.run import Crossing, Export, Outcome, Result, Run, Stage, Window, read_record
from bench.records.study import TRACED, Cell, Slot
from bench.study.directory import RunDirectory

FAIL = os.environ.get("INSTANT_FAIL", "").split(",")
RESULT = Result(throughput_samples_s=1000.0, windows=[Window(batches=10, duration_s=0.1)] * 9)


def execute(directory: RunDirectory, cell: Cell, slot: Slot, invocation: str, _lock: object, *_: object) -> Run:
    failed = cell.name in FAIL
    if os.environ.get("INSTANT_SIGNAL") and slot.position == 1:
        os.kill(os.getpid(), int(os.environ["INSTANT_SIGNAL"]))
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    run = Run(
        run=slot.run, cell=cell.name, repeat=slot.repeat, started_at=now, attempts=1, invocation=invocation,
        status=Outcome.CRASHED if failed else Outcome.OK, reason="instantly" if failed else "",
        result=None if failed else RESULT, wall_s=float(os.environ.get("INSTANT_WALL_S", "0")),
    )  # fmt: skip
    with directory.experiment_log.open("a") as log:
        log.write(f"{now} {slot.run} {run.status}\n")
    write(directory.record(cell.name, slot.repeat), run)
    return run


def execute_group(
    directory: RunDirectory, slots: Sequence[Slot], invocation: str, lock: object, *_: object
) -> list[Run]:
    first, grid = slots[0], directory.grid()
    crossing = Crossing(
        group=first.group, process=first.block, id=os.urandom(16).hex(), birth_cpu_node=0, birth_mem_node=0
    )
    runs = []
    for slot in slots:
        run = replace(execute(directory, grid.cell(slot.cell), slot, invocation, lock), crossing=crossing)
        write(directory.record(slot.cell, slot.repeat), run)
        runs.append(run)
    return runs


def export_trace(directory: RunDirectory, cell: Cell, invocation: str) -> None:
    run = read_record(directory.record(cell.name, TRACED), Run)
    write(directory.export_record(cell.name), follow(run, run.started_at, invocation))


def extract_metrics(directory: RunDirectory, cell: Cell, invocation: str) -> None:
    export = read_record(directory.export_record(cell.name), Export)
    write(directory.metrics(cell.name), follow(export, export.source, invocation))


def follow(before: Stage, source: str, invocation: str) -> Export:
    return Export(status=before.status, reason=before.reason, invocation=invocation, source=source)


def write(path: Path, record: Record) -> None:
    """Without a sync of the disk: with one for each record, the disk would take longer than luigi."""
    path.write_bytes(msgspec.json.encode(record))


def demanded(directory: RunDirectory) -> SimpleNamespace:
    """As bench.analysis.repeats.Demanded."""
    most = int(os.environ.get("INSTANT_DEMAND", "0"))
    repeats = {cell.name: most for cell in directory.grid().cells} if most else {}
    return SimpleNamespace(repeats=repeats, for_disturbed=repeats, for_precision={})


def stub_module(name: str, **functions: object) -> None:
    """In place of a module that imports pandas and matplotlib, which takes longer than the calls that are tested."""
    module = ModuleType(name)
    vars(module).update(functions)
    sys.modules[name] = module


def install() -> None:
    bench.run.attempt.execute = execute
    bench.run.crossing.execute_group = execute_group
    bench.run.stages.export_trace = export_trace
    bench.run.stages.extract_metrics = extract_metrics
    stub_module("bench.analysis.repeats", demanded=demanded)
    tasks.report.write_report = lambda directory: True
    tasks.report.WRITTEN = ()
    tasks.progress.READ_INTERVAL_S = float(os.environ.get("INSTANT_READ_S", tasks.progress.READ_INTERVAL_S))
    tasks.stages.TASK_PER_RUN = int(os.environ.get("INSTANT_TASK_PER_RUN", tasks.stages.TASK_PER_RUN))
    tasks.stages.LARGE_STUDY_TASKS = int(os.environ.get("INSTANT_TASKS", tasks.stages.LARGE_STUDY_TASKS))


if __name__ == "__main__":
    from luigi.cmdline import luigi_run

    install()
    luigi_run(["--module", "tasks", *sys.argv[1:]])
