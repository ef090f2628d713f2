"""The times of a graph with other lengths of copies and of CPU work.

Within a stretch of one stream whose activities one stretch of a thread launched, an activity's end is
G + max(T + M, V): G sums lengths and lags, M is a running maximum of launches, T is the begin of the thread's stretch
and V that of the stream's (Baccelli et al., Synchronization and Linearity, 1992, on max-plus systems). So a replay
computes only the heads of stretches, for all scenarios at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.whatif.graph import Floats, Graph
from bench.whatif.program import Indices, Work
from bench.whatif.waits import Edge


@dataclass(frozen=True)
class Way:
    """Which edges hold: all, all that are not inferred from times, or without engines that streams share."""

    inferred: bool = True
    engines: bool = True


@dataclass(frozen=True)
class Scenario:
    """Factors on the time of host copies, and on all time of the CPU outside waits."""

    copies: float = 1.0
    cpu: float = 1.0


class Stretches:
    """The graph of a way, cut where anything but the order of a stream or a thread decides.

    Node 2i is the begin of call i, node 2i + 1 its end. Residuals are what remains of measured delays.
    """

    def __init__(self, graph: Graph, way: Way) -> None:
        self.graph = graph
        calls, activities = graph.program.calls, graph.program.activities
        self.count, self.nodes = len(activities), 2 * len(calls)
        edges = graph.edges
        kept = np.ones(len(edges.source), bool)
        if not way.inferred:
            kept &= edges.kind != Edge.INFERRED
        if not way.engines:
            kept &= edges.kind != Edge.ENGINE
        self.contradicted = graph.waits.contradicted
        self.source, self.target, self.lag = edges.source[kept], edges.target[kept], graph.edge_lag[kept]
        self._threads(way)
        self._streams()
        self._order()
        self._causes()
        self._residuals()

    def _threads(self, way: Way) -> None:
        """Chains of calls: what a slower CPU scales, what it does not, and where a wait or a hand-over decides."""
        graph, calls, cost = self.graph, self.graph.program.calls, self.graph.cost
        fresh = np.diff(calls.thread, prepend=-1) != 0
        gap = np.zeros(len(calls))
        gap[1:] = calls.start[1:] - calls.end[:-1]
        gap[fresh] = 0
        self.gap, self.api, self.fixed = (np.zeros(self.nodes) for _ in range(3))
        self.gap[0::2] = gap
        self.api[1::2] = cost.scaled
        waiting = np.zeros(len(calls), bool)
        waiting[graph.waits.call] = True
        self.fixed[1::2] = np.where(waiting, 0.0, cost.own - cost.scaled)
        self.hand = np.full(len(calls), -1)
        if way.inferred:
            self.hand[graph.hands.target] = graph.hands.source
        begins = fresh | (self.hand >= 0)
        is_head = np.zeros(self.nodes, bool)
        is_head[0::2], is_head[1::2] = begins, waiting
        self.measured = np.empty(self.nodes)
        self.measured[0::2], self.measured[1::2] = calls.start, calls.end
        self.heads = np.flatnonzero(is_head)
        self.head_of = np.maximum.accumulate(np.where(is_head, np.arange(self.nodes), 0))
        self.rank = np.cumsum(is_head) - 1
        self.fresh = fresh
        excess = np.zeros(self.nodes)
        excess[1::2] = cost.excess
        self.sum_gap, self.sum_api, self.sum_fixed, self.sum_excess = map(
            np.cumsum, (self.gap, self.api, self.fixed, excess)
        )

    def _streams(self) -> None:
        graph, activities = self.graph, self.graph.program.activities
        end = activities.end.astype(np.float64)
        self.begin = np.where(activities.call >= 0, 2 * activities.call, -1)
        known = self.begin >= 0
        self.by_stream = np.where(graph.previous >= 0, end[graph.previous] + graph.stream_lag, -np.inf)
        launch = np.full(self.count, -np.inf)
        launch[known] = self.measured[self.begin[known]] + (graph.own_launch + graph.launch_lag)[known]
        self.by_launch = launch
        self.length = end - activities.start
        # Stretches of one stream that one stretch of a thread launched.
        self.thread_rank = np.full(self.count, -1)
        self.thread_rank[known] = self.rank[self.begin[known]]
        place = np.arange(self.count)
        is_head = np.ones(self.count, bool)
        is_head[1:] = (graph.previous[1:] != place[:-1]) | (self.thread_rank[1:] != self.thread_rank[:-1])
        is_head[self.target] = True
        self.is_head = is_head
        self.first = np.flatnonzero(is_head)
        self.stretch = np.cumsum(is_head) - 1
        self.chain_lag = np.where(is_head, 0.0, graph.stream_lag)

    def _order(self) -> None:
        """Heads in an order in which every cause comes first; edges that contradict it are dropped."""
        calls, activities = self.graph.program.calls, self.graph.program.activities
        start = activities.start[self.first].astype(np.float64)
        call = activities.call[self.first]
        if len(calls):
            start = np.where(call >= 0, np.maximum(start, calls.start[call] + 0.5), start)
        time = np.concatenate((self.measured[self.heads], start))
        kind = np.concatenate((2 * (self.heads % 2), np.ones(len(start), np.intp)))
        self.sequence = np.lexsort((kind, time))
        self.position = np.empty(len(time), np.intp)
        self.position[self.sequence] = np.arange(len(time))

    def _causes(self) -> None:
        """Of each head, in CSR form: source (an activity, or ~node of a thread), lag, and ns that the CPU scales."""
        graph, count = self.graph, len(self.heads)
        calls, waits = graph.program.calls, graph.waits
        parts: list[tuple[Indices, Indices, Floats, Floats]] = []

        def add(head: Indices, source: Indices, lag: Floats, scaled: Floats) -> None:
            activity = source >= 0
            at = np.zeros(len(source), np.intp)
            at[activity] = self.position[count + self.stretch[source[activity]]]
            at[~activity] = self.position[self.rank[~source[~activity]]]
            real = at < self.position[head]
            self.contradicted += int((~real).sum())
            parts.append((head[real], source[real], lag[real], scaled[real]))

        after = self.first[graph.previous[self.first] >= 0]
        add(count + self.stretch[after], graph.previous[after], graph.stream_lag[after], np.zeros(len(after)))
        add(count + self.stretch[self.target], self.source, self.lag, np.zeros(len(self.target)))
        if self.nodes:
            add(self.rank[2 * waits.call + 1], waits.source, graph.wait_lag, np.zeros(len(waits.call)))
            waiting = np.unique(waits.call)
            add(self.rank[2 * waiting + 1], ~(2 * waiting), np.zeros(len(waiting)), self.api[2 * waiting + 1])
            handed = np.flatnonzero(self.hand >= 0)
            source = self.hand[handed]
            ago = (calls.start[handed] - calls.end[source]).astype(np.float64)
            add(self.rank[2 * handed], ~(2 * source + 1), np.zeros(len(handed)), ago)
            own = handed[~self.fresh[handed]]
            add(self.rank[2 * own], ~(2 * own - 1), np.zeros(len(own)), np.zeros(len(own)))
        head, source, self.cause_lag, self.cause_scaled = (
            np.concatenate([part[column] for part in parts]) for column in range(4)
        )
        order = np.argsort(head, kind="stable")
        self.cause_head, self.cause = head[order], source[order]
        self.cause_lag, self.cause_scaled = self.cause_lag[order], self.cause_scaled[order]
        self.cause_first = np.searchsorted(self.cause_head, np.arange(count + len(self.first) + 1))

    def _residuals(self) -> None:
        """What no cause explains of the measured times; zero for a head without a cause, which stays where it was."""
        activities, count = self.graph.program.activities, len(self.heads)
        activity = self.cause >= 0
        value = self.cause_lag + self.cause_scaled
        value[activity] += activities.end[self.cause[activity]]
        if self.nodes:
            value[~activity] += self.measured[~self.cause[~activity]]
        best = np.full(count + len(self.first), -np.inf)
        np.maximum.at(best, self.cause_head, value)
        # The deciding cause of each head: the first of the largest.
        self.decides = np.full(len(best), -1)
        equal = np.flatnonzero(value == best[self.cause_head])[::-1]
        self.decides[self.cause_head[equal]] = equal
        self.by_cause = best[count:]
        start = activities.start.astype(np.float64)
        chain = np.where(self.is_head, -np.inf, self.by_stream)
        chain[self.first] = self.by_cause
        latest = np.maximum(chain, self.by_launch)
        self.rooted = ~np.isfinite(latest)
        self.residual = np.where(self.rooted, 0.0, start - latest)
        self.by_launch_alone = self.by_launch > chain
        self.head_rooted = ~np.isfinite(best[:count])
        self.head_residual = np.where(self.head_rooted, 0.0, self.measured[self.heads] - best[:count])


@dataclass
class Replay:
    """Times in each of `scenarios`, ns. The end of an activity: sums + max(thread + launched, stream)."""

    cut: Stretches
    factors: Floats
    sums: Floats
    launched: Floats
    thread: Floats
    stream: Floats

    def ends(self, chosen: Indices) -> Floats:
        """Of activities: a row each, a column a scenario."""
        stretch = self.cut.stretch[chosen]
        thread = self.thread[self.cut.thread_rank[chosen]]
        ends: Floats = self.sums[chosen] + np.maximum(thread + self.launched[chosen], self.stream[stretch])
        return ends

    def span(self, chosen: Indices) -> Floats:
        """From the start of the first of `chosen` to the last end, in each scenario."""
        program = self.cut.graph.program
        first = chosen[[np.argmin(program.activities.start[chosen])]]
        factor = self.factors if program.activities.of(Work.H2D, Work.D2H)[first[0]] else 1.0
        begin = self.ends(first)[0] - self.cut.length[first] * factor
        last = np.full(len(self.factors), -np.inf)
        for part in np.array_split(chosen, max(1, len(chosen) >> 16)):
            last = np.maximum(last, self.ends(part).max(axis=0))
        span: Floats = last - begin
        return span


def replay(cut: Stretches, scenarios: Sequence[Scenario]) -> Replay:
    graph, activities = cut.graph, cut.graph.program.activities
    copies = np.array([one.copies for one in scenarios])
    cpu = np.array([one.cpu for one in scenarios])
    own = cut.residual[:, None] + np.where(
        activities.of(Work.H2D, Work.D2H)[:, None], cut.length[:, None] * copies, cut.length[:, None]
    )
    sums = np.cumsum(own + cut.chain_lag[:, None], axis=0)
    own -= sums
    at_head = own[cut.first]
    known = cut.begin >= 0
    scaled, fixed = np.zeros(cut.count), np.full(cut.count, -np.inf)
    if cut.nodes:
        node = cut.begin[known]
        scaled[known] = _since_head(cut, cut.sum_gap + cut.sum_api, node) + graph.own_launch[known]
        fixed[known] = _since_head(cut, cut.sum_fixed, node) + graph.launch_lag[known]
    launched = own
    launched += scaled[:, None] * cpu
    launched += fixed[:, None]
    bounds = np.append(cut.first, cut.count)
    for place in np.flatnonzero(np.diff(bounds) > 1).tolist():
        part = launched[bounds[place] : bounds[place + 1]]
        np.maximum.accumulate(part, axis=0, out=part)
    thread, stream = _heads(cut, cpu, sums, launched, at_head)
    return Replay(cut, copies, sums, launched, thread, stream)


def _since_head(cut: Stretches, sums: Floats, node: Indices) -> Floats:
    """Of a running sum over nodes: the part after the head of each node's stretch."""
    return np.asarray(sums[node] - sums[cut.head_of[node]], np.float64)


def _heads(cut: Stretches, cpu: Floats, sums: Floats, launched: Floats, at_head: Floats) -> tuple[Floats, Floats]:
    """The begin of each stretch of a thread, and V of each stretch of a stream."""
    count, start = len(cut.heads), cut.graph.program.activities.start
    activity = cut.cause >= 0
    source = np.where(activity, cut.cause, 0)
    by_stream = sums[source] + cut.cause_lag[:, None]
    by_thread = by_stream + launched[source]
    rank = np.where(activity, cut.thread_rank[source], -1)
    if cut.nodes:
        node = ~cut.cause[~activity]
        rank[~activity] = cut.rank[node]
        scaled = _since_head(cut, cut.sum_gap + cut.sum_api, node) + cut.cause_scaled[~activity]
        fixed = _since_head(cut, cut.sum_fixed, node) + cut.cause_lag[~activity]
        by_thread[~activity] = scaled[:, None] * cpu + fixed[:, None]
    anchors = np.concatenate((cut.measured[cut.heads], start[cut.first]))
    later = np.concatenate((cut.head_residual, np.zeros(len(cut.first))))
    # The last row is the begin of what no traced thread launched.
    thread, stream = np.zeros((count + 1, len(cpu))), np.zeros((len(cut.first), len(cpu)))
    thread_rows, stream_rows = list(thread), list(stream)
    stretch = np.where(activity, cut.stretch[source], -1)
    causes = list(zip(rank.tolist(), stretch.tolist(), by_thread, by_stream, strict=True))
    first, residual, anchor, added = cut.cause_first.tolist(), later.tolist(), anchors.tolist(), list(at_head)
    maximum = np.maximum
    for head in cut.sequence.tolist():
        latest: Any = None
        for thread_of, stretch_of, from_thread, from_stream in causes[first[head] : first[head + 1]]:
            value = thread_rows[thread_of] + from_thread
            if stretch_of >= 0:
                maximum(value, stream_rows[stretch_of] + from_stream, out=value)
            latest = value if latest is None else maximum(latest, value, out=latest)
        if head < count:
            thread_rows[head][:] = anchor[head] if latest is None else latest + residual[head]
        elif latest is not None:
            np.add(latest, added[head - count], out=stream_rows[head - count])
        elif cut.rooted[cut.first[head - count]]:
            stream_rows[head - count][:] = anchor[head] + added[head - count]
        else:
            stream_rows[head - count][:] = -np.inf
    return thread, stream
