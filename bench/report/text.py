"""All English of results and reports, from values."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from bench.legacy.aggregate import MISSING, NOT_READ, NOT_TRACED, is_untraced, told_outcome
from bench.legacy.axes import between, change, listed, plain, series_label
from bench.legacy.fastest import WAYS
from bench.report.axes import LONGEST_LIST, Finding, axis_name, crowded_line, is_crowded
from bench.report.labels import device_label, node_label
from bench.units import at_most, percent, plural, rate, seconds, share_with_interval

# --- notes
# What is said before any number: warnings, the trust line, and in words how the study was done.

Record = dict[str, Any]
CPU_ONLY = "CPU device: no GPU was measured"
UNTRACED = "No run was traced: regimes, and what copies and kernels did, are not known"
SYNTHETIC = "Synthetic example: no machine measured this"
UNBOUND = "Nothing was bound: the nodes are labels only, and a difference between them means nothing"


def notes(results: Record) -> list[str]:
    """What stands on every page before anything else is read."""
    found = []
    if results["fingerprint"].get("synthetic"):
        found.append(SYNTHETIC)
    if results["device"] == "cpu":
        found.append(CPU_ONLY)
    if results["binding"] == "none":
        found.append(UNBOUND)
    if results["counts"].get(MISSING):
        found.append(_not_complete(results["cells"]))
    if results["damaged"]:
        found.append(f"{plural(len(results['damaged']), 'record')} could not be read")
    return found


def _not_complete(cells: list[Record]) -> str:
    words = [told_outcome(cell) for cell in cells if cell["outcome"] == MISSING]
    begun = sum(word.endswith("so far") for word in words)
    counts = {
        "to be measured": words.count(MISSING),
        "with timed runs to come": begun,
        "not traced": words.count(NOT_TRACED),
        "with a trace to be read": words.count(NOT_READ),
    }
    said = " and ".join(f"{number} {what}" for what, number in counts.items() if number)
    return f"Not complete: of {plural(len(cells), 'cell')}, {said}" + (f". {UNTRACED}" if is_untraced(cells) else "")


def host_facts(results: Record) -> list[str]:
    """Host, GPUs, CPU and driver, in one line."""
    facts, names = results["fingerprint"], list(results["device_names"].values())
    if results["device"] == "cpu":
        names = names[:1]  # one CPU, whatever labels its cells have
    gpus = [f"{names.count(name)} × {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)]
    driver = facts.get("driver")
    said = [results["host"].get("name"), *gpus, facts.get("cpu"), driver not in (None, "none") and f"driver {driver}"]
    return [str(fact) for fact in dict.fromkeys(said) if fact]


def trust_items(results: Record) -> list[tuple[str, str, str]]:
    """(figure, label, state) of the trust line; state is good, warn or plain."""
    trust, counts = results["trust"], results["counts"]
    whole = counts["ok"] == counts["cells"]
    # Nothing went wrong with what is only not there yet.
    label = "cells complete" if counts.get(MISSING, 0) + counts["ok"] == counts["cells"] and not whole else "cells ok"
    items = [(f"{counts['ok']} of {counts['cells']}", label, "good" if whole else "warn")]
    if results["binding"] == "none":
        items.append(("no run", "was bound to its node", "warn"))
    else:
        proved = trust["proved"] == trust["runs_ok"] > 0
        figure = f"{trust['proved']} of {trust['runs_ok']}"
        items.append((figure, "runs with their placement proved", "good" if proved else "warn"))
    items += [*_noise(trust), *_watched(trust, results["device"])]
    if trust["disturbed"]:
        items.append((str(len(trust["disturbed"])), "disturbed " + _runs(trust["disturbed"]), "warn"))
    return items


def _noise(trust: Record) -> list[tuple[str, str, str]]:
    labels = {
        "rest": "spread between runs",
        "launch-bound": "spread, launch-bound cells",
        "unknown": "spread between runs" + (", untraced cells" if len(trust["noise"]) > 1 else ""),
    }
    known = {
        key: (percent(trust["noise"][key]), label, "plain") for key, label in labels.items() if key in trust["noise"]
    }
    if trust["noise_floor"] is not None:
        known = {"rest": (percent(trust["noise_floor"]), "noise floor of this host", "plain")} | {
            key: item for key, item in known.items() if key != "rest"
        }
    return list(known.values()) or [("1 run", "a cell: no uncertainty known", "warn")]


def _watched(trust: Record, device: str) -> list[tuple[str, str, str]]:
    """Only timed runs are watched: beside a traced one the profiler is at work all the time."""
    watched, timed, seen = trust["monitored"], trust["timed_ok"], trust["monitored"] - len(trust["unseen"])
    if device != "cuda":
        return []
    if not watched:
        return [("not watched", "clocks and throttling", "plain")]
    if not seen:
        return [("not told", f"whether throttled, {plural(watched, 'timed run')} watched", "warn")]
    held = len(trust["throttled"])
    told = (
        f"throttled of {timed} timed runs watched" if seen == timed else f"throttled; {seen} of {timed} timed runs told"
    )
    return [(str(held), told, "warn" if held or seen < timed else "good")]


def _runs(names: list[str]) -> str:
    return "run" if len(names) == 1 else "runs"


def method(results: Record, runs: dict[str, Record], order: tuple[Record, ...]) -> Record:
    """Versions, seed, order, command lines, fingerprint."""
    versions = next((found for run in runs.values() if (found := (run.get("result") or {}).get("versions"))), {})
    plain = {key: value for key, value in results["study"].items() if not isinstance(value, list | dict)}
    return {
        "text": _text(results),
        "drift": _drift(results),
        "study": {key: value for key, value in plain.items() if key not in ("name", "question")},
        "versions": versions,
        "fingerprint": results["fingerprint"],
        "commands": _commands(runs),
        "order": _order(runs, order),
    }


def _order(runs: dict[str, Record], order: tuple[Record, ...]) -> list[str]:
    """The slots that were used; the grid also has some for runs that nothing asked for."""
    done = {(run["cell"], run["repeat"]) for run in runs.values()}
    slots = [(slot.get("cell"), slot.get("repeat")) for slot in order]
    return [f"{cell} {repeat}" for cell, repeat in slots if (cell, repeat) in done]


def _text(results: Record) -> str:
    study = results["study"]
    repeats = int(study.get("repeats") or 1)
    pairs = (
        "Cells that differ only in node were measured next to each other, in turned order, and are compared pair by "
        "pair. "
        if results["penalties"]
        else ""
    )
    return (
        f"{plural(results['counts']['cells'], 'cell')}, each run {plural(repeats, 'time', 'times')} without a profiler "
        f"and once traced; every run is a process of its own{_forked(study)}. A run's value is the median of at least "
        f"{study.get('windows', 9)} windows of at least {study.get('window_s', 0.1):g} s after a warm-up, a cell's "
        f"the geometric mean of its runs. {pairs}From first to last run {seconds(results['duration_s'])}, "
        f"{seconds(results['busy_s'])} of it in runs."
    )


def _forked(study: Record) -> str:
    if study.get("start") != "fork":
        return ""
    return ", from the second repeat on forked from an interpreter that had imported torch and not touched CUDA"


def _drift(results: Record) -> str:
    found = results["drift"]
    if found is None:
        return ""
    low, high = (100 * bound for bound in found["interval"])
    return (
        f"Drift of the host over the study: {100 * found['change']:+.2f} % [{low:+.2f}, {high:+.2f}] as a straight "
        f"line; between its fastest and its slowest fifth {percent(found['swing'])}. Pairs take it out of penalties."
    )


def _commands(runs: dict[str, Record]) -> list[tuple[str, str, str]]:
    """(kind, run, line) of the first timed and the first traced run that has one."""
    found: dict[str, tuple[str, str, str]] = {}
    for record in sorted(runs.values(), key=lambda record: record.get("position") or 0):
        kind = "Traced run" if record["repeat"] == "traced" else "Timed run"
        if record.get("command"):
            found.setdefault(kind, (kind, record["run"], " ".join(map(str, record["command"]))))
    return list(found.values())


# --- basis
# Beneath the trust line: the runs that are not beyond doubt, by name, and what was found before the study.

Record = dict[str, Any]


@dataclass(frozen=True)
class Doubt:
    """state: warn or error; what, then text; runs it is about, remedy: what to do, may be empty.

    own: what is said of each run, in the order of runs, where that is not the same for all.
    """

    state: str
    what: str
    text: str
    runs: tuple[str, ...] = ()
    remedy: str = ""
    own: tuple[str, ...] = ()

    @property
    def named(self) -> list[tuple[str, str]]:
        return list(zip(self.runs, self.own or [""] * len(self.runs), strict=True))


def doubts(results: Record) -> list[Doubt]:
    return [*_runs_of_basis(results), *_locality(results["locality"]), *_preflight(results)]


def _runs_of_basis(results: Record) -> Iterator[Doubt]:
    trust = results["trust"]
    if results["binding"] != "none":
        yield from _by_reason("placement not proved", trust["doubts"].items())
    yield from _by_reason("disturbed", ((run, "; ".join(said)) for run, said in trust["disturbed_by"].items()))
    calm = [run for run in trust["throttled"] if run not in trust["disturbed_by"]]
    if calm:
        yield Doubt("warn", "clocks held back", "for too short a time to count as a disturbance, or by the power limit",
                    tuple(calm))  # fmt: skip
    for group in trust["strangers"]:
        what = "another fingerprint, yet counted with the others"
        yield Doubt("warn", what, "; ".join(group["differs"]), tuple(group["runs"]))


def _locality(locality: Record) -> Iterator[Doubt]:
    if locality["error"]:
        yield Doubt("warn", "no measured locality", locality["error"])
    if locality["can_hold"] is False:
        yield Doubt("warn", "placement", "cannot be held on this machine: CPUs changed groups between two scans")
    for changed in locality["changes"]:
        yield Doubt("warn", "changed during the study", changed)


def _preflight(results: Record) -> Iterator[Doubt]:
    for check in results["preflight"]:
        if check["state"] != "ok":
            state = "error" if check["state"] == "error" else "warn"
            # The doctor advises to probe; this study did.
            probed = check["name"] == "gpu_node" and results["locality"]["texts"]
            remedy = "" if probed else check.get("remedy") or ""
            yield Doubt(state, check["name"].replace("_", " "), check["fact"], remedy=remedy)


def _by_reason(what: str, reasons: Iterable[tuple[str, str]]) -> Iterator[Doubt]:
    """One for each kind of reason: those that differ in numbers only, as in the process they name, are of one kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for run, reason in sorted(reasons):
        kinds.setdefault(re.sub(r"\d+(?:[.,]\s*\d+)*", "…", reason), []).append((run, reason))
    for kind, found in kinds.items():
        alike = len({reason for _, reason in found}) == 1
        runs, own = (tuple(column) for column in zip(*found, strict=True))
        text = found[0][1] if alike else kind.removesuffix(": …")
        yield Doubt("warn", what, text, runs, own=() if alike else own)


# --- alone
# What is said of a GPU for which no two nodes could be compared.

Record = dict[str, Any]
ONE_NODE = "One NUMA node: nothing to choose."


def nothing_compared(results: Record, gpu: int) -> tuple[str, tuple[str, ...]]:
    """(lead, further lines)."""
    own = [cell for cell in results["cells"] if cell["gpu"] == gpu]
    used = sorted({cell["mem_node"] for cell in own if cell["throughput_samples_s"]})
    if not used:
        return "Nothing was measured here; the failures below say why.", ()
    if len(used) > 1:
        return "No two runs to compare; the failures below say why.", ()
    nodes = [node["id"] for node in results["topology"].get("nodes") or []]
    if nodes == used:
        return ONE_NODE, _one_node(results, gpu, nodes[0])
    others = [str(node) for node in nodes if node not in used]
    more = (f"Not measured: node {', '.join(others)}.",) if others else ()
    return f"Measured on node {used[0]} only: there is no other node to compare with.", more


def _one_node(results: Record, gpu: int, node: int) -> tuple[str, ...]:
    lines = [f"This host reports node {node} alone. Every run was there, and no penalty can be measured."]
    if results["device"] != "cuda":
        return tuple(lines)
    known = next((entry for entry in results["topology"].get("gpus") or [] if entry["index"] == gpu), {})
    if known.get("node") is None:
        measured = f"Node {node} is where it was measured, and no advice."
        lines.append(f"Nothing reports which node is nearest to GPU {gpu}. {measured}")
    else:
        lines.append(f"It is also the node that the system reports as nearest to GPU {gpu}.")
    probed = next((entry for entry in results["locality"].get("gpus", []) if entry["index"] == gpu), None)
    if probed:
        said = probed["text"].removeprefix(f"GPU {gpu}: ").replace(" us", " µs")
        lines.append(f"Small copies from each CPU, before the study: {said}.")
    if results["fingerprint"].get("hypervisor") not in (None, "none"):
        lines.append("This is a virtual machine; the host beneath it may have more nodes than it shows.")
    return tuple(lines)


# --- answer
# The answer in words: for each GPU where to run, and what another node costs.

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


# --- ways
# The fastest way to run each model, in words for the first screen.

Record = dict[str, Any]
_BASE = "base"
_RIVALS_NAMED = 3
# On the first screen; results.json has all.
_MODELS_TOLD = 12


def fastest_ways(results: Record) -> list[Finding]:
    """A line a model and workload; no finding where none was measured in several ways."""
    models: dict[str, list[Record]] = {}
    for entry in results["fastest"]:
        models.setdefault(entry["model"], []).append(entry)
    if not models:
        return []
    lines = [f"{model}: {_line(own[0]) if len(own) == 1 else _over_places(own)}" for model, own in models.items()]
    if len(lines) > _MODELS_TOLD:
        lines[_MODELS_TOLD:] = [f"{len(lines) - _MODELS_TOLD} more in results.json"]
    against = f", and its gain on the base ({_base(results)})" if any(map(_has_base, results["fastest"])) else ""
    lead = f"The fastest way to run each model{against}"
    return [Finding("throughput", "ways", "fastest", lead, tuple(lines))]


def _line(entry: Record) -> str:
    """ "bf16 graph, 15,520 samples/s, × 2.0 [2.0, 2.1], ahead of all 5 others; with fp32 ..."."""
    parts = [entry["way"], f"{rate(entry['samples_s'])} samples/s"]
    if entry["effect"] is not None:
        parts.append(change(entry["effect"], entry["interval"]))
    said = ", ".join([*parts, _certainty(entry)])
    if _BASE in entry["rivals"] and entry["pairs"] > 1:
        said = f"none told apart from the base; the most was seen of {', '.join(parts)}"
    alike = entry["same_dtype"]
    return f"{said}; with {alike['dtype']} {_line(alike | {'same_dtype': None})}" if alike else said


def _certainty(entry: Record) -> str:
    rivals, others = entry["rivals"], entry["ways"] - 1
    if not rivals:
        return f"ahead of {'all ' if others > 1 else ''}{plural(others, 'other')}"
    if entry["pairs"] <= 1:
        return f"the fastest of {entry['ways']} in one pair"
    named = listed(rivals) if len(rivals) <= _RIVALS_NAMED else f"{len(rivals)} of the other {others}"
    return f"not told apart from {named}"


def _over_places(entries: list[Record]) -> str:
    """ "bf16 graph on 7 of 8 GPUs and nodes, × 2.0 to 2.1; base on 1 of 8"."""
    ways: dict[str, list[Record]] = {}
    for entry in entries:
        ways.setdefault(entry["way"], []).append(entry)
    said = []
    for way, own in sorted(ways.items(), key=lambda each: -len(each[1])):
        gains = [entry["effect"] for entry in own if entry["effect"] is not None]
        sure = sum(not entry["rivals"] for entry in own)
        gain = f", {between(min(gains), max(gains))}" if gains else ""
        said.append(f"{way} on {len(own)} of {len(entries)} GPUs and nodes{gain}, told apart from all others on {sure}")
    return "; ".join(said)


def _has_base(entry: Record) -> bool:
    return entry["way"] == _BASE or entry["base_cell"] is not None


def _base(results: Record) -> str:
    varied = [key for key in WAYS if len({repr(cell["settings"].get(key)) for cell in results["cells"]}) > 1]
    return ", ".join(f"{axis_name(key)} {plain(results['study'].get(key))}" for key in varied)
