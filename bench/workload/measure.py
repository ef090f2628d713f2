"""The measured loop of a run: warm-up, windows, latency marks, and the one traced pass."""

import math
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median

import torch

from bench.records.run import Certificate, Latency, Mode, Outcome, Result, Warmup, Window
from bench.records.study import Cell
from bench.units import percentile, samples_needed, summary, unsupported
from bench.workload.devices import Device, Event, versions
from bench.workload.execution import compilation
from bench.workload.failures import RunFailure
from bench.workload.pipeline import Pipeline, Stage, no_beat
from bench.workload.profiling import WARMUP_PREFIX, WINDOW_PREFIX, Ranges, annotated_step, named
from bench.workload.progress import Phase, Progress
from bench.workload.subject import leaves_of

SETTLED_SPREAD = 0.01
SETTLED_WINDOWS = 3
MAX_WINDOWS = 20
MIN_WARMUP_S = 0.5
MAX_WARMUP_S = 5.0
# A window is planned this much longer than it must be, so that a faster moment does not make it too short.
MARGIN = 1.25
# The share of a window that filling and emptying the pipeline may add to it.
FILLING_SHARE = 0.001
# Enough for a p99 over nine windows; marking every batch of a fast pipeline would add two commands to each.
MAX_MARKED_PER_WINDOW = 512
MAX_EXTENSIONS = 5

Beat = Callable[[], None]


# How long windows are, and when the warm-up has settled. Pure.


@dataclass(frozen=True)
class WarmupRule:
    """min_batches: the study's warm-up samples. The limits end a warm-up that does not settle."""

    window_s: float
    min_batches: int
    min_s: float = MIN_WARMUP_S
    max_windows: int = MAX_WINDOWS
    max_s: float = MAX_WARMUP_S

    def full(self, history: Sequence[Window]) -> list[Window]:
        """The windows that are long enough to be judged."""
        return [window for window in history if window.duration_s >= self.window_s]

    def spread(self, history: Sequence[Window]) -> float | None:
        """Relative range of the time per batch over the last three windows; None if there are fewer."""
        last = [window.batch_s for window in self.full(history)[-SETTLED_WINDOWS:]]
        if len(last) < SETTLED_WINDOWS:
            return None
        return (max(last) - min(last)) / (sum(last) / len(last))

    def settled(self, history: Sequence[Window]) -> bool:
        spread = self.spread(history)
        return spread is not None and spread <= SETTLED_SPREAD

    def is_over(self, history: Sequence[Window]) -> bool:
        duration_s = sum(window.duration_s for window in history)
        if sum(window.batches for window in history) < self.min_batches or duration_s < self.min_s:
            return False
        return self.settled(history) or len(self.full(history)) >= self.max_windows or duration_s >= self.max_s

    def next_batches(self, history: Sequence[Window]) -> int:
        """Batches of the next window: one to begin with, then as many as window_s takes at the last pace."""
        if not history:
            return 1
        wanted = batches_in(self.window_s, max(history[-1].batch_s, 1e-9))
        # The first batches carry lazy initialisation; a pace read from few of them is refined stepwise.
        return max(1, min(wanted, 64 * history[-1].batches))

    def pace(self, history: Sequence[Window]) -> float:
        """Seconds per batch in the last windows."""
        return median(window.batch_s for window in (self.full(history) or history)[-SETTLED_WINDOWS:])


def batches_in(window_s: float, batch_s: float) -> int:
    """Batches that last at least window_s, with a margin."""
    return max(1, math.ceil(MARGIN * window_s / batch_s))


def batches_per_window(batch_s: float, isolated_s: float, window_s: float, windows: int, batches_per_pass: int) -> int:
    """As many as last window_s; up to a whole pass, as many more as two conditions need.

    A window begins and ends with an empty pipeline, so n batches last n * batch_s plus what an isolated batch takes
    longer (isolated_s - batch_s): this must be at most FILLING_SHARE of the window. And all windows together must
    support a p99.
    """
    steady = math.ceil((isolated_s - batch_s) / (FILLING_SHARE * batch_s))
    sampled = -(-samples_needed(99) // windows)
    return max(batches_in(window_s, batch_s), min(batches_per_pass, max(steady, sampled)))


def longer(count: int, windows: Sequence[Window], window_s: float) -> int:
    """Batches that make the shortest of `windows`, of `count` each, long enough; always more than before."""
    shortest_s = min(window.duration_s for window in windows)
    return max(count + 1, math.ceil(MARGIN * count * window_s / max(shortest_s, 1e-9)))


def throughput_samples_s(windows: Sequence[Window], batch_size: int) -> float:
    """Median over the windows."""
    return median(batch_size / window.batch_s for window in windows)


# Latency of a batch on the device: from the start of its copy in to the end of its copy out.


class LatencyMarks:
    """Pairs of timing events, created before the windows and reused in each.

    CUDA creates an event when it is first recorded, so each is recorded once in advance.
    """

    def __init__(self, device: Device, max_marked: int = MAX_MARKED_PER_WINDOW) -> None:
        self._device = device
        self._max_marked = max_marked
        self._starts: list[Event | None] = []
        self._ends: list[Event | None] = []

    def prepare(self, count: int) -> None:
        """Choose the batches to mark in windows of `count` batches."""
        stride = mark_stride(count, self._max_marked)
        stream = self._device.stream()
        self._starts = [self._timing_event(stream) if i % stride == 0 else None for i in range(count)]
        self._ends = [self._timing_event(stream) if i % stride == 0 else None for i in range(count)]
        self._device.synchronize()

    def events(self, count: int) -> tuple[Sequence[Event | None], Sequence[Event | None]]:
        if count != len(self._starts):
            raise ValueError(f"prepared for windows of {len(self._starts)} batches, not {count}")
        return self._starts, self._ends

    def read_us(self) -> list[float]:
        """Of the last window; only after it was drained."""
        pairs = zip(self._starts, self._ends, strict=True)
        return [start.elapsed_time(end) * 1e3 for start, end in pairs if start and end]

    def _timing_event(self, stream: object) -> Event:
        event = self._device.event(timing=True)
        event.record(stream)
        return event


def mark_stride(count: int, max_marked: int) -> int:
    """One batch of this many is marked. Odd, so that both of two slots are marked equally often."""
    stride = max(1, -(-count // max_marked))
    return stride if stride % 2 else stride + 1


def no_latency(direction: str) -> str:
    """Why batches of this direction have no latency; empty for `both`."""
    missing = {"h2d": "no copy out, which would end it", "d2h": "no copy in, which would begin it"}
    return f"direction {direction}: a batch has {missing[direction]}" if direction in missing else ""


def latency(values_us: Sequence[float], reason: str = "") -> Latency:
    """None where the sample does not support the value; quantiles 0 and 100 are the smallest and the largest value.

    reason: why there is no sample.
    """
    ordered = sorted(values_us)
    values = summary(ordered)
    if reason:
        values["reasons"] = dict.fromkeys(("p50", "p90", "p99", "max"), reason)
    return Latency(**values, quantiles=[_quantile(ordered, percent) for percent in range(101)])


def _quantile(ordered: Sequence[float], percent: int) -> float | None:
    nearer_end = max(percent, 100 - percent)
    if not ordered or (nearer_end < 100 and unsupported(nearer_end, len(ordered))):
        return None
    return percentile(ordered, percent)


# The loop.


@dataclass(frozen=True)
class WarmedUp:
    """batch_s: seconds per batch at the end."""

    windows: list[Window]
    settled: bool
    spread: float | None
    batch_s: float

    @property
    def record(self) -> Warmup:
        return Warmup(
            batches=sum(window.batches for window in self.windows),
            duration_s=sum(window.duration_s for window in self.windows),
            settled=self.settled,
            spread=self.spread,
        )


@dataclass(frozen=True)
class Measured:
    """latencies_us: one value for each marked batch of all windows."""

    windows: list[Window]
    latencies_us: list[float]


def run_window(
    pipeline: Pipeline, count: int, beat: Beat, marks: LatencyMarks | None = None, step: Stage | None = None
) -> Window:
    """From before the first issue to after the closing synchronise, in wall time. step: as of Pipeline.run."""
    starts, ends = marks.events(count) if marks else (None, None)
    faults = minor_faults()
    start_ns = time.perf_counter_ns()
    pipeline.run(count, beat, step, starts, ends)
    pipeline.drain()
    duration_s = (time.perf_counter_ns() - start_ns) / 1e9
    return Window(batches=count, duration_s=duration_s, start_ns=start_ns, minor_faults=minor_faults() - faults)


def warm_up(pipeline: Pipeline, rule: WarmupRule, progress: Progress, ranges: Ranges | None = None) -> WarmedUp:
    """Run windows until `rule` is satisfied; with `ranges` every batch is named warmup_."""
    progress.enter(Phase.WARMUP, rule.min_batches)
    history: list[Window] = []
    while not rule.is_over(history):
        count = rule.next_batches(history)
        step = annotated_step(pipeline, ranges, WARMUP_PREFIX, count) if ranges else None
        history.append(run_window(pipeline, count, progress.beat, step=step))
    return WarmedUp(history, rule.settled(history), rule.spread(history), rule.pace(history))


def isolated_batch_s(pipeline: Pipeline) -> float:
    """Seconds of a batch that nothing overlaps, from its first call until its output is back. Median of three."""
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

    If the pipeline is faster than it was at the end of the warm-up and a window is too short, all of them are
    measured again with more batches: to drop only the short ones would be to drop the fast ones.
    """
    beat = progress.counting(see_cpu)
    for _ in range(MAX_EXTENSIONS):
        if marks:
            marks.prepare(count)
        progress.enter(Phase.MEASURING, windows * count)
        measured: list[Window] = []
        latencies_us: list[float] = []
        for _ in range(windows):
            measured.append(run_window(pipeline, count, beat, marks))
            latencies_us += marks.read_us() if marks else []
        if min(window.duration_s for window in measured) >= window_s:
            break
        count = longer(count, measured, window_s)
    progress.enter(Phase.DONE)
    return Measured(measured, latencies_us)


def load_windows(
    pipeline: Pipeline, window_s: float, batch_s: float, limit_s: float, is_over: Callable[[], bool], beat: Beat
) -> list[Window]:
    """Windows of about window_s until is_over() or for limit_s. They flow into one another: the load has no gaps."""
    count, windows = batches_in(window_s, batch_s), list[Window]()
    end = time.perf_counter() + limit_s
    start_ns = time.perf_counter_ns()
    closing = _issue(pipeline, count, beat)
    while not windows or not (is_over() or time.perf_counter() > end):
        closed, closing = closing, _issue(pipeline, count, beat)
        closed.synchronize()
        end_ns = time.perf_counter_ns()
        windows.append(Window(batches=count, duration_s=(end_ns - start_ns) / 1e9, start_ns=start_ns))
        start_ns = end_ns
    pipeline.drain()
    # The measured process stopped during the last one.
    return windows[:-1] or windows


def _issue(pipeline: Pipeline, count: int, beat: Beat) -> Event:
    """Issue batches; return the event of the end of the last one."""
    last = pipeline.device.event(timing=False)
    pipeline.run(count, beat, ends=[*[None] * (count - 1), last])
    return last


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
    progress.enter(Phase.MEASURING, count)
    beat = progress.counting(see_cpu)
    with capture, named(ranges, f"{WINDOW_PREFIX}double_buffer"):
        window = run_window(pipeline, count, beat, step=step)
    progress.enter(Phase.DONE)
    return window


def first_batch_again(pipeline: Pipeline) -> float:
    """Of ring batch 0 the mean |y|, and the sum of integers, added up over its leaves: the same for the same seed,
    however many batches were measured before.

    Raise RunFailure (crashed) if it is not finite: the batch never came back, or overflowed its type.
    """
    pipeline.next_batch = 0
    pipeline.run(1, no_beat)
    pipeline.drain()
    checksum = sum(map(_checksum, leaves_of(pipeline.output_of(0))))
    if not math.isfinite(checksum):
        what = f"the output of the first batch is {checksum}: it never came back, or overflowed its type"
        raise RunFailure(Outcome.CRASHED, what, "set dtype to fp32 or bf16")
    return checksum


def _checksum(leaf: torch.Tensor) -> float:
    # On the CPU wherever the output is: the same bits for every direction.
    leaf = leaf.cpu()
    if leaf.is_complex() or leaf.is_floating_point():
        return float(leaf.abs().float().mean() if leaf.is_complex() else leaf.float().abs().mean())
    return float(leaf.sum())


def minor_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


# The result.


def result_of(
    cell: Cell,
    mode: Mode,
    pipeline: Pipeline,
    warmed: WarmedUp,
    windows: list[Window],
    certificate: Certificate,
    compile_s: float,
) -> Result:
    """What every result has; latency and the stages in isolation are added where they were measured."""
    return Result(
        mode=mode,
        throughput_samples_s=throughput_samples_s(windows, cell.batch_size),
        buffer_layout=pipeline.layout,
        batches_per_pass=cell.batches_per_pass,
        subject=pipeline.subject.facts,
        bytes_in_per_batch=pipeline.subject.input_bytes if pipeline.copies.into else 0,
        bytes_out_per_batch=pipeline.subject.output_bytes if pipeline.copies.back else 0,
        input_ring_batches=len(pipeline.host_in) if pipeline.copies.into else 0,
        output_ring_batches=len(pipeline.host_out) if pipeline.copies.back else 0,
        device=pipeline.device.describe(),
        versions=versions(),
        compile=compilation(cell, compile_s),
        preprocess=pipeline.preprocessing,
        host_memory=pipeline.rings.host_memory,
        warmup=warmed.record,
        windows=windows,
        certificate=certificate,
    )
