"""Delays of known size in the copy, launch and kernel path of the real workload: found, and where?

    python -m tests.validation.positive_controls --device cuda --budget-s 240 --out FILE.json

A process measures one cell with all its delays and without, by turns (side_by_side.py); it is forked from this one,
which has imported torch and never touched CUDA. Also: slower copies against what bench.analysis.bound predicts, and
CUDA events against the trace. On an idle machine only.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch: a process that is to be forked should have no threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"

from bench.storage import write_json
from bench.workload.models import import_timm
from bench.workload.progress import process_start
from tests.validation.control_clocks import compare_clocks
from tests.validation.control_page import text_table
from tests.validation.control_plan import BASE, Group, groups
from tests.validation.control_results import summarise
from tests.validation.side_by_side import Job, Record, measure_sides

GIVE_UP = 2
# Of a process, beyond its rounds, until one has been seen; and what its traces take.
EXPECT_S, TRACES_S = 3.5, 4.0
RESERVE_S = 4.0
RUN_TIMEOUT_S = 60.0
# The pipeline whose batches carry copies of 6 MB each way.
CLOCKS_CELL = {"batch_size": 10, "image_size": 224, "num_samples": 1000, "buffers": 2}


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
        self.count = 0

    def left_s(self) -> float:
        return self.deadline - time.clock_gettime(time.CLOCK_BOOTTIME)

    def note(self, where: str, error: BaseException | str) -> None:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.errors.append({"where": where, "error": text})
        print(f"ERROR in {where}: {text}", file=sys.stderr, flush=True)

    def fits(self, job: Job) -> bool:
        seconds = self.seconds.get(job.group.name, job.measure_s + EXPECT_S)
        return seconds + (TRACES_S if job.traced else 0.0) <= self.left_s()

    def run(self, where: str, job: Job) -> dict[str, Record]:
        """By condition; nothing after a failure, which is noted."""
        began, name = time.monotonic(), job.group.name
        try:
            results = self.process(measure_sides, job)
        except Exception as error:
            self.failed[name] = self.failed.get(name, 0) + 1
            self.note(where, error)
            return {}
        seconds = time.monotonic() - began
        if not job.traced:
            self.seconds[name] = max(self.seconds.get(name, 0.0), seconds)
        rate = results[BASE]["throughput_samples_s"]
        print(f"{where}: {rate:.1f} samples/s, {seconds:.1f} s", file=sys.stderr, flush=True)
        for condition, result in results.items():
            if "trace_error" in result:
                self.note(f"{where}, {condition}, trace", result["trace_error"])
        return results

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
        return json.loads(result.read_bytes())


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
        found = summed_up(json.loads(options.again.read_bytes()), chosen)
    else:
        import_timm()
        with tempfile.TemporaryDirectory() as folder:
            runner = Runner(options.device, options.budget_s, Path(folder))
            found = measure(runner, chosen, options.repeats, options.measure_s, options.out)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, found)
    print(text_table(found))
    return 0 if found["summary"]["as_expected"] else 1


def measure(
    runner: Runner, chosen: list[Group], repeats: int, measure_s: float | None = None, out: Path | None = None
) -> Record:
    """All processes that the time allows, summed up. After every block `out` holds what there is so far."""
    record: Record = {"schema": 2, "device": runner.device, "ran_s": 0.0, "errors": runner.errors}
    record |= {"clocks": {}, "processes": 0, "runs": {}}
    try:
        if runner.device == "cuda" and runner.left_s() > 15:
            record["clocks"] = runner.process(compare_clocks, chosen[0].cell("cuda") | CLOCKS_CELL)
    except Exception as error:
        runner.note("CUDA events against trace", error)
    for block in range(1, repeats + 1):
        # In the order of the plan, the most wanted first: the time may end inside a block.
        for group in chosen:
            job = Job(group, runner.device, measure_s or group.measure_s, block <= group.traced_blocks, seed=block)
            if block > group.most_blocks or runner.failed.get(group.name, 0) >= GIVE_UP or not runner.fits(job):
                continue
            for name, result in runner.run(f"{group.name}, process {block}", job).items():
                record["runs"].setdefault(group.name, {}).setdefault(name, {})[str(block)] = result
        record["ran_s"] = time.clock_gettime(time.CLOCK_BOOTTIME) - process_start()
        record["processes"] = runner.count
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, record)
    return summed_up(record, chosen)


def summed_up(record: Record, chosen: list[Group]) -> Record:
    """The rows made anew from the runs; an error is named and costs none of them."""
    raw = {key: record[key] for key in ("schema", "device", "ran_s", "clocks", "errors", "processes", "runs")}
    try:
        found = summarise(record["device"], chosen, record["runs"])
    except Exception as error:
        raw["errors"].append({"where": "summary", "error": traceback.format_exc(limit=-3)})
        found = {"summary": {"as_expected": False, "error": str(error)}}
    return {**found, **raw}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--budget-s", type=float, default=240.0, help="no process begins that would end later")
    parser.add_argument("--repeats", type=int, default=6, help="processes of a cell, if the time allows")
    parser.add_argument("--measure-s", type=float, help="of a process, in place of the plan's")
    parser.add_argument("--groups", nargs="+", help="only these")
    parser.add_argument("--again", type=Path, help="measure nothing: sum up the runs of this JSON anew")
    parser.add_argument("--out", type=Path, help="where everything goes, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
