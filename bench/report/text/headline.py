"""What a first screen says before all else, where the question of a study is not which node: whether everything works,
how large no difference is, and the best settings of each model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.noise_floor import evaluate
from bench.records.results import CellState, Fastest, MeasuredCell, ProcessSpread, SelfComparison, Verdict
from bench.records.run import Outcome
from bench.report.text.cells import outcome_text
from bench.report.text.fastest import by_workload, execution_label
from bench.report.text.verdicts import verdict_word
from bench.report.view import View
from bench.units import (
    DASH,
    change,
    change_range,
    exact_percent,
    farthest_end,
    listed,
    percent,
    plural,
    rate,
    signed_share,
)

QUICK_TEST = "quick_test"
# Beyond these the tables of the page have all.
MOST_ROWS = 12
_MOST_NAMED = 3


@dataclass(frozen=True)
class Row:
    """numbers: as the heads of its table say. verdict: or an outcome, which is shown as `text`. probable: it does not
    hold after correction."""

    label: str
    numbers: tuple[str, ...]
    verdict: str
    probable: bool = False
    note: str = ""
    text: str = ""


@dataclass(frozen=True)
class Headline:
    """title: the answer in one sentence. state: good, warn or plain. heads: of the numbers of the rows; badge: of their
    verdicts. more: rows that are not shown."""

    title: str
    state: str
    lines: tuple[str, ...]
    heads: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    badge: str = "verdict"
    more: int = 0


def headline(view: View) -> Headline | None:
    """None where a node, or a setting, is the subject of the study."""
    results = view.results
    if results.penalties or results.comparisons:
        return None
    return _no_difference(view) or _works(view)


# Does everything work?


def _works(view: View) -> Headline:
    bad = [cell for cell in view.results.cells if cell.outcome not in (Outcome.OK, Outcome.MISSING)]
    title, state, prefix = _whether_measured(view, len(bad))
    if prefix and view.results.study_name == QUICK_TEST:
        title = f"{prefix}: {title[0].lower()}{title[1:]}"
    shown = [*bad, *(cell for cell in view.results.cells if cell not in bad)]
    return Headline(
        title=title,
        state=state,
        lines=(*_failures(bad), *_worked(view)),
        heads=(view.heading,),
        rows=tuple(
            Row(_label(view, cell), (rate(cell.value),), cell.outcome, text=outcome_text(cell))
            for cell in shown[:MOST_ROWS]
        ),
        badge="outcome",
        more=len(shown[MOST_ROWS:]),
    )


def _whether_measured(view: View, bad: int) -> tuple[str, str, str]:
    """(title, state, the answer to whether everything works, empty where that depends)"""
    counts, trust = view.results.counts, view.results.trust
    cells = plural(counts.cells, "cell")
    if bad:
        return f"{bad} of {cells} could not be measured", "warn", "No"
    if counts.outcomes.get(Outcome.MISSING):
        return f"{counts.ok} of {cells} complete so far", "plain", "Not known yet"
    title = f"All {cells} were measured" if counts.cells > 1 else "The cell was measured"
    if view.results.binding != "none" and trust.proved < trust.runs_ok:
        return f"{title}, but not every run has a proved placement", "warn", ""
    return title, "good", "Yes"


def _label(view: View, cell: MeasuredCell) -> str:
    several = len({(one.gpu, one.cpu_node, one.mem_node) for one in view.results.cells}) > 1
    return f"{view.series(cell)}, {view.row(cell)}" if several else view.series(cell)


def _failures(bad: Sequence[MeasuredCell]) -> list[str]:
    """One line for each outcome and reason, with what to do."""
    groups = Counter((outcome_text(cell), cell.reason, cell.advice) for cell in bad)
    lines = []
    for (outcome, reason, advice), number in groups.most_common(_MOST_NAMED):
        text = f"{plural(number, 'cell')} {outcome}" + (f": {reason}" if reason else "")
        lines.append(f"{text}. To do: {advice}." if advice else f"{text}.")
    if len(groups) > _MOST_NAMED:
        lines.append(f"{plural(len(groups) - _MOST_NAMED, 'more reason')} below.")
    return lines


def _worked(view: View) -> list[str]:
    """What was tried, and what this device cannot try."""
    results, trust = view.results, view.results.trust
    lines = [f"{trust.runs_ok} of {plural(results.counts.runs, 'run')} ended well."]
    if results.binding == "none":
        lines.append("No process was bound to a node.")
    elif trust.runs_ok:
        lines.append(f"Where threads and memory were is proved for {trust.proved} of them.")
    read = sum(cell.metrics is not None for cell in results.cells)
    pending = any(cell.state in (CellState.NOT_TRACED, CellState.TRACE_NOT_READ) for cell in results.cells)
    if read:
        lines.append(f"{plural(read, 'trace')} of {plural(len(results.cells), 'cell')} could be read.")
    elif not view.is_command and not pending:
        lines.append("No trace was read.")
    if view.is_cpu and not view.is_command:
        lines.append(
            "No GPU was used: CUDA, copies over a link and their traces remain to be tried on a host with one."
        )
    return [" ".join(lines)]


# How large is no difference?


def _no_difference(view: View) -> Headline | None:
    """None in a study that lists no cell twice."""
    measured = [cell for cell in view.results.cells if cell.value]
    margin = view.results.rules.margin
    check = evaluate(measured, margin)
    if not check.comparisons:
        return None
    known = [one.interval for one in check.comparisons if one.interval]
    false = len(check.false_differences)
    number = plural(len(check.comparisons), "comparison")
    if not known:
        title, state = "Not known from one run a cell: more repeats show it (--repeats)", "plain"
    elif false:
        title, state = (
            f"{false} of {number} of a cell with itself {'shows' if false == 1 else 'show'} a difference",
            "warn",
        )
    else:
        title, state = f"Two cells with the same settings differ by at most {farthest_end(known)} (95 %)", "good"
    same = sum(one.verdict is Verdict.SAME for one in check.comparisons)
    lines = [
        f"{same} of {number} of a cell with itself {'is' if same == 1 else 'are'} SAME within {exact_percent(margin)}. "
        "On this host a smaller difference than the largest of these is no finding."
    ]
    spreads = {(one.model, one.gpu, one.mem_node): one for one in check.spreads}
    rows = [_twins(view, one, spreads) for one in check.comparisons]
    return Headline(
        title,
        state,
        tuple(lines),
        ("difference", "spread of processes"),
        tuple(rows[:MOST_ROWS]),
        more=len(rows[MOST_ROWS:]),
    )


def _twins(view: View, one: SelfComparison, spreads: dict[tuple[str, int, int], ProcessSpread]) -> Row:
    cell = view.cells[one.cells[1]]
    spread = spreads.get((cell.model.name, cell.gpu, cell.mem_node))
    numbers = signed_share(one.penalty, one.interval), percent(spread.spread) if spread else DASH
    label = _label(view, cell) if len(view.gpus) > 1 else view.series(cell)
    return Row(label, numbers, verdict_word(one.verdict), one.is_probable)


# The best settings of each model


def best_settings(view: View) -> Headline | None:
    """A row a model and workload; None where none was measured with several execution settings."""
    models = by_workload(view.results)
    if not models:
        return None
    rows = [_best(label, own) for label, own in models.items()]
    heads = ("best settings", "samples/s", "against the base")
    return Headline(
        "The best settings of each model", "plain", (), heads, tuple(rows[:MOST_ROWS]), more=len(rows[MOST_ROWS:])
    )


def _best(label: str, own: Sequence[Fastest]) -> Row:
    """Over all places: the settings that were the fastest most often, and whether nothing else may be as fast."""
    counted = Counter(execution_label(entry.execution) for entry in own)
    best = counted.most_common(1)[0][0]
    ours = [entry for entry in own if execution_label(entry.execution) == best]
    rivals = dict.fromkeys(execution_label(rival) for entry in ours for rival in entry.rivals)
    rivals |= dict.fromkeys(each for each in counted if each != best)
    rates = [entry.throughput_samples_s for entry in ours]
    values = rate(rates[0]) if len({rate(each) for each in rates}) == 1 else f"{rate(min(rates))} to {rate(max(rates))}"
    gains = [entry.effect for entry in ours if entry.effect is not None]
    gain = DASH
    if len(gains) == 1:
        gain = change(gains[0], ours[0].interval)
    elif gains:
        gain = change_range(min(gains), max(gains))
    once = all(entry.pairs <= 1 for entry in own)
    ahead = sum(not any(rival.is_base for rival in entry.rivals) for entry in ours)
    some = 0 < ahead < len(ours)
    # The test of all candidates does not tell it from the base, but its own interval does.
    likely = not ahead and bool(gains) and all(entry.interval and entry.interval[0] > 0 for entry in ours)
    others = [each for each in rivals if each != "base" or not (some or likely)]
    notes = [f"not distinguishable from {_named(others)}"] if others else []
    if some:
        notes.append(f"ahead of the base on {ahead} of {len(ours)} GPUs and nodes")
    if once:
        notes = ["one pair: uncertainty unknown"]
    verdict = "FASTEST"
    if likely:
        verdict = "FASTER"
    elif once or not ahead:
        verdict = "UNDECIDED"
    elif rivals:
        # Than the base, if it was measured; which of those that are not distinguishable is best stays open.
        verdict = "FASTER" if gains else "UNDECIDED"
    note = "; ".join(filter(None, (*notes, _own_dtype(ours))))
    return Row(label, (best, values, gain), verdict, probable=likely or (some and verdict == "FASTER"), note=note)


def _own_dtype(entries: Sequence[Fastest]) -> str:
    """The best with the study's own dtype, where the best has another one."""
    found = [entry.same_dtype for entry in entries if entry.same_dtype]
    labels = [*dict.fromkeys(execution_label(one.execution) for one in found)]
    return f"with {found[0].execution.dtype}: {_named(labels)}" if found else ""


def _named(labels: Sequence[str]) -> str:
    return listed([*labels]) if len(labels) <= _MOST_NAMED else f"{len(labels)} others"
