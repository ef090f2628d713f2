"""The answer: for each GPU where to run, and what another node costs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bench.analysis.recommend import best_node, is_known
from bench.records.results import DIFFERENT, Change, Contrast, Effect, LocalSource, Measure, Penalty, Verdict
from bench.report.text.crossing import card_lines
from bench.report.text.deciding import MOST_REPEATS, deciding_command, takes_s
from bench.report.text.host import probed_text
from bench.report.text.scale import RATE, Scale, scale_of
from bench.report.view import View, cpus_label
from bench.units import duration, listed, percent, planned_text, share_with_interval, upper_end

# Without an interval only losses of this size are named one by one.
LARGE = 0.05
# Up to this many losses are named one by one.
LONGEST_LIST = 8
CPUS_ONLY = "CPUs only: this host reports one node, and where its memory is relative to them is not known."
ONE_NODE = "One NUMA node: no choice of node."
_SOURCES = {
    LocalSource.REPORTED: "Nearest as the system reports it.",
    LocalSource.MEASURED: "Nearest by measurement; the system does not report it.",
    LocalSource.RUNS: "Fastest in every second repeat; losses are of the others. The system does not report a node.",
    LocalSource.REFERENCE: "The system does not report which node is nearest; losses are relative to this one.",
}
_KNOWN_AS = {
    LocalSource.REPORTED: "the nearest as reported",
    LocalSource.MEASURED: "the nearest as measured",
    LocalSource.RUNS: "the fastest in every second repeat",
    LocalSource.REFERENCE: "the reference",
}


@dataclass(frozen=True)
class Loss:
    """What one model loses at another placement, as a share (negative is a gain); interval is None with one pair.

    settings: that are not the study's own, as in a label. significant: the difference holds after correction.
    repeats: that would decide. scale: the words for it; share and interval are in its terms.
    """

    model: str
    settings: str
    label: str
    place: str
    split: bool
    share: float
    interval: tuple[float, float] | None
    verdict: Verdict | None
    significant: bool
    cell: str
    repeats: int | None = None
    scale: Scale = RATE

    @property
    def figure(self) -> str:
        """The share with the half width of its interval, without its sign: "30 % ± 1 %", "43 % ± 2 % more time"."""
        return share_with_interval(self.share, self.interval) + self.scale.after[self.share < 0]

    @property
    def differs(self) -> bool:
        return self.verdict in DIFFERENT

    @property
    def is_undecided(self) -> bool:
        return self.interval is not None and not self.differs and not self.is_same

    @property
    def is_same(self) -> bool:
        return self.verdict is Verdict.SAME and self.interval is not None


@dataclass(frozen=True)
class Answer:
    """One GPU. node: where to run, None if that cannot be answered; lead, then lines: one statement each.

    source: how the nearest node is known. cpus: where groups of CPUs are compared, those to run on. command: the line
    that would decide what is open, which `open` introduces; both empty without one.
    """

    device: str
    gpu: int
    name: str
    node: int | None
    source: str
    lead: str
    lines: tuple[str, ...]
    losses: tuple[Loss, ...] = ()
    command: str = ""
    open: str = ""
    cpus: str = ""

    @property
    def place(self) -> str:
        """Where to run: "node 2", "CPUs 0-7", or an empty text."""
        return cpus_label(self.cpus) if self.cpus else "" if self.node is None else f"node {self.node}"

    @property
    def sentence(self) -> str:
        where = f"Run on {self.place}." if self.place else ""
        return " ".join(filter(None, (where, self.lead, *self.lines)))


def answers(view: View) -> list[Answer]:
    """One answer a GPU, in order of their index."""
    first = {cell.gpu: cell for cell in reversed(view.results.cells)}
    return [_answer(view, gpu, view.device(first[gpu])) for gpu in view.gpus]


def cards(found: Iterable[Answer]) -> list[Answer]:
    """One a GPU; where there is no choice of node, GPUs with the same text share one."""
    groups: dict[tuple[object, ...], list[Answer]] = {}
    for one in found:
        own = one.gpu if one.losses or one.node is not None else None
        groups.setdefault((one.lead, one.lines, own), []).append(one)
    return [own[0] if len(own) == 1 else replace(own[0], device=_devices(own)) for own in groups.values()]


def _answer(view: View, gpu: int, device: str) -> Answer:
    name = view.results.device_names.get(str(gpu), "")
    compared = [entry for entry in view.results.penalties if entry.gpu == gpu]
    losses = tuple(_loss(view, entry, entry.penalty) for entry in compared if entry.penalty is not None)
    if not losses:
        return Answer(device, gpu, name, None, "", *_nothing_compared(view, gpu))
    local, source = compared[0].local_node, compared[0].local_source
    lines = [
        (crowded_line if _is_crowded(group) else _place_line)(place, group)
        for place, group in _by_place(losses).items()
    ]
    lines += _parts_line(view, [entry for entry in compared if entry.effects])
    lines += card_lines(compared)
    if any(loss.interval is None for loss in losses):
        lines.append("1 run: uncertainty unknown.")
    if not _is_crowded(losses):
        lines += _latency_lines(view, [entry for entry in compared if entry.remote_cpu_node == entry.remote_node])
    undecided = [loss for loss in losses if loss.is_undecided and loss.repeats and loss.repeats <= MOST_REPEATS]
    most = max((loss.repeats or 0 for loss in undecided), default=0)
    models = [*dict.fromkeys(loss.model for loss in undecided)]
    command = deciding_command(view.results, gpu, models, most)
    groups = view.results.cpu_groups
    best = best_node(local, compared, groups)
    node: int | None = best
    lead = ""
    if best != local:
        lead = f"It is faster than node {local}, {_KNOWN_AS[source]}."
        if groups:
            lead = f"They are faster than {view.label((local, local))}."
    elif not is_known(best, compared, groups):
        lead, node = f"Compared with {view.label((local, local))}:", None
    about_open = _open(models, most, takes_s(view.results, gpu, models, most)) if command else ""
    cpus = groups.get(best, "") if node is not None else ""
    # The lead has it where another node is faster.
    about = "" if groups or best != local else _SOURCES[source]
    lines += [CPUS_ONLY] if groups else []
    return Answer(device, gpu, name, node, about, lead, tuple(lines), losses, command, about_open, cpus)


def _open(models: Sequence[str], repeats: int, time_s: float) -> str:
    """ "140 repeats (24 min) would decide vit32x2x128:" """
    time = f" ({duration(time_s)})" if time_s else ""
    return f"{planned_text(repeats)} repeats{time} would decide {listed(models)}:"


def _loss(view: View, entry: Penalty, share: float) -> Loss:
    remote = view.cells[entry.remote_cell]
    scale = scale_of(remote.metric)
    return Loss(
        model=remote.model.name,
        settings=view.settings(remote),
        label=view.series(remote),
        place=view.label((entry.remote_cpu_node, entry.remote_node)),
        split=entry.remote_cpu_node != entry.remote_node,
        share=scale.share(share),
        interval=scale.interval(entry.interval),
        verdict=entry.verdict,
        significant=entry.headline,
        cell=entry.remote_cell,
        repeats=entry.repeats_needed,
        scale=scale,
    )


def _devices(same: Sequence[Answer]) -> str:
    if any(one.device != f"GPU {one.gpu}" for one in same):
        return "CPU"  # its numbers are only labels
    return f"GPUs {', '.join(str(one.gpu) for one in same)}"


def _by_place(losses: Iterable[Loss]) -> dict[str, list[Loss]]:
    """Whole nodes first, then placements with CPUs on one node and memory on another."""
    return _grouped(sorted(losses, key=lambda loss: loss.split), lambda loss: loss.place)


def _grouped(losses: Iterable[Loss], key: Callable[[Loss], str]) -> dict[str, list[Loss]]:
    groups: dict[str, list[Loss]] = {}
    for loss in losses:
        groups.setdefault(key(loss), []).append(loss)
    return groups


# A place where few models or settings were compared


def _place_line(place: str, losses: Sequence[Loss]) -> str:
    """ "On node 2 a loses 30 % ± 1 %; b and c lose nothing above 2 %." """
    differ = sorted((loss for loss in losses if loss.differs), key=lambda loss: -loss.share)
    parts = [f"{loss.label} {_verb(loss)} {loss.figure}" for loss in differ]
    if same := [loss for loss in losses if loss.is_same]:
        parts.append(f"{_labels(same)} {_lose(same)} nothing above {_bound(same)}")
    parts += _without_interval([loss for loss in losses if loss.interval is None])
    if undecided := [loss for loss in losses if loss.is_undecided]:
        verb = "is" if len(undecided) == 1 else "are"
        parts.append(f"{_labels(undecided)} {verb} undecided, {_at_most(undecided)} (95 %)")
    return f"On {place} " + "; ".join(parts) + "."


def _latency_lines(view: View, entries: Iterable[Penalty]) -> list[str]:
    """The largest change of median latency where throughput does not differ, or is undecided; a line a place."""
    largest: dict[str, tuple[Change, str]] = {}
    for entry in entries:
        latency = entry.changes.get(Measure.LATENCY_P50)
        if latency and latency.headline and latency.differs and not entry.differs:
            place = view.label((entry.remote_cpu_node, entry.remote_node))
            if place not in largest or abs(latency.change) > abs(largest[place][0].change):
                largest[place] = latency, view.series(view.cells[entry.remote_cell])
    return [
        f"Median latency on {place}: {label} {share_with_interval(latency.change, latency.interval)} "
        + ("longer." if latency.change > 0 else "shorter.")
        for place, (latency, label) in largest.items()
    ]


def _without_interval(losses: Sequence[Loss]) -> list[str]:
    """With one pair each: the largest by name, the rest as a range."""
    ranked = sorted(losses, key=lambda loss: -abs(loss.share))
    named = [loss for loss in ranked if abs(loss.share) >= LARGE][:3] or ranked[:1]
    rest = ranked[len(named) :]
    if len(rest) == 1:
        named, rest = [*named, *rest], []
    parts = [f"{loss.label} {_verb(loss)} {loss.figure}" for loss in named]
    if rest:
        parts.append(f"the other {len(rest)} models differ by up to {percent(abs(rest[0].share))}")
    return parts


def _labels(losses: Sequence[Loss]) -> str:
    return listed([loss.label for loss in losses])


def _lose(losses: Sequence[Loss]) -> str:
    verb = losses[0].scale.verbs[0]
    return verb if len(losses) == 1 else verb.removesuffix("s")


def _verb(loss: Loss) -> str:
    word = loss.scale.verbs[loss.share < 0]
    return word if loss.significant or loss.interval is None else f"probably {word}"


def _bound(losses: Iterable[Loss]) -> str:
    """No loss is larger than this."""
    losses = [*losses]
    bound = upper_end(loss.interval for loss in losses if loss.interval)
    return bound + losses[0].scale.after[0]


def _at_most(losses: Iterable[Loss]) -> str:
    """What is known of undecided losses: "at most 13 % slower"."""
    losses = [*losses]
    bound = upper_end(loss.interval for loss in losses if loss.interval)
    return f"at most {bound} {losses[0].scale.words[0]}"


# A place where every model was compared under several settings


def _is_crowded(losses: Sequence[Loss]) -> bool:
    several = len({loss.model for loss in losses}) < len(losses)
    return len(losses) > LONGEST_LIST and several and losses[0].scale is RATE


def crowded_line(place: str, losses: Sequence[Loss]) -> str:
    """ "On node 1 vit0x0x0 loses 12 % (bs1) to 30 % (bs8) in 3 of 4 settings and nothing above 1 % in 1; ..."."""
    models = _grouped(losses, lambda loss: loss.model)
    ranked = sorted(models.items(), key=lambda group: -max(loss.share for loss in group[1]))
    parts = [f"{model} {_of_model(own)}" for model, own in ranked if any(loss.differs for loss in own)]
    same = [model for model, own in ranked if all(loss.is_same for loss in own)]
    if same:
        verb = "loses" if len(same) == 1 else "lose"
        bound = _bound(loss for model in same for loss in models[model])
        parts.append(f"{listed(same)} {verb} nothing above {bound} in any setting")
    rest = [model for model, own in ranked if model not in same and not any(loss.differs for loss in own)]
    if rest:
        parts.append(f"{listed(rest)}: {_not_different([loss for model in rest for loss in models[model]])}")
    return f"On {place} " + "; ".join(parts) + "."


def _of_model(losses: Sequence[Loss]) -> str:
    parts = []
    for slower in (True, False):
        own = [loss for loss in losses if loss.differs and (loss.share >= 0) is slower]
        if own:
            probably = "" if any(loss.significant for loss in own) else "probably "
            verb = "loses" if slower else "gains"
            parts.append(f"{probably}{verb} {_range(own)} in {len(own)} of {len(losses)} settings")
    others = [loss for loss in losses if not loss.differs]
    return " and ".join(parts) + (f" ({_not_different(others)})" if others else "")


def _not_different(losses: Sequence[Loss]) -> str:
    same = [loss for loss in losses if loss.is_same]
    parts = [f"nothing above {_bound(same)} in {len(same)}"] if same else []
    if len(losses) > len(same):
        undecided = [loss for loss in losses if loss.is_undecided]
        bound = f": {_at_most(undecided)}" if undecided else ""
        parts.append(f"undecided in {len(losses) - len(same)}{bound}")
    return ", ".join(parts)


def _range(losses: Sequence[Loss]) -> str:
    """Least and most, each with its settings: "4.2 % (bs1) to 30 % (bs32 graph)"."""
    ranked = sorted(losses, key=lambda loss: abs(loss.share))
    least, most = ranked[0], ranked[-1]
    low, high = percent(abs(least.share)), percent(abs(most.share))
    if low == high:
        return low
    low_at, high_at = least.settings or "base", most.settings or "base"
    return f"{low} to {high}" if low_at == high_at else f"{low} ({low_at}) to {high} ({high_at})"


# CPU part and memory part


def _parts_line(view: View, designs: Sequence[Penalty]) -> list[str]:
    """Whether the costs of remote CPUs and remote memory add up, where each was moved alone and both together."""
    groups: dict[str, list[str]] = {}
    for entry in designs:
        if entry.effects:
            phrase = _addition(entry.effects[Contrast.INTERACTION])
            groups.setdefault(phrase, []).append(view.series(view.cells[entry.remote_cell]))
    few = len(designs) <= LONGEST_LIST
    parts = [
        f"{phrase} for {listed(labels) if few else f'{len(labels)} of {len(designs)} cells'}"
        for phrase, labels in sorted(groups.items())
    ]
    return [f"The costs of remote CPUs and of remote memory {'; '.join(parts)}."] if parts else []


def _addition(interaction: Effect) -> str:
    """Its penalty is what moving both costs beyond what moving each alone costs."""
    if interaction.verdict is Verdict.SAME:
        return "add up"
    if not interaction.headline:
        return "cannot be shown to add up"
    return "exceed their sum together" if interaction.penalty > 0 else "stay below their sum together"


# A GPU for which no two nodes could be compared


def _nothing_compared(view: View, gpu: int) -> tuple[str, tuple[str, ...]]:
    """(lead, further lines)"""
    used = sorted({cell.mem_node for cell in view.results.cells if cell.gpu == gpu and cell.value})
    if not used:
        return "Nothing was measured here; see the failures below.", ()
    if len(used) > 1:
        return "No two runs to compare; see the failures below.", ()
    nodes = [node.id for node in view.results.topology.nodes]
    if nodes == used:
        return ONE_NODE, _one_node(view, gpu, nodes[0])
    others = [str(node) for node in nodes if node not in used]
    more = (f"Not measured: node {', '.join(others)}.",) if others else ()
    return f"Measured on node {used[0]} only: there is no other node to compare with.", more


def _one_node(view: View, gpu: int, node: int) -> tuple[str, ...]:
    results = view.results
    lines = [f"This host reports only node {node}. Every run was there, and no penalty can be measured."]
    if view.is_cpu:
        return tuple(lines)
    if results.topology.local_node(gpu) is None:
        lines.append(
            f"No source reports which node is nearest to GPU {gpu}. Node {node} is where it was measured; "
            "this is no recommendation."
        )
    else:
        lines.append(f"It is also the node that the system reports as nearest to GPU {gpu}.")
    if probed := next((entry for entry in results.locality.gpus if entry.index == gpu), None):
        lines.append(f"Small copies from each CPU, before the study: {probed_text(probed)}.")
    if results.fingerprint.hypervisor not in ("", "none"):
        lines.append("This is a virtual machine; the host beneath it may have more nodes than it shows.")
    return tuple(lines)
