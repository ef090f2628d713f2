"""The pipelines of the real workload with a delay of known size in one of their paths.

Nothing of bench/workload knows of it: parts of bench.workload.run are replaced while a pipeline is built.

* copy: the H2D copy of a batch is made `copy_ratio` times as long, in one piece, into a slot that is longer than the
  batch by that much. One command as before, and the link carries the bytes: as if it were slower by that ratio.
* launch: the CPU counts for `delay_us` after every batch it has issued.
* kernel: work for `delay_us` before the forward pass, on its stream and, in a CUDA graph, inside the graph.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

import bench.workload.run as workload
from bench.records.study import Cell
from bench.workload.devices import Device
from bench.workload.host_memory import Rings
from bench.workload.pipeline import Pipeline, no_beat
from bench.workload.progress import PhaseTimes
from bench.workload.subject import Subject
from tests.validation.control_plan import Injection

SLEEPS = 64
# How often a launch delay is waited to time it: less often where it is long, for so many us in all.
WAITS, MIN_WAITS, WAITS_US = 500, 5, 2_000
# Of a batch: room in the slots for the longest copy of the plan.
LONGEST_COPY = 2.5


@dataclass
class Parts:
    """The parts that all sides of a process share, so that addresses in memory are no difference between them.

    room: the slots, of which a batch fills the beginning and a longer copy more.
    """

    rings: Rings | None = None
    subject: Subject | None = None
    room: list[torch.Tensor] = field(default_factory=list)


def build_side(cell: Cell, device: Device, injection: Injection, base: Pipeline | None = None) -> Pipeline:
    """A pipeline with the injection. It shares weights, slots, rings and streams of `base`: what two pipelines of one
    process have of their own are their events and, as CUDA graphs, what a graph allocates."""
    parts = base.parts if base else Parts()
    with injected(injection, parts):
        pipeline = workload.build_pipeline(cell, device, PhaseTimes())
    pipeline.parts = parts
    if base:
        pipeline.h2d_stream, pipeline.compute_stream, pipeline.d2h_stream = (
            base.h2d_stream, base.compute_stream, base.d2h_stream,
        )  # fmt: skip
        pipeline.h2d, pipeline.compute, pipeline.d2h = _stages(pipeline)
    device.synchronize()
    return pipeline


@contextmanager
def injected(injection: Injection, parts: Parts) -> Iterator[None]:
    """Inside, a pipeline that bench.workload.run builds has the injection, and the parts that there are."""
    names = ("build_subject", "make_slots", "make_rings", "build_pipeline")
    real = {name: getattr(workload, name) for name in names}

    def build_subject(cell: Cell, device: torch.device) -> Subject:
        parts.subject = parts.subject or real["build_subject"](cell, device)
        if injection.stage != "kernel" or parts.subject.call is None:
            return parts.subject
        return replace(parts.subject, call=_compute_more(parts.subject.call, device, injection.delay_us))

    def make_slots(cell: Cell, device: Device, subject: Subject) -> list[torch.Tensor]:
        if not parts.room:
            slots = real["make_slots"](cell, device, subject)
            length = round(slots[0].numel() * max(LONGEST_COPY, injection.copy_ratio))
            parts.room = [slots[0].new_zeros(length) for _ in slots]
        return [each[: math.prod(cell.batch_shape)].view(cell.batch_shape) for each in parts.room]

    def make_rings(cell: Cell, device: Device, subject: Subject) -> Rings:
        parts.rings = parts.rings or real["make_rings"](cell, device, subject)
        return parts.rings

    def build_pipeline(cell: Cell, device: Device, phases: PhaseTimes) -> Pipeline:
        pipeline = real["build_pipeline"](cell, device, phases)
        if injection.stage == "copy":
            batch = math.prod(cell.batch_shape)
            length = max(batch, round(batch * injection.copy_ratio))
            if length > len(parts.room[0]):
                raise ValueError(f"slots of {len(parts.room[0])} elements hold no copy of {length}")
            _copy_more(pipeline, [each[:length] for each in parts.room])
        if injection.counting:
            _launch_more(pipeline, injection.delay_us if injection.stage == "launch" else 0.0)
        return pipeline

    for replacement in (build_subject, make_slots, make_rings, build_pipeline):
        setattr(workload, replacement.__name__, replacement)
    try:
        yield
    finally:
        for name, part in real.items():
            setattr(workload, name, part)


def _copy_more(pipeline: Pipeline, longer: list[torch.Tensor]) -> None:
    """The forward pass keeps reading, and the copy out of a model without compute writing, the batch's own part."""
    ring, batch, length = pipeline.rings.inputs[0].view(-1), pipeline.rings.inputs[0][0].numel(), longer[0].numel()
    if ring.numel() < length:
        raise ValueError(f"a ring of {ring.numel()} elements holds no copy of {length}")
    # The last sources begin earlier: they must not reach beyond the ring.
    starts = [min(index * batch, ring.numel() - length) for index in range(len(pipeline.host_in))]
    pipeline.host_in = [ring[start : start + length] for start in starts]
    pipeline.work, pipeline.slots = replace(pipeline.work, slots=list(longer)), list(longer)
    pipeline.h2d, pipeline.compute, pipeline.d2h = _stages(pipeline)


def _stages(pipeline: Pipeline) -> tuple[Any, Any, Any]:
    """Made again, for other slots or streams."""
    return pipeline.side(pipeline.work, pipeline.rings, pipeline.copies.by_sample).stages


def _launch_more(pipeline: Pipeline, delay_us: float) -> None:
    """In the beat, which timed, traced and issuing loops all call once a batch, outside of every stage."""
    run, counts = pipeline.run, range(round(1e3 * delay_us / ns_per_count()) if delay_us else 0)

    def slow(beat: Callable[[], None]) -> Callable[[], None]:
        def slow_beat() -> None:
            for _ in counts:
                pass
            beat()

        return slow_beat

    def slow_run(count: int, beat: Callable[[], None], *more: Any, **named: Any) -> None:
        run(count, slow(beat), *more, **named)

    pipeline.run, pipeline.slow_beat = slow_run, slow(no_beat)


def waited_us(pipeline: Pipeline, delay_us: float = 0.0) -> float:
    """How long the wait of a launch delay takes here and now, in the process and on the CPU that is measured."""
    beat = getattr(pipeline, "slow_beat", no_beat)
    calls = range(max(MIN_WAITS, min(WAITS, round(WAITS_US / max(delay_us, 1e-3)))))
    start_ns = time.perf_counter_ns()
    for _ in calls:
        beat()
    return (time.perf_counter_ns() - start_ns) / 1e3 / len(calls)


def ns_per_count() -> float:
    """Of an empty loop. Counting has no system call and no granularity worth the name, unlike reading a clock."""
    counts, values = range(200_000), []
    for _ in range(9):
        start_ns = time.perf_counter_ns()
        for _ in counts:
            pass
        values.append((time.perf_counter_ns() - start_ns) / len(counts))
    return median(values)


def _compute_more(
    forward: Callable[[torch.Tensor], torch.Tensor], device: torch.device, delay_us: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    work = _gpu_work(delay_us) if device.type == "cuda" else _cpu_work(delay_us)

    def slow_forward(images: torch.Tensor) -> torch.Tensor:
        work()
        return forward(images)

    return slow_forward


def _gpu_work(delay_us: float) -> Callable[[], None]:
    """A spinning kernel. What a kernel costs beyond its cycles, as one of many in a graph, is subtracted."""
    torch.cuda._sleep(50_000_000)
    torch.cuda.synchronize()
    short, long = 2_000, 40_000
    short_us, long_us = _sleep_us(short), _sleep_us(long)
    per_cycle_us = (long_us - short_us) / (long - short)
    cycles = max(1, round((delay_us - (short_us - short * per_cycle_us)) / per_cycle_us))
    return lambda: torch.cuda._sleep(cycles)


def _sleep_us(cycles: int) -> float:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(SLEEPS):
            torch.cuda._sleep(cycles)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    values = []
    for _ in range(5):
        graph.replay()
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        values.append(1e3 * start.elapsed_time(end) / SLEEPS)
    return median(values)


def _cpu_work(delay_us: float) -> Callable[[], None]:
    """An operator and not a wait, so that the trace of the cpu device sees it as computing."""
    source = torch.linspace(0.0, 1.0, 1 << 16)
    target = torch.empty_like(source)

    def work(length: int, times: int = 1) -> None:
        for _ in range(times):
            torch.sin(source[:length], out=target[:length])

    def seconds(length: int) -> float:
        start_ns = time.perf_counter_ns()
        work(length, 20)
        return (time.perf_counter_ns() - start_ns) / 20e9

    short, long = 1 << 12, 1 << 16
    short_us, long_us = (1e6 * min(seconds(length) for _ in range(9)) for length in (short, long))
    per_element_us = (long_us - short_us) / (long - short)
    fixed_us = max(0.0, short_us - short * per_element_us)
    # Pieces that stay in the cache, so that the time is proportional to their number.
    times = max(1, math.ceil(delay_us / long_us))
    length = min(long, max(1, round((delay_us / times - fixed_us) / per_element_us)))
    return lambda: work(length, times)
