"""Sets of half-open intervals [start, end) of integer nanoseconds, as sorted disjoint int64 arrays.

All times must lie within +-2**61, so that no sum of disjoint lengths overflows; the reader sees to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]


@dataclass(frozen=True)
class Columns:
    """Arrays of equal length, one a field."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def at(self, places: NDArray[np.intp]) -> Self:
        return type(self)(*(getattr(self, field.name)[places] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Intervals(Columns):
    """Disjoint, ascending, none empty, none touching the next."""

    start: Times
    end: Times

    @property
    def length(self) -> int:
        return int((self.end - self.start).sum())


def union(start: Times, end: Times) -> Intervals:
    """Union of [start, end); empty intervals vanish. Any order; O(n log n), O(n) if already sorted."""
    solid = end > start
    if not solid.all():
        start, end = start[solid], end[solid]
    if not len(start):
        return Intervals(start[:0], end[:0])
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")  # fast for a few ascending runs
        start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    opens = np.concatenate(([True], start[1:] > reach[:-1]))
    closes = np.concatenate((opens[1:], [True]))
    return Intervals(start[opens], reach[closes])


def join(*sets: Intervals) -> Intervals:
    every = Intervals.joined(sets)
    return union(every.start, every.end)


def covered_before(intervals: Intervals, times: Times) -> Times:
    """Length of `intervals` below each of `times`."""
    if not len(intervals):
        return np.zeros(len(times), np.int64)
    total = np.concatenate(([0], np.cumsum(intervals.end - intervals.start)))
    index = np.searchsorted(intervals.start, times, side="right")
    # The last interval opened before the time may reach beyond it.
    beyond = np.maximum(intervals.end[index - 1] - times, 0)
    return total[index] - np.where(index > 0, beyond, 0)


def covered(intervals: Intervals, start: Times, end: Times) -> Times:
    """Length of `intervals` within each [start, end)."""
    return covered_before(intervals, end) - covered_before(intervals, start)


def overlap(one: Intervals, other: Intervals) -> int:
    return int(covered(other, one.start, one.end).sum())


def gaps(intervals: Intervals, start: int, end: int) -> Intervals:
    """[start, end) without `intervals`, which must lie within."""
    opens = np.concatenate((np.array([start], np.int64), intervals.end))
    closes = np.concatenate((intervals.start, np.array([end], np.int64)))
    real = closes > opens
    return Intervals(opens[real], closes[real])


def running_end(group: Times, end: Times) -> Times:
    """Running maximum of `end` that starts anew with every group; groups ascend."""
    if not len(end):
        return end
    low = int(end.min())
    span = int(end.max()) - low + 1
    if span * (int(group[-1]) + 1) < 2**62:
        return np.maximum.accumulate(end - low + group * span) - group * span + low
    return np.concatenate([np.maximum.accumulate(end[group == number]) for number in np.unique(group)])
