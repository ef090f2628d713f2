"""Latency of a batch on the device: from the start of its copy in to the end of its copy out."""

from collections.abc import Sequence
from typing import Any

from bench.quantiles import percentile, summary, unsupported
from bench.workload.devices import Device, Event

# Enough for a p99 over nine windows; marking every batch of a fast pipeline would add two commands to each.
MAX_MARKED_PER_WINDOW = 512


class LatencyMarks:
    """Pairs of timing events, made before the windows and used again in each.

    CUDA makes an event when it is first recorded, so each is recorded once at once.
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
    """Every how many batches one is marked. Odd, so that two slots are marked alike."""
    stride = max(1, -(-count // max_marked))
    return stride if stride % 2 else stride + 1


def no_latency(direction: str) -> str:
    """Why batches of this direction have no latency; empty for `both`."""
    missing = {"h2d": "no copy out, which would end it", "d2h": "no copy in, which would begin it"}
    return f"direction {direction}: a batch has {missing[direction]}" if direction in missing else ""


def latency_us(values_us: Sequence[float], reason: str = "") -> dict[str, Any]:
    """p50, p90, p99, max and their reasons (bench.quantiles), and `quantiles`: 101 values, percent 0 to 100.

    null where the sample cannot support the value; the ends are the smallest and the largest seen. reason: why there
    is no sample.
    """
    ordered = sorted(values_us)
    found = summary(ordered)
    if reason:
        found["reasons"] = dict.fromkeys(("p50", "p90", "p99", "max"), reason)
    return {**found, "quantiles": [_quantile(ordered, percent) for percent in range(101)]}


def _quantile(ordered: Sequence[float], percent: int) -> float | None:
    nearer_end = max(percent, 100 - percent)
    if not ordered or (nearer_end < 100 and unsupported(nearer_end, len(ordered))):
        return None
    return percentile(ordered, percent)
