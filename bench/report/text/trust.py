"""What the numbers of a study rest on: notes, the trust line, doubts, and how the study was made."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.records.host import Check, CheckName, CheckState, Fingerprint
from bench.records.results import CellState, Claims, Drift, NoiseClass, Results, SelfCheck, Trust
from bench.records.run import Disturbance, DisturbanceKind, Doubt, DoubtKind, Outcome
from bench.report.text.crossing import crossings_text
from bench.report.text.host import fingerprint_change_text, locality_change_text
from bench.report.view import View
from bench.study.budget import left_out_text
from bench.units import DASH, duration, exact_percent, exact_seconds, percent, plural, signed_percent

CPU_ONLY = "CPU device: no GPU was measured"
SYNTHETIC = "Synthetic example: no machine measured this"
UNTRACED = "No run was traced: regimes, and what copies and kernels did, are unknown"
CPUS_BOUND = "Only CPUs were bound, since a memory policy was refused; where memory was is proved by its pages"
UNBOUND = "Nothing was bound: the nodes are labels only, and a difference between them means nothing"


def notes(view: View) -> list[str]:
    """What every page has before anything else."""
    results = view.results
    found = [SYNTHETIC] if results.fingerprint.synthetic else []
    if view.is_cpu:
        found.append(CPU_ONLY)
    if results.binding == "none":
        found.append(UNBOUND)
    if results.counts.outcomes.get(Outcome.MISSING):
        found.append(_not_complete(view))
    if results.binding == "cpus":
        found.append(CPUS_BOUND)
    if left_out := left_out_text(results.study):
        found.append(left_out[0].upper() + left_out[1:])
    if results.damaged:
        found.append(f"{plural(len(results.damaged), 'record')} could not be read")
    return found


def check_remedy_text(check: Check) -> str:
    return f"{check.remedy}: `{check.command}`" if check.command else check.remedy


def _not_complete(view: View) -> str:
    states = Counter(cell.state for cell in view.results.cells)
    labels = {
        CellState.NOT_STARTED: "to be measured",
        CellState.STARTED: "with timed runs to come",
        CellState.NOT_TRACED: "not traced",
        CellState.TRACE_NOT_READ: "with a trace to be read",
    }
    counts = " and ".join(f"{states[state]} {label}" for state, label in labels.items() if states[state])
    text = f"Not complete: of {plural(len(view.results.cells), 'cell')}, {counts}"
    return f"{text}. {UNTRACED}" if view.is_untraced else text


def host_facts(results: Results) -> list[str]:
    """Host, GPUs, CPU and driver, in one line."""
    facts, names = results.fingerprint, list(results.device_names.values())
    if results.device == "cpu":
        names = names[:1]  # one CPU, whatever labels its cells have
    gpus = [f"{names.count(name)} × {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)]
    driver = "" if facts.driver in ("", "none") else f"driver {facts.driver}"
    return list(filter(None, dict.fromkeys((results.host, *gpus, facts.cpu, driver))))


# The trust line


@dataclass(frozen=True)
class TrustItem:
    """state: good, warn or plain."""

    figure: str
    label: str
    state: str


def trust_items(results: Results) -> list[TrustItem]:
    trust, counts = results.trust, results.counts
    whole = counts.ok == counts.cells
    # Cells that are only missing did not fail.
    only_missing = counts.outcomes.get(Outcome.MISSING, 0) + counts.ok == counts.cells and not whole
    label = "cells complete" if only_missing else "cells ok"
    items = [TrustItem(f"{counts.ok} of {counts.cells}", label, "good" if whole else "warn")]
    if results.binding == "none":
        items.append(TrustItem("no run", "was bound to its node", "warn"))
    else:
        proved = trust.proved == trust.runs_ok > 0
        figure = f"{trust.proved} of {trust.runs_ok}"
        items.append(TrustItem(figure, "runs with proved placement", "good" if proved else "warn"))
    items += [*_noise(trust), *_throttling(trust, results.device)]
    if trust.disturbed:
        number = len(trust.disturbed)
        items.append(TrustItem(str(number), "disturbed run" if number == 1 else "disturbed runs", "warn"))
    return items


def _noise(trust: Trust) -> list[TrustItem]:
    labels = {
        NoiseClass.DEVICE_BOUND: "spread between runs",
        NoiseClass.LAUNCH_BOUND: "spread, launch-bound cells",
        NoiseClass.UNKNOWN: "spread between runs" + (", untraced cells" if len(trust.noise) > 1 else ""),
    }
    spreads = dict(trust.noise)
    if trust.noise_floor is not None:
        spreads[NoiseClass.DEVICE_BOUND] = trust.noise_floor
        labels[NoiseClass.DEVICE_BOUND] = "noise floor of this host"
    items = [TrustItem(percent(spreads[kind]), label, "plain") for kind, label in labels.items() if kind in spreads]
    return items or [TrustItem("1 run", "a cell: uncertainty unknown", "warn")]


def _throttling(trust: Trust, device: str) -> list[TrustItem]:
    """Only timed runs are monitored: during a traced one the profiler is active all the time."""
    monitored, timed = trust.monitored, trust.timed_ok
    known = monitored - len(trust.throttling_unknown)
    if device != "cuda":
        return []
    if not monitored:
        return [TrustItem("not monitored", "clocks and throttling", "plain")]
    if not known:
        return [TrustItem("unknown", f"throttling, {plural(monitored, 'timed run')} monitored", "warn")]
    throttled = len(trust.throttled)
    label = f"throttled of {timed} timed runs" if known == timed else f"throttled; known for {known} of {timed} runs"
    return [TrustItem(str(throttled), label, "warn" if throttled or known < timed else "good")]


# Doubts


@dataclass(frozen=True)
class Concern:
    """What to know before using the numbers. state: warn or error.

    runs: names; each: the text of each of those, in their order, where they differ. remedy: what to do, may be empty.
    """

    state: str
    title: str
    text: str
    runs: tuple[str, ...] = ()
    remedy: str = ""
    each: tuple[str, ...] = ()

    @property
    def named(self) -> list[tuple[str, str]]:
        return list(zip(self.runs, self.each or [""] * len(self.runs), strict=True))


def concerns(results: Results) -> list[Concern]:
    """The runs whose conditions are in doubt, by name, and what was found before the study."""
    return [*_runs(results), *_locality(results), *_preflight(results)]


def _runs(results: Results) -> Iterator[Concern]:
    trust = results.trust
    if results.binding != "none":
        yield from _by_kind("placement not proved", trust.unproved_reasons.items())
    yield from _by_kind("disturbed", trust.disturbed_by.items())
    if undisturbed := [run for run in trust.throttled if run not in trust.disturbed_by]:
        text = "for too short a time to count as a disturbance, or by the power limit"
        yield Concern("warn", "clocks reduced", text, tuple(undisturbed))
    for group in trust.foreign_fingerprints:
        text = "; ".join(map(fingerprint_change_text, group.changes))
        yield Concern("warn", "another fingerprint, yet counted with the others", text, group.runs)


def _locality(results: Results) -> Iterator[Concern]:
    locality = results.locality
    if locality.error:
        yield Concern("warn", "no measured locality", locality.error)
    if locality.can_hold is False:
        yield Concern("warn", "placement", "cannot be held on this machine: CPUs changed groups between two scans")
    for change in locality.changes:
        yield Concern("warn", "changed during the study", locality_change_text(change))


def _preflight(results: Results) -> Iterator[Concern]:
    for check in results.preflight:
        if check.state is not CheckState.OK:
            state = "error" if check.state is CheckState.ERROR else "warn"
            # The doctor recommends the probe, which this study has run.
            probed = check.name is CheckName.GPU_NODE and results.locality.gpus
            yield Concern(
                state, check.name.replace("_", " "), check.fact, remedy="" if probed else check_remedy_text(check)
            )


_KINDS = {
    DoubtKind.NOT_BOUND: "the process is not bound",
    DoubtKind.THREADS: "threads may run on other nodes",
    DoubtKind.PREPROCESSING_THREAD: "the preprocessing thread may run on another node",
    DoubtKind.ISSUING_CPUS: "batches were issued from CPUs of other nodes",
    DoubtKind.POLICY: "the memory policy names other nodes",
    DoubtKind.PAGES: "pages are on other nodes",
    DoubtKind.BETWEEN_WINDOWS: "threads or pages were elsewhere between windows",
    DoubtKind.PAGES_UNKNOWN: "the node of some pages is unknown",
    DoubtKind.NOT_OBSERVED: "not everything could be observed",
    DisturbanceKind.THROTTLED: "the GPU was throttled",
    DisturbanceKind.OTHER_PROCESSES: "other processes used the GPU",
    DisturbanceKind.LINK_GENERATION: "the link changed its generation",
    DisturbanceKind.CLOCK: "the clock changed",
    DisturbanceKind.OTHER_CPU_LOAD: "other processes used the run's CPUs",
    DisturbanceKind.GPU_NOT_FREE: "the GPU was not free",
}


def _by_kind(title: str, reasons: Iterable[tuple[str, Sequence[Doubt | Disturbance]]]) -> Iterator[Concern]:
    """One for each kind of reasons: runs with the same kinds differ in numbers only."""
    groups: dict[tuple[DoubtKind | DisturbanceKind, ...], list[tuple[str, str]]] = {}
    for run, given in sorted(reasons, key=lambda one: one[0]):
        text = "; ".join(reason.text for reason in given) or "no reason is recorded"
        groups.setdefault(tuple(reason.kind for reason in given), []).append((run, text))
    for kinds, found in groups.items():
        runs = tuple(run for run, _ in found)
        texts = tuple(text for _, text in found)
        concern = Concern("warn", title, texts[0], runs)
        if len(set(texts)) > 1:
            concern = replace(concern, text="; ".join(map(_KINDS.__getitem__, kinds)), each=texts)
        yield concern


# Method


def method_text(results: Results) -> str:
    study = results.study
    crossed = crossings_text(results.crossings, results.cpu_groups) if results.crossings else ""
    pairs = crossed or (
        "Cells that differ only in node were measured next to each other, in an order drawn for each pair, and are "
        "compared pair by pair. "
        if results.penalties
        else ""
    )
    runs = "every run is a separate process"
    if crossed:
        runs = "a run is the part of one cell in such a process"
        if study.start == "fork":
            runs += ", which is forked from an interpreter that had imported torch and not touched CUDA"
    times = plural(study.repeats, "time")
    if study.command:
        how = f"each run {times}; {runs}. The value of a run is its metric"
    else:
        how = (
            f"each run {times} without a profiler and once traced; {runs}. The value of a run is the median of at "
            f"least {study.windows} windows of at least {exact_seconds(study.window_s)} after a warm-up"
        )
    turns = (
        "; by turns windows are shorter, and that of a cell is the median over the processes that started on its own "
        "CPU node"
        if crossed
        else ""
    )
    return (
        f"{plural(results.counts.cells, 'cell')}, {how}, that of a cell the geometric mean of its runs{turns}. {pairs}"
        f"From first to last run {duration(results.duration_s)}, {duration(results.busy_s)} of it in runs. "
        f"{claims_text(results.claims)}"
    ).rstrip()


def claims_text(claims: Claims | None) -> str:
    """How many tests of a difference hold, and at which level; empty where none was made."""
    if claims is None or not claims.tests:
        return ""
    level = exact_percent(round(claims.level, 2))
    tests = plural(claims.tests, "test")
    return (
        f"{claims.hold} of {tests} of a difference {'holds' if claims.hold == 1 else 'hold'} at one level of {level} "
        f"for all of them together (Holm): at most {level} of such studies have a headline that is chance."
    )


def drift_text(drift: Drift | None) -> str:
    if drift is None:
        return ""
    low, high = (signed_percent(end).removesuffix(" %") for end in drift.interval)
    return (
        f"Drift of the host over the study: {signed_percent(drift.change)} [{low}, {high}] as a straight line; between "
        f"its fastest and its slowest fifth {percent(drift.range)}. Pairs remove it from penalties."
    )


def self_check_text(check: SelfCheck) -> str:
    """Lines: the false differences by name, then the spread of each model."""
    number = len(check.false_differences)
    lines = [f"{number} of {len(check.comparisons)} comparisons of a cell with itself show a difference"]
    lines += [f"  {' / '.join(pair)}" for pair in check.false_differences]
    lines += [
        f"{spread.model} on GPU {spread.gpu}, node {spread.mem_node}: {percent(spread.spread)} between "
        f"{spread.runs} processes (upper 80 % bound of normal noise {percent(spread.upper)}, {spread.noise_class})"
        for spread in check.spreads
    ]
    return "\n".join(lines)


def fingerprint_facts(fingerprint: Fingerprint) -> dict[str, str]:
    """Without what was not recorded."""
    values = {key: getattr(fingerprint, key) for key in fingerprint.__struct_fields__}
    return {key.replace("_", " "): value or DASH for key, value in values.items() if value}
