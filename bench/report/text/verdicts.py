"""Verdicts and what would make a comparison decidable."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.records.results import (
    DIFFERENT,
    Change,
    Judged,
    Line,
    Measure,
    MeasuredCell,
    Penalty,
    Reason,
    Remedy,
    Rules,
    Verdict,
    negated,
)
from bench.records.study import Design
from bench.report.text.scale import RATE, Scale, scale_of
from bench.units import (
    change,
    duration,
    effect_with_interval,
    exact_percent,
    known_share,
    percent,
    percent_interval,
    planned_text,
    plural,
    upper_end,
)


@dataclass(frozen=True)
class Units:
    """What an interval is made of, and what more of them is called."""

    one: str
    many: str
    repeats: str = "repeats"


RUNS = Units("run", "runs")
STUDIES = Units("study", "studies", "studies a side")
_OF_DESIGN: dict[Design, Units] = {"processes": Units("pair", "pairs"), "crossing": Units("process", "processes")}
# An interval that extends to ten times the value says nothing.
LARGEST_CHANGE = 10.0
MEASURES = {
    Measure.LATENCY_P50: "p50",
    Measure.LATENCY_P99: "p99",
    Measure.SPREAD_IN_RUNS: "spread inside runs",
    Measure.SPREAD_BETWEEN_RUNS: "spread between runs",
}
DECIDED = (Verdict.SAME, *DIFFERENT)


def verdict_word(verdict: Verdict | None) -> str:
    """For a badge: what no number of repeats that is allowed would decide is undecided too."""
    return str(Verdict.UNDECIDED if verdict is Verdict.NOT_RESOLVABLE else verdict or "")


def effect_text(penalty: float, scale: Scale = RATE) -> str:
    """ "2.0 % slower"; an effect of exactly zero has no direction: "no difference"."""
    if penalty == 0:
        return "no difference"
    return f"{percent(abs(scale.share(penalty)))} {scale.words[penalty < 0]}"


def verdict_text(
    entry: Judged,
    penalty: float | None,
    rules: Rules,
    scale: Scale = RATE,
    units: Units | None = None,
    takes_s: float = 0.0,
) -> str:
    """One sentence for tables and reports, effect and interval included. penalty: that entry.interval is of.

    units: where they are not those of a study's design. takes_s: how long what would decide takes, 0 if unknown.
    """
    return _judged(entry, penalty, entry.interval, rules, scale, units or _OF_DESIGN[entry.design], takes_s)


def line_text(line: Line, rules: Rules, cells: Mapping[str, MeasuredCell]) -> str:
    """The same of a comparison along an axis, which stores the change of throughput."""
    if line.effect is None:
        cell = cells[line.failed_cell or line.name]
        return f"not compared: {cell.name} {cell.outcome.replace('_', ' ')}: {cell.reason or 'no timed run'}"
    measured = cells.get(line.name)
    scale = scale_of(measured.metric if measured else None)
    return _judged(line, -line.effect, negated(line.interval), rules, scale, _OF_DESIGN[line.design])


def _judged(
    entry: Judged,
    penalty: float | None,
    interval: tuple[float, float] | None,
    rules: Rules,
    scale: Scale,
    units: Units,
    takes_s: float = 0.0,
) -> str:
    if penalty is None or entry.reason is Reason.NOT_MEASURED:
        return "not measured: no block has both runs"
    if interval is None:
        return f"undecided: {effect_text(penalty, scale)}, from one {units.one}, which has no spread"
    shown = scale.share(interval[0]), scale.share(interval[1])
    effect = effect_with_interval(scale.share(penalty), shown, scale.words)
    if entry.reason is Reason.WITHIN_MARGIN:
        # Here, since it loads numpy, which the end of a call that measures nothing has no time for.
        from bench.analysis.statistics import same_alpha

        beyond = max(map(abs, shown)) > rules.margin
        tested = f" (two tests at {exact_percent(same_alpha(rules.confidence))})" if beyond else ""
        return f"no difference larger than {exact_percent(rules.margin)}{tested}: {effect}{' (95 %)' if beyond else ''}"
    if entry.reason is Reason.DIFFERENT:
        return effect
    at_most = f"at most {upper_end([shown])} {scale.words[0]} (95 %)"
    if shown[1] > LARGEST_CHANGE:
        at_most = f"possibly {scale.words[0]} by any amount"
    if entry.reason is Reason.UNINFORMATIVE:
        return f"{at_most}: {percent_interval(shown)}; with this noise a loss of nearly all could stay undetected"
    repeats = entry.repeats_needed or 0
    more = f"{planned_text(repeats)} {units.repeats}" + (f" ({duration(takes_s)})" if takes_s else "")
    if entry.is_uninformative:
        found = f"{effect_text(penalty, scale)} in {plural(entry.pairs, units.one, units.many)}"
        return f"{at_most}: {found}, whose spread is hardly known; {more} would show more"
    return f"{at_most}: {effect}; about {more} would decide"


def change_text(entry: Change) -> str:
    """ "worse: +5.2 % [3.1, 7.4]"; of spreads worse is less steady."""
    if entry.interval is None or entry.interval[1] > LARGEST_CHANGE:
        return "not known from these runs"
    words = {Verdict.SAME: "same", Verdict.SLOWER: "worse", Verdict.FASTER: "better"}
    word = words.get(entry.verdict, "undecided") if entry.verdict else "undecided"
    if entry.is_probable:
        word = f"probably {word}"
    return f"{word}: {change(entry.change, entry.interval)}"


def disturbed_text(entry: Penalty) -> str:
    """How many runs of each node were disturbed; empty where none was."""
    (local, remote), (locals_, remotes) = entry.disturbed_runs, entry.timed_runs
    if not local and not remote:
        return ""
    return f"disturbed: {remote} of {plural(remotes, 'remote run')}, {local} of {plural(locals_, 'local run')}"


def hint_text(entry: Judged, units: Units | None = None) -> str:
    """What would make the comparison decidable; empty where it is decided. units: see verdict_text."""
    repeats = entry.repeats_needed
    if entry.remedy is None:
        return ""
    if units is STUDIES and entry.remedy is not Remedy.SEE_FAILED_RUNS:
        return "further studies of both sides, at other times (--base, --new)"
    if entry.remedy is Remedy.REPEAT and entry.reason is Reason.ONE_PAIR:
        return f"measure at least {repeats} repeats (--repeats)"
    return {
        Remedy.REPEAT: f"--repeats {repeats}, or --target-precision",
        Remedy.SEE_FAILED_RUNS: "see the failed runs",
        Remedy.USE_CUDA_GRAPH: "the noise comes from the CPU that launches the kernels: "
        "use a CUDA graph (cuda_graph: true)",
        Remedy.REDUCE_LAUNCHES: "the noise still comes from launches: "
        "raise batch_size, or keep other work off the host",
        Remedy.REDUCE_CPU_WORK: "the noise comes from the CPU's work for each batch: "
        "raise batch_size, or keep other work off the host",
        Remedy.FIND_DISTURBANCE: "find what disturbs the runs (their monitor records clocks, throttling and other "
        "processes), or measure more repeats (--repeats)",
    }[entry.remedy]


def tile_note(entry: Penalty, scale: Scale = RATE) -> str:
    """For a tile of a map: how much slower than the local node, or that this may be noise."""
    penalty = entry.penalty or 0.0
    if is_shown(entry):
        return f"{known_share(scale.share(penalty), scale.interval(entry.interval))} {scale.words[penalty < 0]}"
    if entry.is_probable:
        return f"probably {scale.words[penalty < 0]}"
    return "same" if entry.verdict is Verdict.SAME else "undecided"


def is_shown(entry: Penalty) -> bool:
    """Whether a map shows the size of a penalty: a difference that holds, and what is known from a single pair."""
    return entry.interval is None or (entry.differs and entry.headline)
