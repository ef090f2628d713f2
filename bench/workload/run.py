"""One run from device to result: timed, traced or load."""

import gc
import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.host.certificate import Certifier
from bench.records.base import convert, plain
from bench.records.study import Cell as StudyCell
from bench.storage import start_ticks
from bench.workload.barrier import Barrier, Progress
from bench.workload.cell import Cell, parse_cell
from bench.workload.devices import Device, open_device
from bench.workload.execution import compilations, compile_facts, make_forward, make_slots, refuse_compilations
from bench.workload.host_memory import make_rings
from bench.workload.measure import (
    LatencyMarks,
    Warmup,
    WarmupRule,
    alone_s,
    batches_per_window,
    first_batch_again,
    latency_us,
    load_windows,
    measure_windows,
    no_latency,
    throughput_samples_s,
    trace_pass,
    warm_up,
)
from bench.workload.models import build_model, set_precision
from bench.workload.pipeline import Pipeline, PreparedPipeline
from bench.workload.preprocessing import Preparer, preparing_cpus
from bench.workload.profiling import Ranges, make_capture, make_ranges
from bench.workload.solo import issue_us, solo_us

# --- versions
# The versions a result was measured with.

def versions() -> dict[str, str | None]:
    # Asked of the package metadata: a cell without compute does not import timm.
    try:
        timm: str | None = version("timm")
    except PackageNotFoundError:
        timm = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "timm": timm,
    }


# --- phases
# Where the wall time of a run goes.

PHASES = ("interpreter", "imports", "device", "model", "compile", "buffers", "warmup", "measure", "finish")


class Phases:
    """Each mark ends a phase that began at the mark before; the first began when the process did."""

    def __init__(self, began: float | None = None) -> None:
        self._last = process_start() if began is None else began
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)

    def mark(self, phase: str) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.seconds[phase] += now - self._last
        self._last = now


def process_start() -> float:
    """When this process started, in seconds since boot (to the kernel's clock tick, 10 ms); see proc(5)."""
    return start_ticks(os.getpid()) / os.sysconf("SC_CLK_TCK")


# --- jobs
# What a run does with its pipeline: timed, traced, or load for others.

@dataclass(frozen=True)
class Job:
    """What one run works with."""

    raw: dict[str, Any]
    cell: Cell
    pipeline: Pipeline
    progress: Progress
    phases: Phases
    meeting: Barrier | None

    def rule(self) -> WarmupRule:
        return WarmupRule(self.cell.window_s, -(-self.cell.warmup_samples // self.cell.batch_size))

    def warm_up(self, ranges: Ranges | None = None) -> Warmup:
        """Where others load the host, once alone and once more under their load: its pace is that of the windows."""
        warmup = warm_up(self.pipeline, self.rule(), self.progress, ranges)
        if self.meeting:
            self.meeting.wait()
            warmup = warm_up(self.pipeline, self.rule(), self.progress, ranges)
        self.phases.mark("warmup")
        return warmup

    def witness(self) -> Certifier:
        """The proof of placement around the windows, started."""
        witness = Certifier(convert(self.raw, StudyCell), self.pipeline.addresses())
        witness.start()
        return witness

    def end_load(self) -> None:
        if self.meeting:
            self.meeting.finish()


def timed(job: Job) -> dict[str, Any]:
    """The windows, no profiler attached; then each stage alone, when the others are gone."""
    cell, pipeline = job.cell, job.pipeline
    warmup = job.warm_up()
    count = batches_per_window(warmup.batch_s, alone_s(pipeline), cell.window_s, cell.windows, cell.batches_per_pass)
    device = pipeline.device
    witness = job.witness()
    reason = no_latency(cell.direction)
    before = device.allocations(), pipeline.waited, compilations()
    measured = measure_windows(
        pipeline, cell.windows, count, cell.window_s, job.progress,
        None if reason else LatencyMarks(device), witness.see_cpu,
    )  # fmt: skip
    after = device.allocations(), pipeline.waited, compilations()
    allocations, waited, compiled = (b - a for a, b in zip(before, after, strict=True))
    certificate = plain(witness.finish())
    job.end_load()
    refuse_compilations(compiled)
    job.phases.mark("measure")
    issue = issue_us(pipeline, cell.model.depth, warmup.batch_s)
    return {
        "warmup": warmup.as_json(),
        "windows": [window.as_json() for window in measured.windows],
        "throughput_samples_s": throughput_samples_s(measured.windows, cell.batch_size),
        "latency_us": latency_us(measured.latencies_us, reason),
        "issue_us": issue,
        "solo_us": solo_us(pipeline, cell.model.depth, warmup.batch_s, issue),
        "device_allocations_in_windows": allocations,
        "waited_batches_in_windows": waited,
        "compilations_in_windows": compiled,
        "certificate": certificate,
    }


def traced(job: Job, trace: Path | None) -> dict[str, Any]:
    """One pass under the profiler."""
    cell, pipeline = job.cell, job.pipeline
    ranges = make_ranges(cell)
    capture = make_capture(cell, trace)
    warmup = job.warm_up(ranges)
    witness = job.witness()
    window = trace_pass(pipeline, cell.batches_per_pass, ranges, capture, job.progress, witness.see_cpu)
    certificate = plain(witness.finish())
    job.end_load()
    job.phases.mark("measure")
    return {
        "warmup": warmup.as_json(),
        "windows": [window.as_json()],
        "throughput_samples_s": throughput_samples_s([window], cell.batch_size),
        "certificate": certificate,
    }


def load(job: Job) -> dict[str, Any]:
    """The load for another process: no latencies and no stages alone, which would load less."""
    cell, pipeline, meeting = job.cell, job.pipeline, job.meeting
    assert meeting is not None
    warmup = warm_up(pipeline, job.rule(), job.progress)
    job.phases.mark("warmup")
    witness = job.witness()
    meeting.wait()
    beat = job.progress.counting(witness.see_cpu)
    windows = load_windows(pipeline, cell.window_s, warmup.batch_s, cell.timeout_s, meeting.is_done, beat)
    meeting.stopped()
    certificate = plain(witness.finish())
    job.phases.mark("measure")
    return {
        "warmup": warmup.as_json(),
        "windows": [window.as_json() for window in windows],
        "throughput_samples_s": throughput_samples_s(windows, cell.batch_size),
        "certificate": certificate,
    }


# --- run
# One run of a cell, from the device to its result.

def execute(
    raw: dict[str, Any],
    mode: str,
    progress: Progress,
    phases: Phases,
    trace: Path | None = None,
    meeting: Barrier | None = None,
) -> dict[str, Any]:
    """Run the cell once, timed, traced or as load, and return its result. Raise RunFailure, or what torch raises.

    meeting: where other processes load the host meanwhile.
    """
    cell = parse_cell(raw)
    with torch.inference_mode():
        device = open_device(cell)
        phases.mark("device")
        pipeline = build_pipeline(cell, device, phases)
        gc.collect()
        # No collection inside a window, and none over what lives as long as the process.
        gc.freeze()
        gc.disable()
        try:
            job = Job(raw, cell, pipeline, progress, phases, meeting)
            if mode == "timed":
                measured = timed(job)
            elif mode == "traced":
                measured = traced(job, trace)
            else:
                measured = load(job)
            checksum = first_batch_again(pipeline)
        finally:
            pipeline.close()
            gc.enable()
            gc.unfreeze()
        phases.mark("finish")
    return {
        "status": "ok",
        "mode": mode,
        "device": device.describe(),
        "versions": versions(),
        "batches_per_pass": cell.batches_per_pass,
        "bytes_in_per_batch": cell.bytes_in_per_batch,
        "bytes_out_per_batch": cell.bytes_out_per_batch,
        "input_ring_batches": len(pipeline.host_in) if pipeline.copies.into else 0,
        "output_ring_batches": len(pipeline.host_out) if pipeline.copies.back else 0,
        "buffer_layout": pipeline.layout,
        "compile": compile_facts(cell, phases.seconds["compile"]),
        "preprocess": pipeline.preparation,
        "host_memory": pipeline.rings.host_memory,
        **measured,
        "output_checksum": checksum,
        "phases_s": dict(phases.seconds),
    }


def build_pipeline(cell: Cell, device: Device, phases: Phases) -> Pipeline:
    set_precision(cell.dtype)
    model = build_model(cell, device.torch_device)
    slots = make_slots(cell, device)
    phases.mark("model")
    forward = make_forward(cell, device, model, slots)
    device.synchronize()
    phases.mark("compile" if forward and cell.compile_model != "off" else "model")
    rings = make_rings(cell, device)
    parts = device, rings, slots, forward, cell.copy_granularity == "sample"
    if cell.preprocess_queue:
        preparer = Preparer(device, rings.inputs, cell.preprocess_queue, preparing_cpus(cell), cell.seed)
        pipeline: Pipeline = PreparedPipeline(preparer, *parts)
    else:
        pipeline = Pipeline(*parts)
    # Slots and weights were made on other streams than the pipeline's.
    device.synchronize()
    phases.mark("buffers")
    return pipeline
