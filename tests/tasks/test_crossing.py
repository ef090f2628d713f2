"""Crossings as tasks: the runs of one process are complete together, and are measured again together."""

import json
import os
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from bench.records.run import Crossing, Outcome, ProcessId, Result, Run, read_head, write_record
from bench.records.study import TRACED, Slot
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study
from bench.study.order import measuring_order
from bench.workload.progress import Phase, read_progress
from tasks.luigi_runtime import INVOCATION
from tasks.stages import LARGE_STUDY_TASKS, TASK_PER_RUN, RunPipeline, pieces
from tests.tasks.instant_calls import InstantCalls
from tests.tasks.study_calls import TINY, Calls

pytestmark = pytest.mark.needs("numactl")

CROSSED = TINY | {"binding": "numactl", "design": "crossing"}
FIRST, AGAIN = "pipeline_gpu0_numa0_vit0x0x0", "pipeline_gpu0_numa0_vit0x0x0_again"
# Of the calls of luigi: the rounds of their crossings are as short as can be.
SHORT = """
import os, sys
if os.path.basename(sys.orig_argv[1] if len(sys.orig_argv) > 1 else "") == "luigi":
    from functools import partial
    import bench.run.crossing as crossing
    crossing.Group = partial(crossing.Group, measure_s=MEASURE_S, window_s=0.002, lead_s=0.002)
"""


def shorten(calls: Calls, measure_s: float) -> None:
    (calls.folder / "site" / "sitecustomize.py").write_text(SHORT.replace("MEASURE_S", str(measure_s)))


def made_run(slot: Slot, process: str, invocation: str = "before", status: Outcome = Outcome.OK) -> Run:
    crossing = Crossing(group=slot.group, process=1, id=process, birth_cpu_node=0, birth_mem_node=0)
    result = Result(throughput_samples_s=1.0) if status is Outcome.OK else None
    return Run(
        run=slot.run, cell=slot.cell, repeat=slot.repeat, status=status, result=result, invocation=invocation,
        crossing=crossing,
    )  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return resolve(read_study(CROSSED, "f"), tmp_path / "outputs", False, "now")


def task_of(directory: RunDirectory) -> RunPipeline:
    return RunPipeline(run_dir=str(directory.path), host="here", cell=FIRST, repeat="1", count=2)


def write(directory: RunDirectory, run: Run) -> None:
    write_record(directory.record(run.cell, run.repeat), run)


def test_task_is_complete_with_all_records_of_one_process(directory: RunDirectory) -> None:
    first, again = task_of(directory).slots
    assert not task_of(directory).complete()
    write(directory, made_run(first, "a" * 32))
    assert not task_of(directory).complete()
    write(directory, made_run(again, "a" * 32))
    assert task_of(directory).complete()
    assert read_head(directory.record(FIRST, 1)).crossing == ProcessId(id="a" * 32)


def test_task_is_not_complete_with_records_of_two_processes(directory: RunDirectory) -> None:
    first, again = task_of(directory).slots
    write(directory, made_run(first, "a" * 32))
    write(directory, made_run(again, "b" * 32))
    assert not task_of(directory).complete()


def test_one_failed_cell_makes_the_next_call_repeat_all(directory: RunDirectory) -> None:
    first, again = task_of(directory).slots
    write(directory, made_run(first, "a" * 32))
    write(directory, made_run(again, "a" * 32, status=Outcome.OOM))
    assert not task_of(directory).complete()
    write(directory, made_run(first, "b" * 32, INVOCATION))
    write(directory, made_run(again, "b" * 32, INVOCATION, Outcome.OOM))
    assert task_of(directory).complete()


@pytest.mark.parametrize("groups", [3, 700])
def test_pieces_keep_the_runs_of_a_process_together(groups: int) -> None:
    births = {f"g{number}": ((0, 0), (1, 1)) for number in range(0, groups, 2)}
    cells = [(f"g{number}_{node}", f"g{number}") for number in range(groups) for node in range(2)]
    slots = measuring_order(cells, 2, 0, births=births)
    found = pieces(slots)
    assert [slot for piece in found for slot in piece] == slots
    homes = Counter(process for piece in found for process in {(slot.process, slot.repeat) for slot in piece})
    whole = {times for (_, repeat), times in homes.items() if repeat != TRACED or groups > 3}
    assert whole == {1}, "only a traced process of a small study is exported by a task for each cell"
    assert all(len({slot.repeat == TRACED for slot in piece}) == 1 for piece in found)
    assert len(found) <= max(TASK_PER_RUN, LARGE_STUDY_TASKS + 2)


def test_process_is_a_task_and_demand_asks_for_whole_ones(tmp_path: Path) -> None:
    study = CROSSED | {"repeats": 2, "target_precision": 0.02, "max_repeats": 6}
    calls = InstantCalls(tmp_path / "work", ["--local-scheduler"], study)
    calls.stub = {"INSTANT_DEMAND": "4", "INSTANT_TASK_PER_RUN": "100"}
    done = calls.run()
    assert done.returncode == 0, done.stderr
    # The time is that of the process, once for all of its cells.
    assert re.search(rf"^1/\d+  {FIRST}  +repeat 1/2  ok, [\d,.]+ samples/s$", done.stderr, re.MULTILINE)
    assert re.search(rf"^2/\d+  {AGAIN}  repeat 1/2  ok, [\d,.]+ samples/s  0 s for 2 cells", done.stderr, re.MULTILINE)
    assert calls.ran(done)["RunPipeline"] == 4 + 1, "the traced runs are one process too"
    expected = [f"{cell}_r{repeat}" for repeat in (1, 2) for cell in (FIRST, AGAIN)]
    assert calls.measured()[:4] == expected
    assert calls.measured()[6:] == [f"{cell}_r{repeat}" for repeat in (3, 4) for cell in (FIRST, AGAIN)]
    ids = {name: record["crossing"]["id"] for name, record in calls.records().items() if "traced" not in name}
    assert len(set(ids.values())) == 4 and ids[f"{FIRST}_r3"] == ids[f"{AGAIN}_r3"]
    # One record of a process is lost: both are measured again.
    (calls.run_directory() / "runs" / f"{AGAIN}_r2.json").unlink()
    calls.stub |= {"INSTANT_FAIL": AGAIN}
    failed = calls.run()
    assert failed.returncode == 30 and f"CellCheck: {AGAIN}_r2: crashed: instantly" in failed.stderr
    assert calls.measured()[10:] == [f"{FIRST}_r2", f"{AGAIN}_r2"]
    calls.stub.pop("INSTANT_FAIL")
    assert calls.run().returncode == 0
    assert calls.times_measured()[f"{FIRST}_r2"] == 3 and calls.times_measured()[f"{FIRST}_r1"] == 1


def is_measuring(calls: Calls) -> bool:
    """Whether the process of the group is in its rounds."""
    for pid in calls.workloads("--group"):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            progress = Path(line[line.index("--progress") + 1]).read_bytes()
            return read_progress(progress)[2] == Phase.MEASURING
    return False


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_crossing_is_measured_again_whole(tmp_path: Path) -> None:
    # The command line of a forked process has no room for its arguments.
    calls = Calls(tmp_path / "work", ["--local-scheduler"], CROSSED | {"start": "exec"})
    shorten(calls, 60.0)
    luigi = calls.start()
    while not is_measuring(calls):
        assert luigi.poll() is None, luigi.communicate()
        time.sleep(0.05)
    os.killpg(luigi.pid, signal.SIGKILL)
    luigi.communicate(timeout=240)
    calls.wait_until_no_workload()
    assert calls.records() == {}
    shorten(calls, 0.05)
    done = calls.run()
    assert done.returncode == 0, done.stderr
    records = calls.records()
    assert sorted(records) == sorted(calls.order())
    assert records[f"{FIRST}_r1"]["crossing"]["id"] == records[f"{AGAIN}_r1"]["crossing"]["id"]
    assert set(calls.times_measured().values()) == {1}
    results = json.loads((calls.run_directory() / "results.json").read_text())
    assert {cell["outcome"] for cell in results["cells"]} == {"ok"}
    page = (calls.run_directory() / "report.html").read_text()
    assert "logs/gpu0_vit0x0x0_r1.stderr" in page
    again = calls.run()
    assert again.returncode == 0 and set(calls.times_measured().values()) == {1}
