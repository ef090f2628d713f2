"""The answer for a whole trace: per GPU bounds, the range of the replays, refusals, and what decides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.records.trace import ExportTool
from bench.records.whatif import BOUNDS_FAIL, Decision, GpuWhatIf, Path, Refusal, Slower, SlowerCpu, WhatIf
from bench.whatif.bounds import (
    Breakdown,
    breakdown,
    copies_cost_at_least,
    cost_at_most,
    path_costs,
)
from bench.whatif.graph import Floats, Graph, build
from bench.whatif.path import Walker
from bench.whatif.program import Indices, Program
from bench.whatif.replay import Scenario, Stretches, Way, replay
from bench.whatif.waits import Edge

COPY_FACTORS = (1.1, 1.25, 1.5, 2.0, 3.0)
CPU_FACTORS = (1.1, 1.3)
# The decision rests on copies of twice the length, and on the margin of a study's verdicts.
DECIDING_FACTOR, MARGIN = 2.0, 0.02
# Kernels beside an added copy lose up to this share of its time (H100, injected copies: docs/validity_methods.md).
INTERFERENCE = 0.26
# Of simulated programs, some with work that the trace lacks, ranges held in 98 % below this share and in 54 % above.
MOST_UNEXPLAINED = 0.05
LEAST_MS, LEAST_ACTIVITIES = 20.0, 200
# Calls without an activity while the GPU was traced.
MOST_LOST = 0.01
LEAST_WITH_CALL = 0.5


@dataclass(frozen=True)
class Interval:
    """ns since the first event of the trace; None: from its begin, or to its end."""

    begin: float | None = None
    end: float | None = None


def whatif(program: Program, trace: str, tool: ExportTool, inside: Interval, untraced_ms: float | None) -> WhatIf:
    """Raise ValueError if no GPU has two activities inside."""
    graph = build(program)
    program = graph.program
    chosen = _per_gpu(program, inside)
    if not chosen:
        raise ValueError("no GPU has two activities in this part of the trace")
    cut = Stretches(graph, Way())
    cpu_factor = None if untraced_ms is None else _cpu_factor(cut, list(chosen.values()), untraced_ms)
    spans = _spans(graph, cut, list(chosen.values()), cpu_factor)
    walker = Walker(cut)
    lost = 1 - program.recorded / program.launches if program.launches else 0.0
    gpus = tuple(
        _gpu(cut, walker, device, mine, spans[place], lost, untraced_ms)
        for place, (device, mine) in enumerate(chosen.items())
    )
    deciding = [one for gpu in gpus for one in gpu.copies if one.factor == DECIDING_FACTOR]
    most = max(one.at_most for one in deciding) if len(deciding) == len(gpus) else None
    decision = Decision.CAN_MATTER
    if most is None:
        decision = Decision.UNKNOWN
    elif most < MARGIN:
        decision = Decision.CANNOT_MATTER
    return WhatIf(
        trace=trace,
        tool=tool,
        decision=decision,
        factor=DECIDING_FACTOR,
        most=most,
        activities=len(program.activities),
        calls=len(program.calls),
        launches=program.launches,
        recorded=program.recorded,
        has_event_records=program.has_marks,
        traced_ms=max(gpu.window_ms for gpu in gpus),
        untraced_ms=untraced_ms,
        cpu_factor=cpu_factor,
        aligned_ns=graph.shifted_ns,
        gpus=gpus,
    )


def _per_gpu(program: Program, inside: Interval) -> dict[int, Indices]:
    activities = program.activities
    real = np.ones(len(activities), bool)
    if inside.begin is not None:
        real &= activities.start >= inside.begin
    if inside.end is not None:
        real &= activities.end <= inside.end
    found = {
        device: np.flatnonzero(real & (activities.device == device))
        for device in np.unique(activities.device[real]).tolist()
    }
    return {
        device: mine
        for device, mine in found.items()
        if len(mine) > 1 and activities.start[mine].min() < activities.end[mine].max()
    }


def _cpu_factor(cut: Stretches, chosen: Sequence[Indices], untraced_ms: float) -> float:
    """The factor on all CPU time with which the replay takes the untraced time; 0 if none is small enough."""
    low, high = 0.0, 1.0
    for _ in range(3):
        tried = np.linspace(low, high, 17)
        found = replay(cut, [Scenario(1.0, float(one)) for one in tried])
        window = np.max([found.span(mine) for mine in chosen], axis=0) / 1e6
        fits = np.flatnonzero(window <= untraced_ms)
        if not len(fits):
            return 0.0
        place = int(fits[-1])
        low, high = float(tried[place]), float(tried[min(place + 1, len(tried) - 1)])
    return low


@dataclass(frozen=True)
class _Spans:
    """ns of one GPU's window for copies of 1 and COPY_FACTORS times the length: of each way, and with a CPU that takes
    no time."""

    ways: tuple[Floats, ...]
    cpu_free: Floats


def _spans(graph: Graph, cut: Stretches, chosen: Sequence[Indices], cpu_factor: float | None) -> list[_Spans]:
    def run(way: Stretches, cpu: float) -> list[Floats]:
        found = replay(way, [Scenario(factor, cpu) for factor in (1.0, *COPY_FACTORS)])
        return [found.span(mine) for mine in chosen]

    cpu = 1.0 if cpu_factor is None else cpu_factor
    ways = [run(cut, cpu)]
    if len(graph.hands.target) or (graph.edges.kind == Edge.INFERRED).any():
        ways.append(run(Stretches(graph, Way(inferred=False)), cpu))
    if (graph.edges.kind == Edge.ENGINE).any():
        ways.append(run(Stretches(graph, Way(engines=False)), cpu))
    return [_Spans(*spans) for spans in zip(zip(*ways, strict=True), run(cut, 0.0), strict=True)]


def _gpu(
    cut: Stretches,
    walker: Walker,
    device: int,
    chosen: Indices,
    spans: _Spans,
    lost: float,
    untraced_ms: float | None,
) -> GpuWhatIf:
    parts = breakdown(cut, chosen)
    path = walker.path(chosen).shares()
    refusals = tuple(_refusals(cut, chosen, path["unexplained"], lost))
    bounded = not BOUNDS_FAIL & set(refusals)
    window, free = float(parts.window), float(spans.cpu_free[0])
    untraced = window if untraced_ms is None else min(window, untraced_ms * 1e6)
    shortest = free if untraced_ms is None else untraced
    cpu_time = _cpu_time(cut, chosen)
    on_cpu = path["api_calls"] + path["between_calls"] + path["long_calls"]
    return GpuWhatIf(
        device=device,
        activities=len(chosen),
        window_ms=window / 1e6,
        compute_share=parts.compute / window,
        idle_share=parts.idle / window,
        late_launch_share=parts.late_launch / window,
        collective_share=parts.collectives / window,
        cpu_free_ms=free / 1e6,
        h2d=parts.h2d,
        d2h=parts.d2h,
        path=Path(**path),
        copies=tuple(
            Slower(
                factor=factor,
                at_least=copies_cost_at_least(factor, untraced, parts.busiest_direction),
                at_most=cost_at_most(factor, shortest, parts.copy_time),
                estimate=None if refusals else _estimate(spans, place, parts, factor, shortest, untraced_ms),
            )
            for place, factor in enumerate(COPY_FACTORS, 1)
            if bounded
        ),
        cpu=tuple(
            SlowerCpu(
                factor=factor,
                at_least=path_costs(factor, on_cpu) if not refusals else 0.0,
                at_most=min(1 - 1 / factor, cost_at_most(factor, window, cpu_time)),
            )
            for factor in CPU_FACTORS
            if bounded
        ),
        refusals=refusals,
        short=parts.window < LEAST_MS * 1e6 or len(chosen) < LEAST_ACTIVITIES,
    )


def _estimate(
    spans: _Spans, place: int, parts: Breakdown, factor: float, shortest: float, untraced_ms: float | None
) -> tuple[float, float]:
    """Range of the replays; upwards with a CPU that is never late, and with kernels that slower copies slow.

    With an untraced time the replays say what copies add to it.
    """
    if untraced_ms is None:
        losses = [1 - float(one[0] / one[place]) for one in (*spans.ways, spans.cpu_free)]
    else:
        added = [float(one[place] - one[0]) for one in spans.ways]
        losses = [more / (shortest + more) for more in added]
    low, high = max(0.0, min(losses)), max(0.0, max(losses))
    most = cost_at_most(factor, shortest, parts.copy_time)
    beside = INTERFERENCE * (factor - 1) * parts.hidden / shortest
    return low, max(high, min(1 - 1 / (1 / (1 - high) + beside), most))


def _cpu_time(cut: Stretches, chosen: Indices) -> float:
    """All time of the CPU outside waits in the window, of the threads that launched its activities."""
    program = cut.graph.program
    activities, calls = program.activities, program.calls
    launched = activities.call[chosen]
    if not len(calls) or not (launched >= 0).any():
        return 0.0
    begin, end = activities.start[chosen].min(), activities.end[chosen].max()
    process = np.unique(calls.process[launched[launched >= 0]])
    inside = (calls.start < end) & (calls.end > begin) & np.isin(calls.process, process)
    cost = np.minimum(cut.graph.cost.scaled, np.minimum(calls.end, end) - np.maximum(calls.start, begin))
    return float((cost + cut.gap[0::2])[inside].sum())


def _refusals(cut: Stretches, chosen: Indices, unexplained: float, lost: float) -> list[Refusal]:
    program = cut.graph.program
    found = []
    if lost > MOST_LOST:
        found.append(Refusal.INCOMPLETE)
    if program.managed:
        found.append(Refusal.MANAGED_MEMORY)
    if (program.activities.call[chosen] >= 0).mean() < LEAST_WITH_CALL:
        found.append(Refusal.NO_CALLS)
    elif unexplained > MOST_UNEXPLAINED:
        found.append(Refusal.UNEXPLAINED)
    return found
