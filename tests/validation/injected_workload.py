"""The real workload with a delay of known size in one of its paths.

    python -m tests.validation.injected_workload JOB.json RESULT.json

Nothing of bench/workload knows of it: parts of bench.workload.run are replaced, in this process only.

* copy: the H2D copy of a batch is made `copy_ratio` times as long, in one piece, into a slot that is longer than the
  batch by that much. One command as before, and the link carries the bytes: as if it were slower by that ratio.
* launch: the CPU counts for `delay_us` after every batch it has issued.
* kernel: work for `delay_us` before the forward pass, on its stream and, in a CUDA graph, inside the graph.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import bench.workload.run as workload
from bench.files import read_json, write_json
from bench.workload.capture import make_capture
from bench.workload.cell import Cell, parse_cell
from bench.workload.devices import Device
from bench.workload.measure import trace_pass
from bench.workload.models import import_timm
from bench.workload.phases import Phases
from bench.workload.pipeline import Pipeline, no_beat
from bench.workload.progress import Progress
from bench.workload.ranges import make_ranges
from bench.workload.solo import issue_us
from tests.validation.traced_stages import stages_of

STAGES = ("none", "copy", "launch", "kernel")
SLEEPS = 64
ISSUE_S, MAX_ISSUES = 0.15, 15
KEPT = ("throughput_samples_s", "solo_us", "buffer_layout", "output_checksum", "device", "versions")
Record = dict[str, Any]


@dataclass(frozen=True)
class Injection:
    """launch with a delay of 0 is the sham: the wrapper is there, and counts to nothing."""

    stage: str = "none"
    delay_us: float = 0.0
    copy_ratio: float = 1.0


@dataclass(frozen=True)
class Job:
    cell: Record
    injection: Injection
    traced: bool = False


def main() -> int:
    raw = read_json(Path(sys.argv[1]))
    job = Job(raw["cell"], Injection(**raw["injection"]), raw["traced"])
    write_json(Path(sys.argv[2]), run_job(job))
    return 0


def run_job(job: Job) -> Record:
    """One timed run with the injection, then, profiler and all, one traced pass of the same pipeline.

    The windows are over before the profiler is there. A trace that fails leaves its words in trace_error.
    """
    cell = parse_cell(job.cell)
    if cell.model.computes:
        import_timm()
    with injected(job.injection, one_thread=cell.device == "cpu") as built:
        result = workload.execute(job.cell, "timed", Progress(None), Phases())
    pipeline = built[0]
    kept = {key: result[key] for key in KEPT} | {"injection": asdict(job.injection)}
    kept["settled"] = result["warmup"]["settled"]
    kept["window_us"] = [1e6 * window["duration_s"] / window["batches"] for window in result["windows"]]
    with torch.inference_mode():
        kept["issue_us"] = _steady_issue_us(pipeline, cell, result)
        if job.traced:
            try:
                kept["trace"] = _traced(pipeline, cell)
            except Exception as error:
                kept["trace_error"] = f"{type(error).__name__}: {error}"
    return kept


@contextmanager
def injected(injection: Injection, one_thread: bool = False) -> Iterator[list[Pipeline]]:
    """Inside, the pipeline that bench.workload.run builds has the injection; it is put into the list."""
    built: list[Pipeline] = []
    longer: list[torch.Tensor] = []
    names = ("open_device", "build_model", "make_slots", "build_pipeline")
    real = {name: getattr(workload, name) for name in names}

    def open_device(cell: Cell) -> Device:
        device = real["open_device"](cell)
        if one_thread:
            torch.set_num_threads(1)
        return device

    def build_model(cell: Cell, device: torch.device) -> torch.nn.Module | None:
        model = real["build_model"](cell, device)
        if injection.stage == "kernel" and model is not None:
            model.forward_features = _compute_more(model.forward_features, device, injection.delay_us)
        return model

    def make_slots(cell: Cell, device: Device) -> list[torch.Tensor]:
        slots = real["make_slots"](cell, device)
        if injection.stage != "copy":
            return slots
        batch = slots[0].numel()
        longer.extend(slots[0].new_zeros(max(batch, round(batch * injection.copy_ratio))) for _ in slots)
        return [each[:batch].view(cell.batch_shape) for each in longer]

    def build_pipeline(cell: Cell, device: Device, phases: Phases) -> Pipeline:
        pipeline = real["build_pipeline"](cell, device, phases)
        if injection.stage == "copy":
            _copy_more(pipeline, longer)
        elif injection.stage == "launch":
            _launch_more(pipeline, injection.delay_us)
        device.synchronize()
        built.append(pipeline)
        return pipeline

    for replacement in (open_device, build_model, make_slots, build_pipeline):
        setattr(workload, replacement.__name__, replacement)
    try:
        yield built
    finally:
        for name, part in real.items():
            setattr(workload, name, part)


def _copy_more(pipeline: Pipeline, longer: list[torch.Tensor]) -> None:
    """The forward pass keeps reading, and the copy out of a model without compute writing, the batch's own part."""
    ring, batch, length = pipeline.rings.inputs.view(-1), pipeline.rings.inputs[0].numel(), longer[0].numel()
    if ring.numel() < length:
        raise ValueError(f"a ring of {ring.numel()} elements holds no copy of {length}")
    # The last sources begin earlier: they must not reach beyond the ring.
    starts = [min(index * batch, ring.numel() - length) for index in range(len(pipeline.host_in))]
    pipeline.host_in = [ring[start : start + length] for start in starts]
    pipeline.slots = list(longer)
    pipeline.h2d, pipeline.compute, pipeline.d2h = pipeline._stages()


def _launch_more(pipeline: Pipeline, delay_us: float) -> None:
    """In the beat, which timed, traced and issuing loops all call once a batch, outside of every stage."""
    run, counts = pipeline.run, range(round(1e3 * delay_us / ns_per_count()) if delay_us else 0)

    def slow_run(count: int, beat: Callable[[], None], *more: Any, **named: Any) -> None:
        def slow_beat() -> None:
            for _ in counts:
                pass
            beat()

        run(count, slow_beat, *more, **named)

    pipeline.run = slow_run


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


def _steady_issue_us(pipeline: Pipeline, cell: Cell, result: Record) -> float:
    """The median of several measurements of issue_us: one of them is too few to see a delay of 1 %."""
    batch_s = cell.batch_size / result["throughput_samples_s"]
    values, end = [result["issue_us"]], time.perf_counter() + ISSUE_S
    while time.perf_counter() < end and len(values) < MAX_ISSUES:
        values.append(issue_us(pipeline, cell.model.depth, batch_s))
    return median(values)


def _traced(pipeline: Pipeline, cell: Cell) -> Record:
    ranges = make_ranges(cell)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        pipeline.run(20, no_beat)
        pipeline.drain()
        window = trace_pass(pipeline, cell.batches_per_pass, ranges, make_capture(cell, path), Progress(None))
        return stages_of(path, cell) | {"wall_us": 1e6 * window.batch_s}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(json.dumps({"usage": "injected_workload JOB.json RESULT.json"}))
    sys.exit(main())
