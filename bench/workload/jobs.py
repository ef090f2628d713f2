"""What a run does with its pipeline: timed, traced, or load for others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.host.certificate import Certifier
from bench.workload.barrier import Barrier
from bench.workload.capture import make_capture
from bench.workload.cell import Cell
from bench.workload.compilation import compilations, refuse_compilations
from bench.workload.latency import LatencyMarks, latency_us, no_latency
from bench.workload.measure import Warmup, alone_s, load_windows, measure_windows, trace_pass, warm_up
from bench.workload.phases import Phases
from bench.workload.pipeline import Pipeline
from bench.workload.progress import Progress
from bench.workload.ranges import Ranges, make_ranges
from bench.workload.solo import issue_us, solo_us
from bench.workload.windows import WarmupRule, batches_per_window, throughput_samples_s


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
        witness = Certifier(self.raw, self.pipeline.addresses())
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
    certificate = witness.finish()
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
    certificate = witness.finish()
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
    certificate = witness.finish()
    job.phases.mark("measure")
    return {
        "warmup": warmup.as_json(),
        "windows": [window.as_json() for window in windows],
        "throughput_samples_s": throughput_samples_s(windows, cell.batch_size),
        "certificate": certificate,
    }
