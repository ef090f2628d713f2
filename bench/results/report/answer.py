"""The answer in words: for each GPU where to run, and what another node costs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from bench.results.effects import listed
from bench.results.report.alone import nothing_compared
from bench.results.report.labels import device_label, node_label
from bench.results.report.over_settings import LONGEST_LIST, crowded_line, is_crowded
from bench.results.series import series_label
from bench.results.words import at_most, percent, share_with_interval

Record = dict[str, Any]
LARGE = 0.05
"""Without an interval only losses of this size are named one by one."""
_SOURCES = {
    "reported": "Nearest as the system reports it.",
    "measured": "Nearest by measurement; the system does not report it.",
    "reference": "The system does not report which node is nearest; losses are counted from this one.",
}


@dataclass(frozen=True)
class Loss:
    """What one model loses elsewhere, as a share (negative is a gain); interval is None with one pair."""

    label: str
    place: str
    node: int
    split: bool
    share: float
    interval: tuple[float, float] | None
    verdict: str
    sure: bool
    cell: str
    text: str
    hint: str

    @property
    def figure(self) -> str:
        """The share with the half width of its interval, without its sign."""
        return share_with_interval(self.share, self.interval)


@dataclass(frozen=True)
class Answer:
    """One GPU. node: where to run, None if nothing could be said; lines: one statement each."""

    device: str
    gpu: int
    name: str
    node: int | None
    source: str
    lead: str
    lines: tuple[str, ...]
    losses: tuple[Loss, ...]

    @property
    def sentence(self) -> str:
        return " ".join([self.lead, *self.lines])


def answers(results: Record) -> list[Answer]:
    """One answer a GPU, in order of their index."""
    cells = {cell["name"]: cell for cell in results["cells"]}
    by_gpu: dict[int, Record] = {}
    for cell in results["cells"]:
        by_gpu.setdefault(cell["gpu"], cell)
    return [_answer(results, cells, gpu, device_label(cell)) for gpu, cell in sorted(by_gpu.items())]


def _answer(results: Record, cells: dict[str, Record], gpu: int, device: str) -> Answer:
    name = results["device_names"].get(str(gpu), "")
    compared = [entry for entry in results["penalties"] if entry["gpu"] == gpu]
    losses = tuple(_loss(entry, cells) for entry in compared if entry["penalty"] is not None)
    if not losses:
        return Answer(device, gpu, name, None, "", *nothing_compared(results, gpu), ())
    local, source = compared[0]["local_node"], compared[0]["local_source"]
    lines = [
        crowded_line(place, group) if is_crowded(group) else _place_line(place, group)
        for place, group in _by_place(losses).items()
    ]
    lines += _parts_line([entry for entry in compared if entry.get("effects")], cells)
    if any(loss.interval is None for loss in losses):
        lines.append("1 run: no uncertainty known.")
    best = best_node(local, losses)
    if best != local:
        lead = f"Run on node {best}. It is faster than node {local}, the nearest by what is {source}."
    elif source == "reference":
        lead = f"Compared with node {local}:"
    else:
        lead = f"Run on node {best}."
    shown = None if source == "reference" and best == local else best
    return Answer(device, gpu, name, shown, _SOURCES.get(source, source), lead, tuple(lines), losses)


def cards(found: list[Answer]) -> list[Answer]:
    """One a GPU; where nothing is to be chosen, GPUs of which the same is said share one."""
    groups: dict[tuple, list[Answer]] = {}
    for one in found:
        alike = one.losses or one.node is not None
        groups.setdefault((one.lead, one.lines, one.gpu if alike else None), []).append(one)
    return [own[0] if len(own) == 1 else replace(own[0], device=_devices(own)) for own in groups.values()]


def _devices(same: list[Answer]) -> str:
    if any(one.device != f"GPU {one.gpu}" for one in same):
        return "CPU"  # whose labels are no devices
    return f"GPUs {', '.join(str(one.gpu) for one in same)}"


def best_node(local: int, losses: Iterable[Loss]) -> int:
    """The local node, unless another one is surely faster for some model and slower for none.

    Surely: after correction, since this is what the page says first. With CPUs on one node and memory on another
    there is no one node to run on.
    """
    whole = [loss for loss in losses if not loss.split]
    faster = dict.fromkeys(loss.node for loss in whole if loss.verdict == "FASTER" and loss.sure)
    slower = {loss.node for loss in whole if loss.verdict == "SLOWER"}
    return next((node for node in faster if node not in slower), local)


def _by_place(losses: Iterable[Loss]) -> dict[str, list[Loss]]:
    """Whole nodes first, then what has its CPUs on one node and its memory on another."""
    groups: dict[str, list[Loss]] = {}
    for loss in sorted(losses, key=lambda loss: loss.split):
        groups.setdefault(loss.place, []).append(loss)
    return groups


def _place_line(place: str, losses: list[Loss]) -> str:
    """ "On node 2 a loses 30 % ± 1 %; b and c lose nothing above 2 %." """
    differ = [loss for loss in losses if loss.verdict in ("SLOWER", "FASTER")]
    differ.sort(key=lambda loss: -loss.share)
    said = [f"{loss.label} {_verb(loss)} {loss.figure}" for loss in differ]
    same = [loss for loss in losses if loss.verdict == "SAME" and loss.interval]
    if same:
        above = at_most(max(max(loss.interval[1], 0.0) for loss in same if loss.interval))
        said.append(f"{_labels(same)} {'loses' if len(same) == 1 else 'lose'} nothing above {above}")
    said += _without_interval([loss for loss in losses if loss.interval is None])
    rest = [loss for loss in losses if loss.interval and loss.verdict in ("UNDECIDED", "NOT RESOLVABLE")]
    if rest:
        said.append(f"{_labels(rest)} {'is' if len(rest) == 1 else 'are'} too noisy to tell")
    return f"On {place} " + "; ".join(said) + "."


def _parts_line(designs: list[Record], cells: dict[str, Record]) -> list[str]:
    """Whether the costs of CPUs and of memory elsewhere add up, where each was moved alone and both together."""
    found: dict[str, list[str]] = {}
    for entry in designs:
        found.setdefault(_adding_up(entry["effects"]["interaction"]), []).append(_label(entry, cells))
    said = [
        f"{phrase} for {listed(labels) if len(designs) <= LONGEST_LIST else f'{len(labels)} of {len(designs)} cells'}"
        for phrase, labels in sorted(found.items())
    ]
    return [f"The costs of CPUs and of memory elsewhere {'; '.join(said)}."] if said else []


def _adding_up(interaction: Record) -> str:
    """Its penalty is what moving both costs beyond what moving each alone costs."""
    if interaction["verdict"] == "SAME":
        return "add up"
    if not interaction["headline"]:
        return "cannot be told to add up"
    return f"together make {'more' if interaction['penalty'] > 0 else 'less'} than their sum"


def _without_interval(losses: list[Loss]) -> list[str]:
    """With one pair each: the largest by name, the rest as a range."""
    ranked = sorted(losses, key=lambda loss: -abs(loss.share))
    named = [loss for loss in ranked if abs(loss.share) >= LARGE][:3] or ranked[:1]
    rest = ranked[len(named) :]
    said = [f"{loss.label} {_verb(loss)} {loss.figure}" for loss in named]
    if len(rest) == 1:
        said.append(f"{rest[0].label} {_verb(rest[0])} {rest[0].figure}")
    elif rest:
        said.append(f"the other {len(rest)} models differ by up to {percent(abs(rest[0].share))}")
    return said


def _labels(losses: list[Loss]) -> str:
    return listed([loss.label for loss in losses])


def _verb(loss: Loss) -> str:
    word = "loses" if loss.share >= 0 else "gains"
    return word if loss.sure or loss.interval is None else f"probably {word}"


def _loss(entry: Record, cells: dict[str, Record]) -> Loss:
    interval = entry.get("interval")
    cpu_node = entry.get("remote_cpu_node", entry["remote_node"])
    return Loss(
        label=_label(entry, cells),
        place=node_label(cpu_node, entry["remote_node"]),
        node=entry["remote_node"],
        split=cpu_node != entry["remote_node"],
        share=entry["penalty"],
        interval=tuple(interval) if interval else None,
        verdict=entry.get("verdict") or "",
        sure=bool(entry.get("headline", True)),
        cell=entry["remote_cell"],
        text=entry.get("text") or "",
        hint=entry.get("hint") or "",
    )


def _label(entry: Record, cells: dict[str, Record]) -> str:
    remote = cells.get(entry["remote_cell"])
    return series_label(remote) if remote else entry["model"]
