"""Several GPUs at once: the throughput that each keeps, and the transfer rate of all together."""

from collections.abc import Sequence
from statistics import geometric_mean

from bench.records.results import Contention, Results, Verdict, negated
from bench.report.text.verdicts import DECIDED
from bench.report.view import settings_label
from bench.units import DASH, bandwidth, farthest_end, fixed, percent, share_with_interval

# (model and settings, load, placement of the others)
Group = tuple[str, str, str]
_PLACEMENTS = {
    "local": "all on their nearest node",
    "remote": "the others on another node than their nearest",
    "found": "the others not bound",
}
_LOADS = {"pipeline": "the others run the same pipeline", "copies": "the others only copy"}


def groups(entries: Sequence[Contention]) -> dict[Group, list[Contention]]:
    """Entries that belong into one picture; each group also has the GPUs in isolation that it is compared with."""
    found: dict[Group, list[Contention]] = {}
    for entry in entries:
        if entry.busy_gpus > 1:
            label = " ".join(filter(None, (entry.model, settings_label(entry.settings))))
            found.setdefault((label, entry.load or "", entry.placement or ""), []).append(entry)
    isolated = {entry.cell: entry for entry in entries if entry.busy_gpus == 1}
    for own in found.values():
        bases = dict.fromkeys(entry.isolated.base_cell for entry in own if entry.isolated)
        own += [isolated[cell] for cell in bases if cell in isolated]
        own.sort(key=lambda entry: (entry.gpu, entry.mem_node, entry.busy_gpus))
    return found


def group_title(group: Group) -> str:
    return f"{group[0]}, {_load_and_placement(group)}"


def contention_lines(results: Results) -> list[str]:
    """For the first screen: the throughput that remains with most GPUs busy, one line a model over the loads.

    With one node the placement of the others is left out.
    """
    many_nodes = len(results.topology.nodes) > 1
    by_model: dict[str, list[tuple[Group, list[Contention]]]] = {}
    for group, entries in groups(results.contention).items():
        by_model.setdefault(group[0], []).append((group, entries))
    lines = []
    for model, own in by_model.items():
        most = max((max(measured_counts(entries), default=0) for _, entries in own), default=0)
        parts = [
            f"{_remaining(entries, most)} while {_load_and_placement(group) if many_nodes else _load(group)}"
            f"{_of_link(entries, most)}"
            for group, entries in own
            if most in measured_counts(entries)
        ]
        lines.append(f"{model}, {most} GPUs busy: {'; '.join(parts)}." if parts else f"{model}: not measured.")
    return lines


def contention_sentence(entries: Sequence[Contention], busy: int) -> str:
    """ "8 GPUs busy: 33 % to 46 % remains; 17.9 to 25.3 GB/s in each direction for each (in isolation 54.1), together
    172 GB/s in." """
    if busy not in measured_counts(entries):
        return f"{busy} GPUs busy: not measured."
    own = [entry for entry in entries if entry.busy_gpus == busy]
    names = {entry.cell: entry for entry in entries}
    bases = [names[entry.isolated.base_cell] for entry in own if entry.isolated and entry.isolated.base_cell in names]
    together = [value for entry in own if (value := entry.total.h2d_gb_s.value)]
    # Where the others only copy, the rate of the measured one is not that of each.
    each = "for each" if is_alike(own) else "for the measured one"
    text = f"{busy} GPUs busy: {_remaining(own, busy)}; {_both_directions(own)} {each}"
    if bases:
        text += f" (in isolation {_both_directions(bases)})"
    text += f", together {bandwidth(geometric_mean(together))} GB/s in" if together else ""
    slowest = [found.value for entry in own if (found := entry.total.straggler) and found.value]
    return (
        f"{text}; the slowest takes {fixed(geometric_mean(slowest))} times as long as the median."
        if slowest
        else f"{text}."
    )


def measured_counts(entries: Sequence[Contention]) -> list[int]:
    """The numbers of GPUs busy together that were measured."""
    return sorted({entry.busy_gpus for entry in entries if entry.busy_gpus > 1 and entry.throughput_samples_s})


def is_alike(entries: Sequence[Contention]) -> bool:
    """Whether all busy GPUs run the same pipeline, so that their samples, and rates in isolation, can be added up."""
    return all(entry.load in (None, "pipeline") for entry in entries)


def _load_and_placement(group: Group) -> str:
    return f"{_load(group)}, {_PLACEMENTS.get(group[2], group[2])}"


def _load(group: Group) -> str:
    return _LOADS.get(group[1], group[1])


def _remaining(entries: Sequence[Contention], busy: int) -> str:
    """Of the throughput that each measured GPU has in isolation: "33 % to 46 % remains"."""
    lines = [entry.isolated for entry in entries if entry.busy_gpus == busy and entry.isolated]
    effects = sorted(line.effect for line in lines if line.effect is not None)
    if not effects:
        return "not compared with a GPU in isolation"
    lines = [line for line in lines if line.effect is not None]
    if all(line.verdict is Verdict.SAME for line in lines):
        return f"all remains (SAME within {farthest_end(line.interval for line in lines if line.interval)})"
    text = " to ".join(dict.fromkeys(percent(1 + effect) for effect in (effects[0], effects[-1])))
    if len(lines) == 1:
        text = share_with_interval(1 + effects[0], negated(lines[0].interval))
    undecided = [line for line in lines if line.verdict not in DECIDED]
    doubt = f" ({len(undecided)} of {len(lines)} undecided)" if len(lines) > 1 else " (undecided)"
    return f"{text} remains{doubt if undecided else ''}"


def _of_link(entries: Sequence[Contention], busy: int) -> str:
    """ " (17.9 to 25.3 of 54.1 GB/s in)", where that is more informative than that all remains."""
    own, isolated = ([entry for entry in entries if entry.busy_gpus == number] for number in (busy, 1))
    if not isolated or all(entry.isolated and entry.isolated.verdict is Verdict.SAME for entry in own):
        return ""
    return f" ({_range([one.h2d_gb_s for one in own])} of {_range([one.h2d_gb_s for one in isolated])} GB/s in)"


def _both_directions(entries: Sequence[Contention]) -> str:
    into = _range([entry.h2d_gb_s for entry in entries])
    out = _range([entry.d2h_gb_s for entry in entries])
    return f"{into} GB/s in each direction" if into == out else f"{into} GB/s in and {out} out"


def _range(rates_gb_s: Sequence[float | None]) -> str:
    known = [rate for rate in rates_gb_s if rate]
    if not known:
        return DASH
    return " to ".join(dict.fromkeys((bandwidth(min(known)), bandwidth(max(known)))))
