"""One process that measures a cell with and without delays, by turns.

Both sides of every comparison are in the same process: what two processes differ by (bench.analysis.noise_floor shows
it: 3 to 19 % where the CPU limits) is in neither. The process stays the unit of the statistics: its rounds give one
ratio a condition, and the interval is made of processes.
"""

import gc
import math
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.records.base import convert, plain
from bench.records.study import Cell
from bench.workload.devices import open_device, versions
from bench.workload.measure import WarmupRule, run_window, trace_pass, warm_up
from bench.workload.models import import_timm
from bench.workload.pipeline import Pipeline, no_beat
from bench.workload.profiling import make_capture, make_ranges
from bench.workload.progress import Progress
from bench.workload.solo import batches_queued, burst_us, isolated_stages, issue_us, solo_us
from tests.validation.control_plan import BASE, Group, Injection
from tests.validation.injected_workload import build_side, waited_us
from tests.validation.traced_stages import stages_of

STAGES = ("h2d", "compute", "d2h")
BURSTS = 3
# Of a window: on the cpu device, whose batches follow each other, a few are enough.
MIN_BATCHES = 2
# Before each window, so that it does not pay for the change of sides.
LEAD_IN = 0.05
MAX_ROUNDS = 400
Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """traced: every side also has the stages of one traced pass. seed: of the order of the sides."""

    group: Group
    device: str
    measure_s: float
    traced: bool
    seed: int


@dataclass
class Side:
    """A pipeline and what was measured of it, in us per batch, one value a round.

    us: by what was timed: `window`; `issue`; `waited`, the beat; and each stage alone: `h2d`, `compute`, `d2h`.
    """

    injection: Injection
    pipeline: Pipeline
    us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def measure_sides(job: Job) -> dict[str, Record]:
    """By condition, `base` among them. A trace that fails leaves its words in trace_error."""
    raw = job.group.cell(job.device)
    cell = convert(raw, Cell)
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
        warmup = warm_up(base, rule, Progress())
        sides = {BASE: Side(job.group.base, base)}
        issued_us = issue_us(base, warmup.batch_s)
        solo = solo_us(base, warmup.batch_s, issued_us)
        for condition in job.group.conditions:
            injection = condition.injection(1e6 * warmup.batch_s, solo.h2d or 0.0, job.group.counting)
            sides[condition.name] = Side(injection, build_side(cell, device, injection, base))
        gc.collect()
        gc.freeze()
        gc.disable()
        _rounds(cell, sides, warmup.batch_s, issued_us, job)
        rates = paired_rates({name: side.us["window"] for name, side in sides.items()}, cell.batch_size)
        terms = {term: paired({name: side.us[term] for name, side in sides.items()}) for term in sides[BASE].us}
        found = {}
        for name, side in sides.items():
            found[name] = {
                "injection": asdict(side.injection), "throughput_samples_s": rates[name],
                "solo_us": {term: terms[term][name] if term in terms else 0.0 for term in STAGES},
                "issue_us": terms["issue"][name], "waited_us": terms["waited"][name] - terms["waited"][BASE],
                "window_us": [round(us, 4) for us in side.us["window"]], "settled": warmup.settled,
                "buffer_layout": side.pipeline.layout, "device": plain(device.describe()),
                "versions": plain(versions()),
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


def paired(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """By side, so that the difference of any side to the base is that of the values of the same rounds."""
    base = np.asarray(values[BASE], float)
    return {name: midmean(base) + midmean(np.asarray(each, float) - base) for name, each in values.items()}


def midmean(values: Iterable[float]) -> float:
    """Mean of the middle half: a spell of the host moves it no more than a median, and it resolves clock ticks."""
    ordered = np.sort(np.asarray(list(values), float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def _stay_here() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[len(allowed) // 2]})


def _rounds(cell: Cell, sides: dict[str, Side], batch_s: float, issued_us: float, job: Job) -> None:
    """Every side once a round, in a new seeded order; the first round only warms up."""
    count = max(MIN_BATCHES, math.ceil(job.group.window_s / batch_s))
    queued = batches_queued(next(iter(sides.values())).pipeline.subject.kernels, batch_s)
    few = min(count, queued)
    names, order = list(sides), random.Random(job.seed)
    end = math.inf
    for number in range(MAX_ROUNDS + 1):
        order.shuffle(names)
        for name in names:
            pipeline, us = sides[name].pipeline, sides[name].us
            pipeline.run(math.ceil(LEAD_IN * count), no_beat)
            pipeline.drain()
            us["window"].append(1e6 * run_window(pipeline, count, no_beat).batch_s)
            # On the cpu device to issue is to execute: the window was it.
            issued = cell.device == "cpu"
            us["issue"].append(us["window"][-1] if issued else min(_issue_us(pipeline, queued) for _ in range(BURSTS)))
            for term, (stream, stage) in isolated_stages(pipeline).items():
                us[term].append(burst_us(pipeline, stream, stage, range(few), 2e-6 * few * issued_us))
            us["waited"].append(waited_us(pipeline, sides[name].injection.delay_us))
        if number == 0:
            for side in sides.values():
                side.us.clear()
            end = time.perf_counter() + job.measure_s
        elif time.perf_counter() > end:
            return


def _issue_us(pipeline: Pipeline, count: int) -> float:
    """CPU time to issue a batch to an idle device; bench.workload.solo has the reason for bursts."""
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
        window = trace_pass(pipeline, cell.batches_per_pass, ranges, make_capture(cell, path), Progress())
        return stages_of(path, cell) | {"wall_us": 1e6 * window.batch_s}
