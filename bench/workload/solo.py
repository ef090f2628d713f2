"""The terms of the bound: each stage in isolation, and the time the CPU needs to issue a batch."""

import math
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.records.run import Stages
from bench.workload.pipeline import Pipeline, Stage, no_beat

BURST_S = 0.02
MAX_COPIES = 50
# Bursts whose median is taken: many where they are short, a few where a batch takes seconds.
MIN_BURSTS, MAX_BURSTS = 3, 9
BUDGET_S = 0.5
# Commands that fit into the driver's queue, which holds about a thousand, so that the device does not slow down their
# issue.
QUEUED_COMMANDS = 600
COMMANDS_PER_BATCH = 20


def batches_queued(kernels: int | None, batch_s: float) -> int:
    """Batches that a burst issues ahead of the device. kernels: of a forward pass; None: unknown, so a single batch."""
    fit = 1 if kernels is None else QUEUED_COMMANDS // (kernels + COMMANDS_PER_BATCH)
    return max(1, min(16, fit, math.ceil(BURST_S / batch_s)))


def bursts_of(duration_s: float) -> int:
    return max(MIN_BURSTS, min(MAX_BURSTS, math.ceil(BUDGET_S / duration_s)))


def issue_us(pipeline: Pipeline, batch_s: float) -> float:
    """CPU time to issue one batch to an idle device: the median over bursts that the driver's queue holds.

    Inside a window the CPU runs ahead until the queue is full and then waits for the device: there the time spent
    issuing is the device's, not the CPU's. On the cpu device to issue is to execute.
    """
    count = batches_queued(pipeline.subject.kernels, batch_s)
    if pipeline.ahead is not None:
        # Waiting for a batch that is not prepared yet is not issuing.
        count = min(count, pipeline.ahead)
    values = []
    for _ in range(bursts_of(count * batch_s)):
        pipeline.drain()
        pipeline.refill()
        start_ns = time.perf_counter_ns()
        pipeline.run(count, no_beat)
        values.append((time.perf_counter_ns() - start_ns) / 1e3 / count)
    pipeline.drain()
    return median(values)


def solo_us(pipeline: Pipeline, batch_s: float, issue_us: float) -> Stages:
    """Device time per batch of h2d, compute and d2h, each without the others: medians over bursts.

    Every burst is issued while its stream is held back, so that it runs at the device's speed even where the CPU
    issues more slowly: that term of the bound is issue_us.
    """
    copies = max(3, min(MAX_COPIES, math.ceil(BURST_S / batch_s)))
    counts = {"h2d": copies, "compute": batches_queued(pipeline.subject.kernels, batch_s), "d2h": copies}
    solo = dict.fromkeys(counts, 0.0)
    for name, (stream, stage) in isolated_stages(pipeline).items():
        count, hold_s = counts[name], 2 * counts[name] * issue_us / 1e6
        bursts = [range(number * count, (number + 1) * count) for number in range(bursts_of(count * batch_s))]
        solo[name] = median(burst_us(pipeline, stream, stage, batches, hold_s) for batches in bursts)
    return Stages(**solo, prepare=pipeline.prepare_us())


def isolated_stages(pipeline: Pipeline) -> dict[str, tuple[Any, Stage]]:
    """For each stage that the cell has: its stream, and the function that issues a batch of this stage only."""
    streams = {
        "h2d": (pipeline.h2d_stream, pipeline.copies.into),
        "compute": (pipeline.compute_stream, pipeline.forward),
        "d2h": (pipeline.d2h_stream, pipeline.copies.back),
    }
    stages = pipeline.single_stages()
    return {name: (stream, stages[name]) for name, (stream, has) in streams.items() if has}


def burst_us(pipeline: Pipeline, stream: Any, stage: Stage, batches: Sequence[int], hold_s: float) -> float:
    """Device time per batch of one burst of a stage, whose stream is held back while it is issued."""
    device = pipeline.device
    start, end = device.event(timing=True), device.event(timing=True)
    device.synchronize()
    device.hold(stream, hold_s)
    start.record(stream)
    for index in batches:
        stage(index)
    end.record(stream)
    device.synchronize()
    return start.elapsed_time(end) * 1e3 / len(batches)
