"""A traced program as columns: the API calls of its threads, the GPU activities that they launched, and what waits."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from bench.trace.intervals import Columns, Times

Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]


class Work(IntEnum):
    KERNEL = 0
    H2D = 1
    D2H = 2
    OTHER_COPY = 3
    MEMSET = 4
    GRAPH = 5


@dataclass(frozen=True)
class Calls(Columns):
    """Outermost API calls by (thread, start). Times in ns since the first event. name: index into Program.call_names.

    process, thread: numbers from 0 on.
    """

    start: Times
    end: Times
    process: Times
    thread: Times
    name: Times


@dataclass(frozen=True)
class Activities(Columns):
    """GPU activities by (stream, start). call: index of the call that launched it, -1 if the trace lacks it.

    call_start, call_ns: of the call with its correlation id, which may be nested in `call`. stream: a number for each
    (process, context, stream id) that is used. kind: values of Work. pageable: a copy from or to pageable memory.
    """

    start: Times
    end: Times
    device: Times
    stream: Times
    call: Times
    call_start: Times
    call_ns: Times
    kind: NDArray[np.int8]
    bytes: Times
    pageable: Flags
    name: Times

    def of(self, *kinds: Work) -> Flags:
        return np.isin(self.kind, kinds)


@dataclass(frozen=True)
class Marks(Columns):
    """Calls that record an event, or wait for one. call: index into Calls. kind: CUPTI's type of synchronization; 0 for
    a record. stream: as in Activities, -1 for one without activities. event: a number."""

    call: Times
    kind: Times
    context: Times
    stream: Times
    event: Times


@dataclass(frozen=True)
class Program:
    """stream_context: context of each stream. null_streams, blocking_streams: of the numbered streams.

    launches, recorded: calls that launch work while the GPU was traced, and those with an activity. has_marks: whether
    calls that record events or wait for them have their records.
    """

    calls: Calls
    activities: Activities
    call_names: tuple[str, ...]
    marks: Marks
    stream_context: Times
    stream_process: Times
    null_streams: frozenset[int]
    blocking_streams: frozenset[int]
    names: dict[int, str]
    first_ns: int
    launches: int
    recorded: int
    managed: bool
    has_marks: bool
