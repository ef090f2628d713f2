"""The graph of a trace: every time follows from earlier ones by the longest of its lags (a max-plus system).

Nodes are the begin and the end of each call, and the end of each activity. A lag is the measured one, at most the
typical one of its kind; what remains is a delay that nothing explains (`residual`), which a replay keeps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.trace.intervals import union
from bench.whatif.program import Activities, Calls, Flags, Indices, Program, Work
from bench.whatif.waits import (
    SYNC,
    Edge,
    Edges,
    Queues,
    Waits,
    align_clocks,
    calls_named,
    find_waits,
    full_queue,
    running_last,
)

Floats = NDArray[np.float64]

# ns. Lags are a low quantile of what is measured where only that edge can decide, since delays beyond it are
# unexplained; with fewer cases than LEAST the default. Each kind: (default, most).
QUANTILE, LEAST = 0.25, 5
STREAM_NS, LAUNCH_NS, EVENT_NS, SYNC_NS = (1000, 3000), (2000, 20_000), (1500, 5000), (5000, 30_000)
# A delay this long wants a reason; the end of another activity this near before it is one.
UNEXPLAINED_NS, NEAR_NS = 2000, 5000
# Where activities of several streams overlap less than this share of their time, one engine serves them.
SHARED_ENGINE = 0.02
# A thread that made no call for this long may have waited for another one, whose call ended at most HANDOVER_NS ago.
PAUSE_NS, HANDOVER_NS = 30_000, 200_000
# A call of this many times the usual length, and this much longer, was held up.
LONG_TIMES, LONG_NS = 4, 15_000
PLAIN_NS = 5000


@dataclass(frozen=True)
class Lags:
    """Typical lags in ns."""

    stream: int
    launch: int
    event: int
    sync: int


@dataclass(frozen=True)
class Cost:
    """Of each call, ns. own: without waiting. scaled: what the CPU's speed changes. excess: the part of it beyond the
    usual length, the median of its name, of a call that was held up."""

    own: Floats
    scaled: Floats
    excess: Floats


@dataclass(frozen=True)
class Hands:
    """Calls that began because a call of another thread ended. target, source: calls."""

    target: Indices
    source: Indices


@dataclass(frozen=True)
class Graph:
    """previous: the activity that stream order puts before each, -1 for none. edges, edge_lag: in order of `target`.

    own_launch: ns from the begin of the outermost call to the launch, on the CPU; launch_excess: the part of it that is
    of calls that were held up. launch_lag, stream_lag: of each
    activity. wait_lag: of each of `waits`. exclusive: engines that several streams share, so that their order binds.
    """

    program: Program
    cost: Cost
    previous: Indices
    stream_lag: Floats
    own_launch: Floats
    launch_excess: Floats
    launch_lag: Floats
    edges: Edges
    edge_lag: Floats
    waits: Waits
    wait_lag: Floats
    hands: Hands
    shifted_ns: int


def build(program: Program) -> Graph:
    program, shifted = align_clocks(program)
    calls, activities = program.calls, program.activities
    queues = Queues(activities)
    edges, waits = find_waits(program, queues)
    duration = (calls.end - calls.start).astype(np.float64)
    usual, floor = _by_name(calls, duration)
    held, held_call = full_queue(calls, activities, queues, waits, floor.astype(np.int64))
    waits = Waits(np.concatenate((waits.source, held)), np.concatenate((waits.call, held_call)), waits.contradicted)
    is_sync = calls_named(program, SYNC)
    cost = _cost(activities, duration, usual, floor, waits, is_sync)
    previous = _previous(activities)
    known = activities.call >= 0
    own = np.zeros(len(activities))
    call = activities.call[known]
    inner = np.minimum(activities.call_ns[known], np.minimum(cost.own, usual)[call])
    own[known] = inner + (activities.call_start[known] - calls.start[call])
    seen = np.full(len(activities), -np.inf)
    seen[known] = calls.start[call] + own[known]
    ended = np.where(previous >= 0, activities.end[previous], -np.inf)
    engine = _engine_edges(activities, previous)
    freed = _latest(len(activities), activities, edges)
    lags = _typical(program, waits, is_sync, seen, ended, freed, known)
    found = _inferred(activities, previous, lags, seen, ended, freed, engine)
    edges = _join(edges, engine, found, previous)
    lag_of_kind = np.array([lags.event, lags.event, lags.stream, lags.event, lags.event])
    start = activities.start.astype(np.float64)
    excess = np.zeros(len(activities))
    excess[known] = cost.excess[call]
    excess = np.where(known, np.clip(start - seen - lags.launch, 0.0, excess), 0.0)
    return Graph(
        program=program,
        cost=cost,
        previous=previous,
        stream_lag=np.where(previous >= 0, np.minimum(lags.stream, start - ended), 0.0),
        own_launch=own + excess,
        launch_excess=excess,
        launch_lag=np.where(known, np.minimum(lags.launch, start - seen - excess), 0.0),
        edges=edges,
        edge_lag=np.minimum(
            lag_of_kind[edges.kind], activities.start[edges.target] - activities.end[edges.source]
        ).astype(np.float64),
        waits=waits,
        wait_lag=np.minimum(
            np.where(is_sync[waits.call], lags.sync, lags.event),
            calls.end[waits.call] - activities.end[waits.source],
        ).astype(np.float64),
        hands=_handovers(calls),
        shifted_ns=shifted,
    )


def _by_name(calls: Calls, duration: Floats) -> tuple[Floats, Floats]:
    """(median, 10 % quantile) of the length of the calls of the same name, for each call."""
    order = np.argsort(calls.name, kind="stable")
    names, first = np.unique(calls.name[order], return_index=True)
    usual, floor = np.zeros(len(names)), np.zeros(len(names))
    for number, values in enumerate(np.split(duration[order], first[1:])):
        if len(values):
            floor[number], usual[number] = np.round(np.quantile(values, (0.1, 0.5)))
    place = np.searchsorted(names, calls.name)
    return usual[place], floor[place]


def _cost(activities: Activities, duration: Floats, usual: Floats, floor: Floats, waits: Waits, is_sync: Flags) -> Cost:
    """A wait is never scaled: of a call that waits only what such a call, or a launch, costs without waiting."""
    waiting = np.zeros(len(duration), bool)
    waiting[waits.call] = True
    launching = np.zeros(len(duration), bool)
    launching[activities.call[activities.call >= 0]] = True
    free = duration[launching & ~waiting]
    plain = float(np.round(np.median(free))) if len(free) >= LEAST else PLAIN_NS
    own = np.where(waiting, np.minimum(np.minimum(duration, floor), plain), duration)
    held_up = ~waiting & (duration > np.maximum(LONG_TIMES * usual, usual + LONG_NS))
    # What a synchronization without an awaited activity waited for is not in the trace.
    blind = is_sync & ~waiting
    scaled = np.where(blind, np.minimum(own, plain), own)
    return Cost(own, scaled, np.where(held_up & ~blind, own - np.minimum(own, usual), 0.0))


def _previous(activities: Activities) -> Indices:
    last = running_last(activities)
    same = activities.stream[1:] == activities.stream[:-1]
    return np.concatenate(([-1], np.where(same, last[:-1], -1)))


def _latest(count: int, activities: Activities, edges: Edges) -> Floats:
    """When the last of the activities ended that edges put before each."""
    latest = np.full(count, -np.inf)
    np.maximum.at(latest, edges.target, activities.end[edges.source])
    return latest


def _engine_edges(activities: Activities, previous: Indices) -> Edges:
    """Copies of one direction, or kernels, of several streams of a GPU that hardly overlap: one after the other."""
    sources, targets = [], []
    for device in np.unique(activities.device).tolist():
        for kind in (Work.H2D, Work.D2H, Work.KERNEL):
            chosen = np.flatnonzero((activities.device == device) & (activities.kind == kind))
            start, end = activities.start[chosen], activities.end[chosen]
            total = int((end - start).sum())
            if len(np.unique(activities.stream[chosen])) < 2 or not total:
                continue
            if 1 - union(start, end).length / total < SHARED_ENGINE:
                order = chosen[np.argsort(start, kind="stable")]
                sources.append(order[:-1])
                targets.append(order[1:])
    if not sources:
        return _edges(np.zeros(0, np.intp), np.zeros(0, np.intp), Edge.ENGINE)
    source, target = np.concatenate(sources), np.concatenate(targets)
    real = source != previous[target]
    return _edges(source[real], target[real], Edge.ENGINE)


def _edges(source: Indices, target: Indices, kind: Edge) -> Edges:
    return Edges(source, target, np.full(len(source), kind, np.intp))


def _typical(
    program: Program,
    waits: Waits,
    is_sync: Flags,
    seen: Floats,
    ended: Floats,
    freed: Floats,
    known: Flags,
) -> Lags:
    """seen, ended, freed: of each activity, when its launch was made, its predecessor in the stream and those of its
    edges ended; -inf if unknown."""
    start = program.activities.start
    streamed = known & (seen < ended - 20_000) & (freed < ended)
    launched = known & (ended < seen - 20_000) & (freed < seen - 20_000)
    by_event = known & (seen < freed - 5000) & (ended < freed - 5000)
    waited = is_sync[waits.call]
    latest = np.full(len(program.calls), -1)
    np.maximum.at(latest, waits.call[waited], program.activities.end[waits.source[waited]])
    blocked = np.flatnonzero(latest > program.calls.start + 2000)
    return Lags(
        stream=_low((start - ended)[streamed], STREAM_NS),
        launch=_low((start - seen)[launched], LAUNCH_NS),
        event=_low((start - freed)[by_event], EVENT_NS),
        sync=_low((program.calls.end - latest)[blocked].astype(np.float64), SYNC_NS),
    )


def _low(values: Floats, limits: tuple[int, int]) -> int:
    default, most = limits
    return min(max(0, round(float(np.quantile(values, QUANTILE)))) if len(values) >= LEAST else default, most)


def _inferred(
    activities: Activities, previous: Indices, lags: Lags, seen: Floats, ended: Floats, freed: Floats, engine: Edges
) -> Edges:
    """Activities that started late for no known reason, just after another one of their GPU ended: after that one."""
    expected = np.maximum(np.maximum(ended + lags.stream, seen + lags.launch), freed + lags.event)
    np.maximum.at(expected, engine.target, activities.end[engine.source] + lags.event)
    late = np.isfinite(expected) & (activities.start - expected > UNEXPLAINED_NS)
    sources, targets = [], []
    for device in np.unique(activities.device[late]).tolist():
        mine = np.flatnonzero(activities.device == device)
        by_end = mine[np.argsort(activities.end[mine], kind="stable")]
        ends = activities.end[by_end]
        target = mine[late[mine]]
        place = np.searchsorted(ends, activities.start[target] + 200, side="right") - 1
        place = np.where((place > 0) & (by_end[place] == target), place - 1, place)
        real = (place >= 0) & (ends[place] >= activities.start[target] - NEAR_NS)
        real &= (by_end[place] != previous[target]) & (by_end[place] != target)
        sources.append(by_end[place[real]])
        targets.append(target[real])
    empty = [np.zeros(0, np.intp)]
    return _edges(np.concatenate([*empty, *sources]), np.concatenate([*empty, *targets]), Edge.INFERRED)


def _join(stated: Edges, engine: Edges, inferred: Edges, previous: Indices) -> Edges:
    """All edges in the order of their targets, without those that say what stream order says."""
    every = Edges.joined((stated, engine, inferred))
    chosen = every.at(np.flatnonzero(every.source != previous[every.target]))
    return chosen.at(np.lexsort((chosen.kind, chosen.target)))


def _handovers(calls: Calls) -> Hands:
    """A thread's first call, and one after a pause: after the call of another thread of the process that ended last."""
    fresh = np.diff(calls.thread, prepend=-1) != 0
    gap = np.zeros(len(calls), np.int64)
    gap[1:] = calls.start[1:] - calls.end[:-1]
    paused = np.flatnonzero(fresh | (gap >= PAUSE_NS))
    sources, targets = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
    for process in np.unique(calls.process[paused]).tolist():
        mine = np.flatnonzero(calls.process == process)
        if len(np.unique(calls.thread[mine])) < 2:
            continue
        by_end = mine[np.argsort(calls.end[mine], kind="stable")]
        threads = calls.thread[by_end]
        # The last one before each place that another thread than that of the place made.
        changes = np.concatenate(([False], threads[1:] != threads[:-1]))
        other = np.maximum.accumulate(np.where(changes, np.arange(len(by_end)) - 1, -1))
        target = paused[calls.process[paused] == process]
        place = np.searchsorted(calls.end[by_end], calls.start[target], side="right") - 1
        own = (place >= 0) & (threads[place] == calls.thread[target])
        place = np.where(own, other[place], place)
        source = by_end[place]
        first = fresh[target]
        after = np.where(first, -1, calls.end[np.maximum(target - 1, 0)])
        ago = calls.start[target] - calls.end[source]
        real = (place >= 0) & (calls.end[source] > after)
        real &= first | (ago < np.minimum(gap[target] / 2, HANDOVER_NS))
        sources.append(source[real])
        targets.append(target[real])
    source, target = np.concatenate(sources), np.concatenate(targets)
    order = np.argsort(target)
    return Hands(target[order], source[order])
