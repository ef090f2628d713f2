"""Where a GPU's time goes, and bounds of what slower copies or a slower CPU cost, from lengths alone."""

from dataclasses import dataclass

import numpy as np

from bench.records.whatif import LinkUse
from bench.trace.intervals import Intervals, gaps, join, overlap, union
from bench.whatif.program import Activities, Flags, Indices, Program, Work
from bench.whatif.replay import Stretches


@dataclass(frozen=True)
class Breakdown:
    """ns of the window, and what each kind of work takes of it. hidden: of host copies, beside kernels."""

    window: int
    compute: int
    idle: int
    late_launch: int
    collectives: int
    busiest_direction: int
    copy_time: int
    hidden: int
    h2d: LinkUse
    d2h: LinkUse


def breakdown(cut: Stretches, chosen: Indices) -> Breakdown:
    program = cut.graph.program
    activities = program.activities
    begin, end = int(activities.start[chosen].min()), int(activities.end[chosen].max())
    kind = activities.kind[chosen]
    computing = _busy(activities, chosen[np.isin(kind, (Work.KERNEL, Work.GRAPH))])
    up, down = (chosen[kind == one] for one in (Work.H2D, Work.D2H))
    busy_up, busy_down = _busy(activities, up), _busy(activities, down)
    link = join(busy_up, busy_down)
    everything = _busy(activities, chosen)
    idle = gaps(everything, begin, end)
    window = end - begin
    return Breakdown(
        window=window,
        compute=computing.length,
        idle=idle.length,
        late_launch=_late(cut, chosen, idle),
        collectives=_busy(activities, chosen[_collective(program, chosen)]).length,
        busiest_direction=max(busy_up.length, busy_down.length),
        copy_time=int((activities.end - activities.start)[np.concatenate((up, down))].sum()),
        hidden=overlap(link, computing),
        h2d=_link(activities, up, busy_up, computing, window),
        d2h=_link(activities, down, busy_down, computing, window),
    )


def _busy(activities: Activities, chosen: Indices) -> Intervals:
    return union(activities.start[chosen], activities.end[chosen])


def _link(activities: Activities, chosen: Indices, busy: Intervals, computing: Intervals, window: int) -> LinkUse:
    size = activities.bytes[chosen]
    powers, counts = np.unique(np.floor(np.log2(np.maximum(size, 1))).astype(np.int64), return_counts=True)
    return LinkUse(
        bytes=int(size.sum()),
        copies=len(chosen),
        pageable=int(activities.pageable[chosen].sum()),
        gb_s=int(size.sum()) / busy.length if busy.length else None,
        busy_share=busy.length / window,
        exposed_share=(busy.length - overlap(busy, computing)) / window,
        sizes={2**power: count for power, count in zip(powers.tolist(), counts.tolist(), strict=True)},
    )


def _collective(program: Program, chosen: Indices) -> Flags:
    keys = [key for key, name in program.names.items() if "nccl" in name.lower()]
    kernels = program.activities.kind[chosen] == Work.KERNEL
    collective: Flags = np.isin(program.activities.name[chosen], keys) & kernels
    return collective


def _late(cut: Stretches, chosen: Indices, idle: Intervals) -> int:
    """Idle until an activity that nothing but its launch held up."""
    activities = cut.graph.program.activities
    order = chosen[np.argsort(activities.start[chosen], kind="stable")]
    place = np.searchsorted(activities.start[order], idle.end)
    inside = place < len(order)
    ends = order[np.minimum(place, len(order) - 1)]
    length = idle.end - idle.start
    late = inside & cut.by_launch_alone[ends] & (cut.residual[ends] < length / 2)
    return int(length[late].sum())


def copies_cost_at_least(factor: float, window: float, busiest_direction: float) -> float:
    """The copies of one direction need their engine for so long."""
    return max(0.0, 1 - window / (factor * busiest_direction)) if busiest_direction else 0.0


def cost_at_most(factor: float, window: float, scaled: float) -> float:
    """No path of the graph has more of what is scaled than all of it."""
    more = (factor - 1) * scaled
    return more / (window + more) if more else 0.0


def path_costs(factor: float, share: float) -> float:
    """The path that sets the time now still exists when its share of scaled work is slower."""
    return 1 - 1 / (1 + (factor - 1) * share)
