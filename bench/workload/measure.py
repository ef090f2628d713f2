"""The measured loop of a run: warm-up, windows, and the one traced pass."""

import math
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median

from bench.workload.failures import CRASHED, RunFailure
from bench.workload.latency import LatencyMarks
from bench.workload.pipeline import Pipeline, no_beat
from bench.workload.progress import DONE, MEASURING, WARMUP, Progress
from bench.workload.ranges import WARMUP_PREFIX, WINDOW_PREFIX, Ranges, annotated_step, named
from bench.workload.stages import Stage
from bench.workload.windows import WarmupRule, Window, batches_in, longer, pace

Beat = Callable[[], None]
MAX_EXTENSIONS = 5


@dataclass(frozen=True)
class Warmup:
    windows: list[Window]
    settled: bool
    spread: float | None
    batch_s: float

    def as_json(self) -> dict[str, object]:
        return {
            "batches": sum(window.batches for window in self.windows),
            "duration_s": sum(window.duration_s for window in self.windows),
            "settled": self.settled,
            "spread": self.spread,
        }


@dataclass(frozen=True)
class Measured:
    """`latencies_us`: one value per marked batch of all windows."""

    windows: list[Window]
    latencies_us: list[float]


def run_window(pipeline: Pipeline, count: int, beat: Beat, marks: LatencyMarks | None = None) -> Window:
    """From before the first issue to after the closing synchronise, in wall time."""
    starts, ends = marks.events(count) if marks else (None, None)
    faults = _minor_faults()
    start_ns = time.perf_counter_ns()
    pipeline.run(count, beat, starts=starts, ends=ends)
    pipeline.drain()
    duration_s = (time.perf_counter_ns() - start_ns) / 1e9
    return Window(count, duration_s, start_ns, _minor_faults() - faults)


def warm_up(pipeline: Pipeline, rule: WarmupRule, progress: Progress, ranges: Ranges | None = None) -> Warmup:
    """Run windows until `rule` has seen enough; with `ranges` every batch is named warmup_."""
    progress.enter(WARMUP, rule.min_batches)
    history: list[Window] = []
    while not rule.is_over(history):
        count = rule.next_batches(history)
        if ranges is None:
            history.append(run_window(pipeline, count, progress.beat))
        else:
            step = annotated_step(pipeline, ranges, WARMUP_PREFIX, count)
            history.append(_stepped_window(pipeline, count, progress.beat, step))
    return Warmup(history, rule.settled(history), rule.spread(history), pace(history, rule.window_s))


def alone_s(pipeline: Pipeline) -> float:
    """Seconds of a batch that nothing overlaps, from its first call until it is back. Median of three."""
    return median(run_window(pipeline, 1, no_beat).duration_s for _ in range(3))


def measure_windows(
    pipeline: Pipeline,
    windows: int,
    count: int,
    window_s: float,
    progress: Progress,
    marks: LatencyMarks | None,
    see_cpu: Beat | None = None,
) -> Measured:
    """`windows` windows of `count` batches, each at least window_s long.

    Where the pipeline got faster than warm-up said and a window came out short, all of them are measured
    again with more batches: dropping the short ones alone would drop the fast ones.
    """
    beat = progress.counting(see_cpu)
    for _ in range(MAX_EXTENSIONS):
        if marks:
            marks.prepare(count)
        progress.enter(MEASURING, windows * count)
        measured: list[Window] = []
        latencies_us: list[float] = []
        for _ in range(windows):
            measured.append(run_window(pipeline, count, beat, marks))
            latencies_us += marks.read_us() if marks else []
        if min(window.duration_s for window in measured) >= window_s:
            break
        count = longer(count, measured, window_s)
    progress.enter(DONE)
    return Measured(measured, latencies_us)


def load_windows(
    pipeline: Pipeline, window_s: float, batch_s: float, limit_s: float, is_over: Callable[[], bool], beat: Beat
) -> list[Window]:
    """Windows of about window_s, one after another until is_over() or for limit_s."""
    count = batches_in(window_s, batch_s)
    end = time.perf_counter() + limit_s
    windows = [run_window(pipeline, count, beat)]
    while not is_over() and time.perf_counter() < end:
        windows.append(run_window(pipeline, count, beat))
    # The others stopped during the last one.
    return windows[:-1] or windows


def trace_pass(
    pipeline: Pipeline,
    count: int,
    ranges: Ranges,
    capture: AbstractContextManager[object],
    progress: Progress,
    see_cpu: Beat | None = None,
) -> Window:
    """One pass inside `capture`, all of it inside the range test_double_buffer."""
    step = annotated_step(pipeline, ranges, WINDOW_PREFIX, count)
    progress.enter(MEASURING, count)
    beat = progress.counting(see_cpu)
    with capture, named(ranges, f"{WINDOW_PREFIX}double_buffer"):
        window = _stepped_window(pipeline, count, beat, step)
    progress.enter(DONE)
    return window


def first_batch_again(pipeline: Pipeline) -> float:
    """Mean |y| of ring batch 0: the same for the same seed, however many batches were measured before.

    Raise RunFailure (crashed) if it is no number: the batch never came back, or overflowed its type.
    """
    pipeline.next_batch = 0
    pipeline.run(1, no_beat)
    pipeline.drain()
    # On the CPU wherever the output is: the same bits for every direction.
    checksum = float(pipeline.output_of(0).cpu().float().abs().mean())
    if not math.isfinite(checksum):
        what = f"the output of the first batch is {checksum}: it never came back, or overflowed its type"
        raise RunFailure(CRASHED, what, "set dtype to fp32 or bf16")
    return checksum


def _stepped_window(pipeline: Pipeline, count: int, beat: Beat, step: Stage) -> Window:
    start_ns = time.perf_counter_ns()
    pipeline.run(count, beat, step)
    pipeline.drain()
    return Window(count, (time.perf_counter_ns() - start_ns) / 1e9, start_ns)


def _minor_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
