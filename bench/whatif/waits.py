"""What an activity or a call waited for: edges between streams, and from activities to the ends of calls."""

import re
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from bench.trace.intervals import Columns, Times, running_end
from bench.whatif.program import Activities, Calls, Flags, Indices, Program, Work

SYNC = re.compile(r"(Stream|Device|Event|Thread|Ctx)Synchronize")
WHOLE_DEVICE = re.compile(r"(Device|Ctx|Thread)Synchronize")
BLOCKING_COPY = re.compile(
    r"^(cudaMemcpy(2D|3D|ToSymbol|FromSymbol)?(_v\d+|_ptsz|_ptds)*|cuMemcpy(HtoD|DtoH)(_v\d+)*(_ptds)?)\Z"
)
# ns. A time that an edge contradicts by more is no rounding of clocks: the edge is dropped.
CLOCK_NS = 1500
# A synchronization returns this long after the end of what it waited for, and an activity starts this long after the
# begin of its launch, at least.
RETURNS_NS, STARTS_NS = 5000, 2000
# The end that a synchronization without a record waited for lies at most this long before its return.
RETURN_NS = 30_000
# A launch waits for a place in a queue that is this full, and at least this deep.
FULL, DEEP = 0.8, 200


class Sync(IntEnum):
    """CUPTI's kinds of synchronization; RECORD is this module's."""

    RECORD = 0
    EVENT = 1
    STREAM_WAIT = 2
    STREAM = 3
    CONTEXT = 4


# By the name of the call: nsys 2025.3 gives cudaStreamSynchronize the kind of cudaStreamWaitEvent.
CALLS = (
    (re.compile("EventRecord"), Sync.RECORD),
    (re.compile("EventSynchronize"), Sync.EVENT),
    (re.compile("StreamWaitEvent"), Sync.STREAM_WAIT),
    (re.compile("StreamSynchronize"), Sync.STREAM),
    (WHOLE_DEVICE, Sync.CONTEXT),
)


class Edge(IntEnum):
    """Why an activity could not start before another one ended, beside the order of its stream."""

    EVENT = 0
    NULL_STREAM = 1
    GRAPH = 2
    ENGINE = 3
    INFERRED = 4


@dataclass(frozen=True)
class Edges(Columns):
    """source, target: activities."""

    source: Indices
    target: Indices
    kind: Indices


@dataclass(frozen=True)
class Waits:
    """The end of `call` waits for the activity `source`. contradicted: edges that the times rule out."""

    source: Indices
    call: Indices
    contradicted: int


class Queues:
    """Activities of each stream in launching order, and the one to wait for after each."""

    def __init__(self, activities: Activities) -> None:
        # What has no call was launched before the trace began.
        launched = np.where(activities.call >= 0, activities.call_start, 0)
        self.first = np.flatnonzero(np.diff(activities.stream, prepend=-1))
        self.stream = activities.stream[self.first]
        self.last_of = latest(activities)
        self.span = int(max(launched.max(), activities.end.max())) + 2
        self._key = activities.stream * self.span + running_end(activities.stream, launched)
        self._streams = activities.stream

    def before(self, stream: Times, time: Times) -> Indices:
        """The activity that ends last of those launched into the stream before that time; -1 for none."""
        place = np.searchsorted(self._key, stream * self.span + time) - 1
        real = (place >= 0) & (self._streams[place] == stream)
        return np.where(real, self.last_of[place], -1)

    def after(self, stream: Times, time: Times) -> Indices:
        """The first activity that is launched into the stream from that time on; -1 for none."""
        place = np.searchsorted(self._key, stream * self.span + time)
        inside = np.minimum(place, len(self._key) - 1)
        return np.where((place < len(self._key)) & (self._streams[inside] == stream), inside, -1)


def running_last(activities: Activities) -> Indices:
    """For each activity: which of its stream, up to it, ends last."""
    reach = running_end(activities.stream, activities.end)
    return np.maximum.accumulate(np.where(activities.end >= reach, np.arange(len(activities)), 0))


def latest(activities: Activities) -> Indices:
    """running_last; of a graph's launch the last node of all streams."""
    last = running_last(activities)
    several = _launched_together(activities)
    if len(several):
        call = activities.call[several]
        order = np.lexsort((activities.end[several], call))
        closes = np.append(np.diff(call[order]) != 0, True)
        final = several[order][closes][np.searchsorted(call[order][closes], call)]
        last[several] = np.where(activities.end[final] > activities.end[last[several]], final, last[several])
    return last


def _launched_together(activities: Activities) -> Indices:
    """Activities whose call launched others too: the nodes of a graph."""
    known = np.flatnonzero(activities.call >= 0)
    if not len(known):
        return known
    return known[np.bincount(activities.call[known])[activities.call[known]] > 1]


def align_clocks(program: Program) -> tuple[Program, int]:
    """The program with the times of each GPU moved to those of the host, and by how many ns at most.

    The clock of a GPU drifts against that of the host; then activities seem to end after the synchronization that
    waited for them. They are moved to where all returns are possible, as far as all launches remain so.
    """
    calls, activities = program.calls, program.activities
    known = [*_marked(program, Queues(activities))[1], _blocking_copies(program)]
    waited, call = (np.concatenate(part) for part in zip(*known, strict=True))
    shift = np.zeros(len(activities), np.int64)
    latest = np.full(len(calls), -(2**62))
    for device in np.unique(activities.device).tolist():
        mine = np.flatnonzero(activities.device == device)
        launched = mine[activities.call[mine] >= 0]
        chosen = activities.device[waited] == device
        if not len(launched) or not chosen.any():
            continue
        latest[:] = -(2**62)
        np.maximum.at(latest, call[chosen], activities.end[waited[chosen]])
        early = (latest - calls.end)[latest > -(2**62)]
        room = int((activities.start[launched] - activities.call_start[launched]).min()) - STARTS_NS
        needed = int(np.quantile(early, 0.95)) + RETURNS_NS
        shift[mine] = max(0, min(needed, room)) if needed > RETURNS_NS else 0
    if not shift.any():
        return program, 0
    moved = replace(activities, start=activities.start - shift, end=activities.end - shift)
    return replace(program, activities=moved), int(shift.max())


def find_waits(program: Program, queues: Queues) -> tuple[Edges, Waits]:
    """Every wait that the trace states, without those that its times contradict."""
    calls, activities = program.calls, program.activities
    edges, waits = _marked(program, queues)
    edges += [*_null_stream(program, queues), _graph_shape(activities)]
    waits += [_blocking_copies(program), *_unmarked(program, queues)]
    source, target, kind = (np.concatenate([edge[part] for edge in edges]) for part in range(3))
    real = activities.end[source] <= activities.start[target] + CLOCK_NS
    waited, call = (np.concatenate([wait[part] for wait in waits]) for part in range(2))
    true = activities.end[waited] <= calls.end[call] + CLOCK_NS
    return (
        Edges(source[real], target[real], kind[real]),
        Waits(waited[true], call[true], int((~real).sum() + (~true).sum())),
    )


Found = tuple[Indices, Indices, Indices]
Awaited = tuple[Indices, Indices]


def _marked(program: Program, queues: Queues) -> tuple[list[Found], list[Awaited]]:
    """Event records, waits of streams for events, and synchronizations: the state of every event at each call."""
    marks, calls = program.marks, program.calls
    order = np.argsort(calls.start[marks.call], kind="stable")
    call, stream, event = (column[order] for column in (marks.call, marks.stream, marks.event))
    kind = marks.kind[order]
    for pattern, meaning in CALLS:
        kind[calls_named(program, pattern)[call]] = meaning
    context, time = marks.context[order], calls.start[call]
    last, following = queues.before(stream, time).tolist(), queues.after(stream, time).tolist()
    process = calls.process[call]
    of_stream = program.activities.stream
    recorded: dict[int, list[int]] = {}
    # Of a stream: which activity is the next, and what it waits for.
    pending: dict[int, tuple[int, list[int]]] = {}
    source: list[int] = []
    target: list[int] = []
    waited: list[int] = []
    caller: list[int] = []

    def open_waits(place: int, number: int) -> list[int]:
        next_one, found = pending.get(number, (-1, []))
        return found if next_one == following[place] else []

    def latest_of_each(found: list[int]) -> list[int]:
        """Of several activities of a stream the last says it all; without this, lists of events would grow without
        end."""
        return list({int(of_stream[one]): one for one in sorted(found)}.values()) if len(found) > 1 else found

    def tail(place: int, number: int) -> list[int]:
        end = [last[place]] if last[place] >= 0 else []
        return latest_of_each([*end, *open_waits(place, number)])

    for place, (one, number, what) in enumerate(zip(kind.tolist(), stream.tolist(), event.tolist(), strict=True)):
        if one == Sync.RECORD:
            recorded[what] = tail(place, number)
        elif one == Sync.STREAM_WAIT:
            found = recorded.get(what, [])
            target += [following[place]] * len(found)
            source += found
            pending[number] = following[place], latest_of_each([*open_waits(place, number), *found])
        else:
            if one == Sync.EVENT:
                found = recorded.get(what, [])
            elif one == Sync.STREAM:
                found = tail(place, number)
            else:
                found = _all_streams(program, queues, int(process[place]), int(time[place]), int(context[place]))
            waited += found
            caller += [int(call[place])] * len(found)
    sources, targets = np.array(source, np.intp), np.array(target, np.intp)
    real = targets >= 0
    edges = (sources[real], targets[real], np.full(int(real.sum()), Edge.EVENT, np.intp))
    return [edges], [(np.array(waited, np.intp), np.array(caller, np.intp))]


def _all_streams(program: Program, queues: Queues, process: int, time: int, context: int | None) -> list[int]:
    mine = program.stream_process[queues.stream] == process
    if context is not None:
        mine &= program.stream_context[queues.stream] == context
    streams = queues.stream[mine]
    found = queues.before(streams, np.full(len(streams), time))
    return [one for one in found.tolist() if one >= 0]


def _unmarked(program: Program, queues: Queues) -> list[Awaited]:
    """Synchronizations without a record: of a device all its streams; else the end nearest before the return."""
    calls, activities = program.calls, program.activities
    is_sync = calls_named(program, SYNC)
    is_sync[program.marks.call[program.marks.kind != Sync.RECORD]] = False
    whole = np.flatnonzero(is_sync & calls_named(program, WHOLE_DEVICE))
    found = [
        (call, one)
        for call in whole.tolist()
        for one in _all_streams(program, queues, int(calls.process[call]), int(calls.start[call]), None)
    ]
    is_sync[whole] = False
    rest = np.flatnonzero(is_sync)
    by_end = np.argsort(activities.end, kind="stable")
    ends = activities.end[by_end]
    nearest = np.searchsorted(ends, calls.end[rest] + 500, side="right") - 1
    near = np.maximum(calls.start[rest] + 1000, calls.end[rest] - RETURN_NS)
    real = (nearest >= 0) & (ends[nearest] > near)
    return [
        (np.array([one for _, one in found], np.intp), np.array([call for call, _ in found], np.intp)),
        (by_end[nearest[real]], rest[real]),
    ]


def calls_named(program: Program, pattern: re.Pattern[str]) -> Flags:
    """Of each call, whether its name has the pattern."""
    names = np.array([bool(pattern.search(name)) for name in program.call_names], bool)
    return names[program.calls.name]


def _blocking_copies(program: Program) -> Awaited:
    """Copies that return when they are done: by the call's name, or of pageable memory."""
    calls, activities = program.calls, program.activities
    known = np.flatnonzero(activities.call >= 0)
    call = activities.call[known]
    copies = activities.of(Work.H2D, Work.D2H, Work.OTHER_COPY)[known]
    waits = calls_named(program, BLOCKING_COPY)[call] & copies
    pageable, end = activities.pageable[known], activities.end[known]
    waits |= pageable & ((activities.kind[known] == Work.D2H) | (end <= calls.end[call] + 1000))
    return known[waits], call[waits]


def _null_stream(program: Program, queues: Queues) -> list[Found]:
    """The default stream waits for all blocking streams of its context, and they wait for it."""
    activities = program.activities
    found = []
    highs = np.append(queues.first[1:], len(activities)).tolist()
    bounds = dict(zip(queues.stream.tolist(), zip(queues.first.tolist(), highs, strict=True), strict=True))
    launched = np.where(activities.call >= 0, activities.call_start, activities.start)
    for null in program.null_streams & bounds.keys():
        for other in program.blocking_streams & bounds.keys():
            if (
                program.stream_context[null] != program.stream_context[other]
                or program.stream_process[null] != program.stream_process[other]
            ):
                continue
            for stream, awaited in ((null, other), (other, null)):
                low, high = bounds[stream]
                before = queues.before(np.full(high - low, awaited), launched[low:high])
                fresh = np.flatnonzero((np.diff(before, prepend=-1) != 0) & (before >= 0))
                found.append((before[fresh], low + fresh, np.full(len(fresh), Edge.NULL_STREAM, np.intp)))
    return found


def _graph_shape(activities: Activities) -> Found:
    """Of the nodes of one graph launch: each after the node that ended last before it started, as measured."""
    several = _launched_together(activities)
    call, start, end = activities.call[several], activities.start[several], activities.end[several]
    by_end = np.lexsort((end, call))
    group = np.unique(call, return_inverse=True)[1] if len(call) else call
    span = int(end.max()) + 2_000 if len(end) else 1
    key = group[by_end] * span + end[by_end]
    place = np.searchsorted(key, group * span + start + 1000, side="right") - 1
    real = (place >= 0) & (group[by_end][place] == group) & (by_end[place] != np.arange(len(several)))
    real[real] &= start[by_end[place[real]]] < start[real]
    source, target = several[by_end[place[real]]], several[real]
    return source, target, np.full(len(source), Edge.GRAPH, np.intp)


def full_queue(calls: Calls, activities: Activities, queues: Queues, waits: Waits, floor: Times) -> Awaited:
    """Launches that waited for a place in the queue of their stream: for the activity that just left it."""
    known = np.flatnonzero(activities.call >= 0)
    call = activities.call[known]
    key = activities.stream * queues.span + activities.start
    begun = np.searchsorted(key, activities.stream[known] * queues.span + calls.end[call])
    depth = known - np.minimum(known, begun)
    most = int(depth.max()) if len(depth) else 0
    if most < DEEP:
        return known[:0], call[:0]
    heavy = (depth > FULL * most) & (depth >= 1) & (calls.end[call] - calls.start[call] > 2 * floor[call])
    heavy &= ~np.isin(call, waits.call)
    left = known - depth - 1
    first = queues.first[np.searchsorted(queues.stream, activities.stream[known])]
    heavy &= left >= first
    heavy[heavy] &= activities.end[left[heavy]] <= calls.end[call[heavy]]
    return left[heavy], call[heavy]
