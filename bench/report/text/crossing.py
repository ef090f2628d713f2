"""Comparisons inside processes that measured several placements by turns, and what a process's start changes."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from bench.records.results import BirthContrast, Crossings, Interval, Penalty, PenaltyKind, Rules, negated
from bench.report.text.scale import RATE
from bench.report.text.verdicts import effect_text
from bench.report.view import cpus_label
from bench.units import (
    effect_with_interval,
    exact_percent,
    farthest_end,
    listed,
    percent,
    plural,
)

# What only the node of a process's start decides, whatever it is moved to later.
BIRTH = "where the driver's own memory is"
# A larger bound on what the start of a process changes is no information.
LARGEST_BOUND = 1.0
_MOVED = {
    PenaltyKind.NODE: "running and keeping buffers on node {there} instead of {here}",
    PenaltyKind.CPU: "running on node {cpu} instead of {here}, with the buffers on node {there}",
    PenaltyKind.MEMORY: "keeping buffers on node {there} instead of {here}, with the process on node {cpu}",
}


def crossed(entries: Iterable[Penalty]) -> list[Penalty]:
    """Those measured inside the same processes."""
    return [entry for entry in entries if entry.design == "crossing" and entry.penalty is not None]


def _named(node: int, cpu_groups: Mapping[int, str]) -> str:
    return cpus_label(cpu_groups[node]) if cpu_groups else f"node {node}"


def crossed_text(entry: Penalty, cpu_groups: Mapping[int, str] = MappingProxyType({})) -> str:
    """ "running and keeping buffers on node 2 instead of 0, in the same process: 4.1 % slower [3.5, 4.8] %".

    cpu_groups: the CPUs of each group by number, where groups of CPUs were compared in place of nodes.
    """
    if cpu_groups:
        here, there = (_named(one, cpu_groups) for one in (entry.local_node, entry.remote_cpu_node))
        what = f"running on {there} instead of {here}, with memory wherever this host keeps it"
    else:
        what = _MOVED[entry.kind].format(here=entry.local_node, there=entry.remote_node, cpu=entry.remote_cpu_node)
    few = "" if entry.interval else ", from one process, whose spread is unknown"
    return f"{what}, in the same process: {_effect(entry.penalty or 0.0, entry.interval)}{few}"


def birth_text(birth: BirthContrast, rules: Rules, cpu_groups: Mapping[int, str] = MappingProxyType({})) -> str:
    """What else a start on the other node changes, as far as the study knows it."""
    base = cpu_groups.get(birth.base_node, birth.base_node)
    started = f"processes started on {_named(birth.node, cpu_groups)} instead of {base}"
    effect = _effect(-birth.effect, negated(birth.interval))
    if birth.interval is None:
        return f"not measured: {BIRTH} ({started}: {effect}, one process each)"
    low, high = birth.interval
    if max(abs(low), abs(high)) > LARGEST_BOUND:
        return f"not measured: {BIRTH} (too few {started})"
    if birth.effect_holds or max(abs(low), abs(high)) <= rules.margin:
        return f"{started}, wherever they run ({BIRTH}): {effect}"
    return f"not measured: {BIRTH} ({started}: {effect})"


def interaction_text(birth: BirthContrast, rules: Rules, cpu_groups: Mapping[int, str] = MappingProxyType({})) -> str:
    """Whether moving a running process gains what starting it on the other node does."""
    if birth.penalty_change_interval is None:
        return "one process of each start: whether moving a running process helps as much is unknown"
    low, high = birth.penalty_change_interval
    if birth.change_holds:
        more = "more" if birth.penalty_change > 0 else "less"
        return (
            f"moving costs {percent(abs(birth.penalty_change))} of the throughput {more} where the process was started "
            f"on {_named(birth.node, cpu_groups)}: a running process that is moved is not like one that is started "
            "there"
        )
    within = farthest_end([birth.penalty_change_interval])
    if max(abs(low), abs(high)) > rules.margin:
        return f"whether moving a running process does what starting it there does is known to {within} only"
    return f"moving a running process has the same effect wherever it was started, within {within}"


def card_lines(entries: Sequence[Penalty]) -> list[str]:
    """On the card of a GPU: what its comparisons leave out. entries: of the GPU."""
    births = [birth for entry in crossed(entries) for birth in entry.births]
    if not births:
        return []
    known = [birth.interval for birth in births if birth.interval]
    is_bound = len(known) == len(births) and max(abs(end) for ends in known for end in ends) <= LARGEST_BOUND
    bound = f" It changes throughput by at most {farthest_end(known)} (95 %)." if is_bound else ""
    lines = [f"Measured by turns inside the same processes. Not measured: {BIRTH}.{bound}"]
    if any(birth.change_holds for birth in births):
        lines.append("Moving a running process does not always do what starting it there does: see the penalties.")
    return lines


def crossings_text(found: Crossings, cpu_groups: Mapping[int, str] = MappingProxyType({})) -> str:
    """How a study of crossings was measured."""
    least, most = int(found.rounds.least), int(found.rounds.most)
    rounds = str(least) if least == most else f"{least} to {most}"
    kind = "CPUs" if cpu_groups else "node"
    nodes = listed([str(cpu_groups.get(node, node)) for node in found.births])
    births = f", started on {kind} {nodes} by turns" if len(found.births) > 1 else ""
    processes = plural(found.processes, "process", "processes")
    return (
        f"Cells that differ only in {kind}, host memory, copies or execution were measured by turns inside the same "
        f"process: {plural(found.groups, 'group')}, {processes}{births}, {rounds} rounds each. The value of a process "
        "is the midmean of the log ratios of its half rounds; processes, not rounds, are what intervals count. Windows "
        f"and the batches before them took {exact_percent(round(found.share, 2))} of the time of these processes. "
    )


def _effect(penalty: float, interval: Interval | None) -> str:
    return effect_with_interval(penalty, interval, RATE.words) if interval else effect_text(penalty)
