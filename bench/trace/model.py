"""A trace as plain values: the window, and the device's activities in it."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from bench.trace.intervals import Intervals, Times, union
from bench.trace.window import Window


class Kind(IntEnum):
    """What an activity counts as (DESIGN.md, metrics of one trace): H, D or K."""

    H2D = 0
    D2H = 1
    COMPUTE = 2


@dataclass(frozen=True)
class Activities:
    """Columns of equal length, int64, in no particular order. Times in ns, end >= start.

    call_end: when the API call that launched the activity returned. bytes: 0 unless a copy.
    batch: index into the window's batches, -1 if launched between two batches.
    name: key of Trace.names. stream, host_memory: of copies; -1 elsewhere or where the export does not say.
    """

    start: Times
    end: Times
    kind: Times
    bytes: Times
    call_end: Times
    batch: Times
    device: Times
    name: Times
    stream: Times
    host_memory: Times

    def __len__(self) -> int:
        return len(self.start)

    def of(self, kind: Kind) -> NDArray[np.intp]:
        return np.flatnonzero(self.kind == kind)

    def union(self, kind: Kind) -> Intervals:
        chosen = self.of(kind)
        return union(self.start[chosen], self.end[chosen])


@dataclass(frozen=True)
class Device:
    """A GPU that ran something in the window; what the export does not say is None."""

    id: int
    uuid: str | None
    name: str | None
    pci_bus_id: str | None


@dataclass(frozen=True)
class Trace:
    """name: the cell's, from the file name. null_streams: ids of the default streams of the window's process."""

    name: str
    window: Window
    activities: Activities
    devices: tuple[Device, ...]
    names: dict[int, str]
    memory_kinds: dict[int, str]
    null_streams: frozenset[int]
