"""Several GPUs at once: the throughput that each keeps, and the transfer rate of all together."""

from collections.abc import Sequence

from bench.records.results import Contention, Results, Verdict, negated
from bench.report.text.verdicts import DECIDED
from bench.report.view import settings_label
from bench.units import farthest_end, percent, share_with_interval

# (model and settings, load, placement of the others)
Group = tuple[str, str, str]
_PLACEMENTS = {
    "local": "all are on their nearest node",
    "remote": "the others are on another node than their nearest",
    "found": "the others are not bound",
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
    return f"{group[0]}, {_named(group, True, True)}"


def contention_lines(results: Results) -> list[str]:
    """For the first screen: the throughput that remains with most GPUs busy, one line a model.

    Load and placement of the others are named where a study compares several.
    """
    by_model: dict[str, list[tuple[Group, list[Contention]]]] = {}
    for group, entries in groups(results.contention).items():
        by_model.setdefault(group[0], []).append((group, entries))
    lines = []
    for model, own in by_model.items():
        most = max((max(measured_counts(entries), default=0) for _, entries in own), default=0)
        several = [len({group[at] for group, _ in own}) > 1 for at in (1, 2)]
        parts = [
            _remaining(entries, most) + (f" while {named}" if (named := _named(group, *several)) else "")
            for group, entries in own
            if most in measured_counts(entries)
        ]
        lines.append(f"{model}, {most} GPUs busy: {'; '.join(parts)}." if parts else f"{model}: not measured.")
    return lines


def contention_sentence(entries: Sequence[Contention], busy: int) -> str:
    """ "8 GPUs busy: 33 % to 46 % remains." """
    if busy not in measured_counts(entries):
        return f"{busy} GPUs busy: not measured."
    return f"{busy} GPUs busy: {_remaining([entry for entry in entries if entry.busy_gpus == busy], busy)}."


def measured_counts(entries: Sequence[Contention]) -> list[int]:
    """The numbers of GPUs busy together that were measured."""
    return sorted({entry.busy_gpus for entry in entries if entry.busy_gpus > 1 and entry.throughput_samples_s})


def is_alike(entries: Sequence[Contention]) -> bool:
    """Whether all busy GPUs run the same pipeline, so that their samples, and rates in isolation, can be added up."""
    return all(entry.load in (None, "pipeline") for entry in entries)


def _named(group: Group, load: bool, placement: bool) -> str:
    parts = [_LOADS.get(group[1], group[1])] * load + [_PLACEMENTS.get(group[2], group[2])] * placement
    return ", ".join(filter(None, parts))


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
