"""luigi with stubs in place of what takes time: `python -m tests.tasks.instant` in place of `luigi`.

Stubbed are the runs (each writes its record at once), the exports, the metrics, the report, and the statistics that
ask for more repeats. Real are luigi, every task, the study, its run directory, and what is read of it again and again.

INSTANT_FAIL: cells whose runs crash, separated by commas. INSTANT_SIGNAL: a signal that the second run sends to luigi.
INSTANT_DEMAND: timed repeats of every cell that the statistics ask for.
INSTANT_TASK_PER_RUN: runs up to which each is a task of its own; INSTANT_TASKS: tasks beyond that.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import bench.run.attempt
import bench.run.stages
import tasks.report
import tasks.stages
from bench.legacy.record import CRASHED, OK, failure, passed_on, read_record
from bench.records.study import TRACED, Cell, Slot, run_name
from bench.study.directory import RunDirectory

Record = dict[str, Any]
FAIL = os.environ.get("INSTANT_FAIL", "").split(",")
RESULT = {"throughput_samples_s": 1000.0, "windows": [{"batches": 10, "duration_s": 0.1, "start_ns": 0}] * 9}


def execute(directory: RunDirectory, cell: Cell, slot: Slot, invocation: str, _lock: object, *_: object) -> Record:
    status, reason = (CRASHED, "instantly") if cell.name in FAIL else (OK, "")
    if os.environ.get("INSTANT_SIGNAL") and slot.position == 1:
        os.kill(os.getpid(), int(os.environ["INSTANT_SIGNAL"]))
    run, now = run_name(cell.name, slot.repeat), time.strftime("%Y-%m-%d %H:%M:%S")
    head = {"run": run, "cell": cell.name, "repeat": slot.repeat, "started_at": now, "wall_s": 0.0, "attempts": 1}
    record = head | {"invocation": invocation, "result": RESULT, **failure(status, reason, "do it again")}
    with directory.experiment_log.open("a") as log:
        log.write(f"{now} {run} {status}\n")
    return write(directory.record(cell.name, slot.repeat), record)


def export_trace(directory: RunDirectory, cell: Cell, invocation: str) -> Record:
    run = read_record(directory.record(cell.name, TRACED))
    record = {"invocation": invocation, "source": run["started_at"], **passed_on(run)}
    return write(directory.export_record(cell.name), record)


def extract_metrics(directory: RunDirectory, cell: Cell, invocation: str) -> Record:
    export = read_record(directory.export_record(cell.name))
    record = {"invocation": invocation, "source": export["source"], **passed_on(export)}
    return write(directory.metrics(cell.name), record)


def write(path: Path, record: Record) -> Record:
    """At once: a disk that is asked for every record takes longer than luigi does."""
    path.write_text(json.dumps(record))
    return record


def demanded(directory: RunDirectory) -> dict[str, int]:
    most = int(os.environ.get("INSTANT_DEMAND", "0"))
    return dict.fromkeys((cell.name for cell in directory.grid().cells), most) if most else {}


def stub_module(name: str, **functions: object) -> None:
    """In place of a module that imports pandas and matplotlib, which takes longer than what is tried here."""
    module = ModuleType(name)
    vars(module).update(functions)
    sys.modules[name] = module


def install() -> None:
    bench.run.attempt.execute = execute
    bench.run.stages.export_trace = export_trace
    bench.run.stages.extract_metrics = extract_metrics
    stub_module("bench.analysis.repeats", demanded=demanded)
    tasks.report.write_report = lambda directory: True
    tasks.stages.TASK_PER_RUN = int(os.environ.get("INSTANT_TASK_PER_RUN", tasks.stages.TASK_PER_RUN))
    tasks.stages.LARGE_STUDY_TASKS = int(os.environ.get("INSTANT_TASKS", tasks.stages.LARGE_STUDY_TASKS))


if __name__ == "__main__":
    from luigi.cmdline import luigi_run

    install()
    luigi_run(["--module", "tasks", *sys.argv[1:]])
