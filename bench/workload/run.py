"""One run of a cell, from the device to its result: timed, traced, or as load beside another process."""

import gc
from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec.structs import replace

from bench.host.certificate import Certifier
from bench.records.run import Certificate, Mode, Result, Window
from bench.records.study import Cell
from bench.workload.barrier import Barrier
from bench.workload.devices import Device, open_device
from bench.workload.execution import compilations, make_call, make_forward, make_slots, refuse_compilations
from bench.workload.host_memory import make_rings
from bench.workload.measure import (
    LatencyMarks,
    WarmedUp,
    WarmupRule,
    batches_per_window,
    first_batch_again,
    isolated_batch_s,
    latency,
    load_windows,
    measure_windows,
    no_latency,
    result_of,
    trace_pass,
    warm_up,
)
from bench.workload.models import set_precision
from bench.workload.pipeline import Pipeline, PreparedPipeline
from bench.workload.preprocessing import Preparer, preprocess_cpus
from bench.workload.profiling import Ranges, make_capture, make_ranges
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.solo import issue_us, solo_us
from bench.workload.subject import build_subject


def execute(
    cell: Cell,
    mode: Mode,
    progress: Progress,
    phases: PhaseTimes,
    trace: Path | None = None,
    barrier: Barrier | None = None,
) -> Result:
    """Run the cell once and return its result. Raise RunFailure, or what torch raises.

    barrier: shared with the other processes that load the host meanwhile.
    """
    with torch.inference_mode():
        device = open_device(cell)
        phases.mark("device")
        pipeline = build_pipeline(cell, device, phases)
        gc.collect()
        # No collection inside a window, and none of objects that live as long as the process.
        gc.freeze()
        gc.disable()
        try:
            job = _Job(cell, pipeline, progress, phases, barrier)
            if mode is Mode.TIMED:
                result = _timed(job)
            elif mode is Mode.TRACED:
                result = _traced(job, trace)
            else:
                result = _load(job)
            checksum = first_batch_again(pipeline)
        finally:
            pipeline.close()
            gc.enable()
            gc.unfreeze()
        phases.mark("finish")
    return replace(result, output_checksum=checksum, phases_s=dict(phases.seconds))


def build_pipeline(cell: Cell, device: Device, phases: PhaseTimes) -> Pipeline:
    set_precision(cell.dtype)
    subject = build_subject(cell, device.torch_device)
    slots = make_slots(cell, device, subject)
    phases.mark("model")
    forward = make_forward(cell, device, subject, slots, make_call(cell, device, subject, slots))
    device.synchronize()
    phases.mark("compile" if forward and cell.compile_model != "off" else "model")
    rings = make_rings(cell, device, subject)
    parts = device, subject, rings, slots, forward, cell.copy_granularity == "sample"
    if cell.preprocess_queue:
        assert rings.inputs, "a study refuses preprocessing without a copy in"
        preparer = Preparer(device, rings.inputs[0], cell.preprocess_queue, preprocess_cpus(cell), cell.seed)
        pipeline: Pipeline = PreparedPipeline(preparer, *parts)
    else:
        pipeline = Pipeline(*parts)
    # Slots and weights were created on other streams than the pipeline's.
    device.synchronize()
    phases.mark("buffers")
    return pipeline


@dataclass(frozen=True)
class _Job:
    """What one run works with."""

    cell: Cell
    pipeline: Pipeline
    progress: Progress
    phases: PhaseTimes
    barrier: Barrier | None

    def rule(self) -> WarmupRule:
        return WarmupRule(self.cell.window_s, -(-self.cell.warmup_samples // self.cell.batch_size))

    def warm_up(self, ranges: Ranges | None = None) -> WarmedUp:
        """With peers, once without their load and once under it: the last windows are as those that are measured."""
        warmed = warm_up(self.pipeline, self.rule(), self.progress, ranges)
        if self.barrier:
            self.barrier.wait()
            warmed = warm_up(self.pipeline, self.rule(), self.progress, ranges)
        self.phases.mark("warmup")
        return warmed

    def certifier(self) -> Certifier:
        """It has observed the start of the windows."""
        certifier = Certifier(self.cell, self.pipeline.addresses())
        certifier.start()
        return certifier

    def end_load(self) -> None:
        if self.barrier:
            self.barrier.finish()

    def result(self, mode: Mode, warmed: WarmedUp, windows: list[Window], certificate: Certificate) -> Result:
        return result_of(self.cell, mode, self.pipeline, warmed, windows, certificate, self.phases.seconds["compile"])


def _timed(job: _Job) -> Result:
    """The windows, without a profiler; then each stage in isolation, when the peers have ended."""
    cell, pipeline, device = job.cell, job.pipeline, job.pipeline.device
    warmed = job.warm_up()
    isolated_s = isolated_batch_s(pipeline)
    count = batches_per_window(warmed.batch_s, isolated_s, cell.window_s, cell.windows, cell.batches_per_pass)
    certifier = job.certifier()
    reason = no_latency(cell.direction)
    marks = None if reason else LatencyMarks(device)
    before = device.allocations(), pipeline.waited, compilations()
    measured = measure_windows(pipeline, cell.windows, count, cell.window_s, job.progress, marks, certifier.see_cpu)
    after = device.allocations(), pipeline.waited, compilations()
    allocated, waited, compiled = (end - start for start, end in zip(before, after, strict=True))
    certificate = certifier.finish()
    job.end_load()
    refuse_compilations(compiled)
    job.phases.mark("measure")
    issue = issue_us(pipeline, warmed.batch_s)
    return replace(
        job.result(Mode.TIMED, warmed, measured.windows, certificate),
        latency_us=latency(measured.latencies_us, reason),
        issue_us=issue,
        solo_us=solo_us(pipeline, warmed.batch_s, issue),
        device_allocations_in_windows=allocated,
        waited_batches_in_windows=waited,
        compilations_in_windows=compiled,
    )


def _traced(job: _Job, trace: Path | None) -> Result:
    """One pass under the profiler."""
    cell, pipeline = job.cell, job.pipeline
    ranges = make_ranges(cell)
    capture = make_capture(cell, trace)
    warmed = job.warm_up(ranges)
    certifier = job.certifier()
    window = trace_pass(pipeline, cell.batches_per_pass, ranges, capture, job.progress, certifier.see_cpu)
    certificate = certifier.finish()
    job.end_load()
    job.phases.mark("measure")
    return job.result(Mode.TRACED, warmed, [window], certificate)


def _load(job: _Job) -> Result:
    """The load for another process: no latencies and no isolated stages, which would load less."""
    cell, pipeline, barrier = job.cell, job.pipeline, job.barrier
    assert barrier is not None, "the command line asks for one"
    warmed = warm_up(pipeline, job.rule(), job.progress)
    job.phases.mark("warmup")
    certifier = job.certifier()
    barrier.wait()
    beat = job.progress.counting(certifier.see_cpu)
    windows = load_windows(pipeline, cell.window_s, warmed.batch_s, cell.timeout_s, barrier.is_done, beat)
    barrier.stopped()
    certificate = certifier.finish()
    job.phases.mark("measure")
    return job.result(Mode.LOAD, warmed, windows, certificate)
