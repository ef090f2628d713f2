"""One process that measures a cell with and without delays, by turns.

Both sides of every comparison are in the same process: what two processes differ by (bench.results.selfcheck shows
it: 3 to 19 % where the CPU limits) is in neither. The process stays the unit of the statistics: its rounds give one
ratio a condition, and the interval is made of processes.
"""

import gc
import math
import os
import random
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.workload.capture import make_capture
from bench.workload.cell import Cell, parse_cell
from bench.workload.devices import open_device
from bench.workload.measure import run_window, trace_pass, warm_up
from bench.workload.models import import_timm
from bench.workload.pipeline import Pipeline, no_beat
from bench.workload.progress import Progress
from bench.workload.ranges import make_ranges
from bench.workload.run import versions
from bench.workload.solo import batches_queued, issue_us, solo_us
from bench.workload.windows import WarmupRule
from tests.validation.control_plan import BASE, Group, Injection
from tests.validation.injected_workload import build_side, waited_us
from tests.validation.traced_stages import stages_of

ISSUE_BURSTS = 3
# Before each window, so that it does not pay for the change of sides.
LEAD_IN = 0.05
MAX_ROUNDS = 400
Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """traced: every side also leaves what one traced pass of it says. seed: of the order of the sides."""

    group: Group
    device: str
    measure_s: float
    traced: bool
    seed: int


@dataclass
class Side:
    """A pipeline and what was measured of it, in us per batch, one value a round."""

    injection: Injection
    pipeline: Pipeline
    window_us: list[float]
    issue_us: list[float]
    waited_us: list[float]


def measure_sides(job: Job) -> dict[str, Record]:
    """By condition, `base` among them. A trace that fails leaves its words in trace_error."""
    raw = job.group.cell(job.device)
    cell = parse_cell(raw)
    if cell.model.computes:
        import_timm()
    with torch.inference_mode():
        device = open_device(cell)
        if cell.device == "cpu":
            torch.set_num_threads(1)
        base = build_side(cell, device, job.group.base)
        # Of this thread only: the driver's own threads keep the other CPUs.
        _stay_here()
        rule = WarmupRule(cell.window_s, -(-cell.warmup_samples // cell.batch_size))
        warmup = warm_up(base, rule, Progress(None))
        sides = {BASE: Side(job.group.base, base, [], [], [])}
        alone = _alone(cell, base, warmup.batch_s)
        for condition in job.group.conditions:
            injection = condition.injection(1e6 * warmup.batch_s, alone["h2d"], job.group.counting)
            sides[condition.name] = Side(injection, build_side(cell, device, injection, base), [], [], [])
        gc.collect()
        gc.freeze()
        gc.disable()
        _rounds(cell, sides, warmup.batch_s, job)
        solo = {name: _alone(cell, side.pipeline, warmup.batch_s) for name, side in sides.items()}
        rates = paired_rates({name: side.window_us for name, side in sides.items()}, cell.batch_size)
        found = {}
        for name, side in sides.items():
            found[name] = {
                "injection": asdict(side.injection), "throughput_samples_s": rates[name],
                "solo_us": {key: solo[name][key] for key in ("h2d", "compute", "d2h")},
                "issue_us": midmean(side.issue_us), "waited_us": _more(side.waited_us, sides[BASE].waited_us),
                "window_us": [round(us, 4) for us in side.window_us], "settled": warmup.settled,
                "buffer_layout": side.pipeline.layout, "device": device.describe(), "versions": versions(),
            }  # fmt: skip
            if job.traced:
                try:
                    found[name]["trace"] = traced(side.pipeline, cell)
                except Exception as error:
                    found[name]["trace_error"] = f"{type(error).__name__}: {error}"
    return found


def paired_rates(window_us: Mapping[str, Sequence[float]], batch_size: int) -> dict[str, float]:
    """Samples/s by side, so that the ratio of any side to the base is that of the windows of the same rounds."""
    base = np.log(np.asarray(window_us[BASE], float))
    rate = 1e6 * batch_size / math.exp(midmean(base))
    return {name: rate * math.exp(midmean(base - np.log(np.asarray(us, float)))) for name, us in window_us.items()}


def midmean(values: Iterable[float]) -> float:
    """Mean of the middle half: a spell of the host moves it no more than a median, and it resolves clock ticks."""
    ordered = np.sort(np.asarray(list(values), float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def _more(waited: list[float], base: list[float]) -> float:
    """What a side waits beyond the base, in us per batch."""
    return midmean(np.asarray(waited) - np.asarray(base))


def _stay_here() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[len(allowed) // 2]})


def _alone(cell: Cell, pipeline: Pipeline, batch_s: float) -> dict[str, float]:
    return solo_us(pipeline, cell.model.depth, batch_s, issue_us(pipeline, cell.model.depth, batch_s))


def _rounds(cell: Cell, sides: dict[str, Side], batch_s: float, job: Job) -> None:
    """Every side once a round, in a new seeded order; the first round only warms up."""
    count = max(4, math.ceil(job.group.window_s / batch_s))
    queued = batches_queued(cell.model.depth, batch_s)
    names, order = list(sides), random.Random(job.seed)
    end = math.inf
    for number in range(MAX_ROUNDS + 1):
        order.shuffle(names)
        for name in names:
            side = sides[name]
            side.pipeline.run(math.ceil(LEAD_IN * count), no_beat)
            side.pipeline.drain()
            side.window_us.append(1e6 * run_window(side.pipeline, count, no_beat).batch_s)
            side.issue_us.append(min(_burst_us(side.pipeline, queued) for _ in range(ISSUE_BURSTS)))
            side.waited_us.append(waited_us(side.pipeline))
        if number == 0:
            for side in sides.values():
                side.window_us.clear()
                side.issue_us.clear()
                side.waited_us.clear()
            end = time.perf_counter() + job.measure_s
        elif time.perf_counter() > end:
            return


def _burst_us(pipeline: Pipeline, count: int) -> float:
    """CPU time to issue a batch to an idle device; bench.workload.solo says why bursts."""
    pipeline.drain()
    start_ns = time.perf_counter_ns()
    pipeline.run(count, no_beat)
    return (time.perf_counter_ns() - start_ns) / 1e3 / count


def traced(pipeline: Pipeline, cell: Cell) -> Record:
    ranges = make_ranges(cell)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        pipeline.run(20, no_beat)
        pipeline.drain()
        window = trace_pass(pipeline, cell.batches_per_pass, ranges, make_capture(cell, path), Progress(None))
        return stages_of(path, cell) | {"wall_us": 1e6 * window.batch_s}
