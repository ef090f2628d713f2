"""Delays of known size in the copy, launch and kernel path of the real workload: found, and where?

    python -m tests.validation.positive_controls --device cuda --budget-s 280 --out FILE.json

Every run is a process of its own, forked from this one, which has imported torch and never touched CUDA. Blocks,
pairs and turns as in a study (bench.study.order). Also: slower copies against what bench.results.bound predicts, and
CUDA events against the trace. On an idle machine only.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Before torch: a process that is to be forked should have no threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"

from bench.files import read_json, write_json
from bench.study.order import Slot, measuring_order
from bench.workload.models import import_timm
from bench.workload.phases import process_start
from tests.validation.control_clocks import compare_clocks
from tests.validation.control_page import text_table
from tests.validation.control_plan import Group, groups
from tests.validation.control_results import batch_us, summarise
from tests.validation.injected_workload import Injection, Job, Record, run_job

ROOT = Path(__file__).parents[2]
BASE = "base"
EXTRA_BLOCKS = 2
GIVE_UP = 3
RESERVE_S = 4.0
RUN_TIMEOUT_S = 60.0
# The pipeline whose batches carry copies of 6 MB each way.
CLOCKS_CELL = {"batch_size": 10, "image_size": 224, "num_samples": 1000, "buffers": 2}
PILOT_WINDOWS = 3


class ControlError(Exception):
    pass


class Runner:
    """Runs, the time left for them, and what went wrong."""

    def __init__(self, device: str, budget_s: float, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.deadline = process_start() + budget_s - RESERVE_S
        self.errors: list[Record] = []
        self.seconds: dict[str, float] = {}
        self.failed: dict[str, int] = {}
        self.second_traces = True
        self.count = 0

    def left_s(self) -> float:
        return self.deadline - time.clock_gettime(time.CLOCK_BOOTTIME)

    def note(self, where: str, error: BaseException | str) -> None:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.errors.append({"where": where, "error": text})
        print(f"ERROR in {where}: {text}", file=sys.stderr, flush=True)

    def run(self, group: Group, where: str, job: Job) -> Record | None:
        """None after a failure, which is noted."""
        began = time.monotonic()
        try:
            result = self.process(run_job, job)
            self.failed[group.name] = 0
            seconds = time.monotonic() - began
            self.seconds[group.name] = max(self.seconds.get(group.name, 0.0), seconds - (1.0 if job.traced else 0.0))
            said = f"{where}: {result['throughput_samples_s']:.1f} samples/s, {seconds:.1f} s"
            print(said, file=sys.stderr, flush=True)
        except Exception as error:
            self.failed[group.name] = self.failed.get(group.name, 0) + 1
            self.note(where, error)
            return None
        if "trace_error" in result:
            self.note(f"{where}, trace", result["trace_error"])
        return result

    def process(self, work: Callable[..., Record], *arguments: Any) -> Record:
        """What `work` returns, in a forked process. Raise ControlError with the child's words."""
        self.count += 1
        result, log = self.folder / f"{self.count}.json", self.folder / f"{self.count}.log"
        context = multiprocessing.get_context("fork")
        child = context.Process(target=_in_child, args=(work, arguments, result, log))
        child.start()
        timeout_s = min(RUN_TIMEOUT_S, max(20.0, self.left_s() + RESERVE_S))
        child.join(timeout_s)
        if child.is_alive():
            child.kill()
            child.join()
            raise ControlError(f"no result after {timeout_s:.0f} s")
        if not result.exists():
            raise ControlError(f"exit code {child.exitcode}: {_tail(log)}")
        return read_json(result)

    def executed(self, job: Job) -> Record:
        """In a new interpreter: for where a profiler does not work in a forked process."""
        self.count += 1
        job_path, result = self.folder / f"{self.count}.job.json", self.folder / f"{self.count}.json"
        write_json(job_path, {"cell": job.cell, "injection": asdict(job.injection), "traced": job.traced})
        command = [sys.executable, "-m", "tests.validation.injected_workload", str(job_path), str(result)]
        subprocess.run(command, check=True, cwd=ROOT, timeout=RUN_TIMEOUT_S, stdout=subprocess.DEVNULL)
        return read_json(result)


def _in_child(work: Callable[..., Record], arguments: tuple[Any, ...], result: Path, log: Path) -> None:
    code = 1
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            write_json(result, work(*arguments))
            code = 0
        except BaseException:
            file.write(traceback.format_exc().encode())
            file.flush()
        # Nothing here needs an orderly end, and torch's takes time.
        os._exit(code)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return " | ".join(lines[-3:])


def main() -> int:
    options = _options()
    chosen = [group for group in groups(options.device) if not options.groups or group.name in options.groups]
    if options.again:
        found = summed_up(read_json(options.again), chosen)
    else:
        import_timm()
        with tempfile.TemporaryDirectory() as folder:
            runner = Runner(options.device, options.budget_s, Path(folder))
            found = measure(runner, chosen, options.repeats, options.windows, options.out)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, found)
    print(text_table(found))
    return 0 if found["summary"]["as_expected"] else 1


def measure(runner: Runner, chosen: list[Group], repeats: int, windows: int, out: Path | None = None) -> Record:
    """All runs that the time allows, summed up. After every block `out` holds what there is so far."""
    record: Record = {"schema": 1, "device": runner.device, "ran_s": 0.0, "errors": runner.errors}
    record |= {"clocks": {}, "pilots": {}, "runs": {}}
    for group in chosen:
        cell = group.cell(runner.device) | {"windows": min(PILOT_WINDOWS, windows)}
        pilot = runner.run(group, f"{group.name}, pilot", Job(cell, group.base))
        if pilot:
            record["pilots"][group.name] = pilot
    try:
        if runner.device == "cuda" and runner.left_s() > 15:
            record["clocks"] = runner.process(compare_clocks, chosen[0].cell("cuda") | CLOCKS_CELL)
    except Exception as error:
        runner.note("CUDA events against trace", error)
    piloted = [group for group in chosen if group.name in record["pilots"]]
    for block in range(1, repeats + 1):
        try:
            one_block(runner, piloted, block, repeats, windows, record)
        except Exception as error:
            runner.note(f"block {block}", error)
        record["ran_s"] = time.clock_gettime(time.CLOCK_BOOTTIME) - process_start()
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, record)
    return summed_up(record, chosen)


def summed_up(record: Record, chosen: list[Group]) -> Record:
    """The rows made anew from the runs; an error is named and costs none of them."""
    raw = {key: record[key] for key in ("schema", "device", "ran_s", "clocks", "errors", "pilots", "runs")}
    try:
        found = summarise(record["device"], chosen, record["runs"])
    except Exception as error:
        raw["errors"].append({"where": "summary", "error": traceback.format_exc(limit=-3)})
        found = {"summary": {"as_expected": False, "error": str(error)}}
    return {**found, **raw}


def one_block(runner: Runner, chosen: list[Group], block: int, repeats: int, windows: int, record: Record) -> None:
    """A group begins a block only if all its runs of it fit the time left."""
    names = [(f"{group.name}|{name}", group.name) for group in chosen
             for name in (BASE, *(each.name for each in group.conditions))]  # fmt: skip
    order = measuring_order(names, repeats, seed=0, traced=False)
    # In the order of the plan, the most wanted first: the time may end inside a block.
    for group in chosen:
        slots = [slot for slot in order if slot.block == block and slot.group == group.name]
        slots = [slot for slot in slots if _in_block(group, slot)]
        if len(slots) > 1 and block <= group.most_blocks:
            _group_block(runner, group, slots, record["pilots"], windows, record["runs"])


def _in_block(group: Group, slot: Slot) -> bool:
    name = slot.cell.split("|")[1]
    return slot.block <= EXTRA_BLOCKS or any(each.core for each in group.conditions if name in (BASE, each.name))


def _group_block(
    runner: Runner, group: Group, slots: list[Slot], pilots: dict[str, Record], windows: int, results: Record
) -> None:
    first = slots[0].block == 1
    each_s = runner.seconds.get(group.name, group.expect_s) * 1.05 + (1.3 if first else 0.0)
    if runner.failed.get(group.name, 0) >= GIVE_UP or len(slots) * each_s > runner.left_s():
        return
    pilot, cell = pilots[group.name], group.cell(runner.device) | {"windows": windows}
    for slot in slots:
        name = slot.cell.split("|")[1]
        where = f"{group.name}, {name}, block {slot.block}"
        injection = group.base
        for condition in group.conditions:
            if condition.name == name:
                injection = condition.injection(batch_us(pilot, cell["batch_size"]), pilot["solo_us"]["h2d"])
        result = runner.run(group, where, Job(cell, injection, traced=first))
        if result is None:
            continue
        if "trace_error" in result and runner.second_traces and _worth_a_second_trace(group, name):
            _trace_again(runner, where, cell, injection, result)
        results.setdefault(group.name, {}).setdefault(name, {})[str(slot.block)] = result


def _worth_a_second_trace(group: Group, name: str) -> bool:
    strongest = [each.name for each in group.conditions if each.percent == 5]
    return name in (BASE, *strongest)


def _trace_again(runner: Runner, where: str, cell: Record, injection: Injection, result: Record) -> None:
    try:
        again = runner.executed(Job(cell | {"windows": 1}, injection, traced=True))
        if "trace" not in again:
            raise ControlError(again["trace_error"])
        result["trace"] = again["trace"] | {"process": "a new interpreter"}
    except Exception as error:
        runner.note(f"{where}, second trace", error)
        runner.second_traces = False


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--budget-s", type=float, default=280.0, help="no group of runs begins that would end later")
    parser.add_argument("--repeats", type=int, default=6, help="blocks, if the time allows")
    parser.add_argument("--windows", type=int, default=9, help="of a run")
    parser.add_argument("--groups", nargs="+", help="only these")
    parser.add_argument("--again", type=Path, help="measure nothing: sum up the runs of this JSON anew")
    parser.add_argument("--out", type=Path, help="where everything goes, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
