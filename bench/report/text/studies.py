"""The English of comparisons between studies: `numastudy compare`, and a night against the nights before."""

from collections.abc import Sequence

from msgspec.structs import replace

from bench.analysis.verdicts import ENOUGH_REPEATS
from bench.host.fingerprint import describe_change
from bench.records.host import FingerprintChange
from bench.records.nightly import (
    FINDINGS,
    ComparedCell,
    ComparisonWarning,
    ComparisonWarningKind,
    ExcludedNight,
    NightCell,
    NightlyVerdict,
    NightStudy,
)
from bench.records.results import Rules, negated
from bench.records.run import Outcome
from bench.report.text.scale import scale_of
from bench.report.text.verdicts import (
    MEASURES,
    RUNS,
    STUDIES,
    change_text,
    effect_text,
    hint_text,
    verdict_text,
)
from bench.units import exact_percent, percent, plural

MOST_NAMES = 6


# numastudy compare


def with_text(cell: ComparedCell, rules: Rules, comparisons: int = 1, several: bool = False) -> ComparedCell:
    """The comparison of a cell with its text and hint. comparisons: how many were made with it; several: of studies."""
    if cell.effect is None:
        sides = (
            ("BASE", cell.base_samples_s or cell.base_value, cell.base_outcome, cell.base_reason),
            ("NEW", cell.new_samples_s or cell.new_value, cell.new_outcome, cell.new_reason),
        )
        why = "; ".join(
            f"{side} {outcome}: {reason or 'no timed run'}" for side, rate, outcome, reason in sides if rate is None
        )
        return replace(cell, text=f"not compared: {why}")
    # The wording of a verdict is in terms of penalties.
    penalty = replace(cell, interval=negated(cell.interval))
    units = STUDIES if several else RUNS
    text = verdict_text(penalty, -cell.effect, rules, scale_of(cell.metric), units)
    if cell.is_probable and (comparisons > 1 or cell.runs < ENOUGH_REPEATS):
        text += f"; {_why_chance(cell, comparisons)}"
    changes = {measure: replace(one, text=change_text(one)) for measure, one in cell.changes.items()}
    return replace(cell, text=text, hint=hint_text(cell, units), changes=changes)


def _why_chance(cell: ComparedCell, comparisons: int) -> str:
    if cell.runs < ENOUGH_REPEATS:
        return f"of {plural(cell.runs, 'run')} a side this may be chance, {ENOUGH_REPEATS} would show"
    return f"among {plural(comparisons, 'comparison')} this may be chance"


def unit_text(base_studies: int, new_studies: int) -> str:
    """What an interval is of. Cells that shift by 1.5 % between afternoons differed in 43 % of comparisons."""
    if base_studies + new_studies == 2:
        return (
            "Each side is one study, at one time: what the host does otherwise at another time is part of every effect "
            "and of no interval. Before a change is blamed, measure both again at other times: --base, --new."
        )
    sides = f"{plural(base_studies, 'study', 'studies')} of BASE and {new_studies} of NEW"
    return f"The unit is the study: {sides}. What the host does otherwise at another time is in every interval."


def comparison_warning_text(warning: ComparisonWarning) -> str:
    if warning.change:
        return describe_change(warning.change)
    return {
        ComparisonWarningKind.FEW_IN_COMMON: f"only {plural(warning.in_common, 'cell')} in common, "
        f"of {warning.base} in BASE and {warning.new} in NEW: the others have other settings, GPUs or nodes",
        ComparisonWarningKind.NO_FINGERPRINT: "a study has no fingerprint: it is not known whether both ran on one "
        "machine",
        ComparisonWarningKind.SAME_STUDY: "BASE and NEW are the same study: its runs are compared with themselves",
        ComparisonWarningKind.DESIGN_DIFFERS: "one study measured its placements by turns inside the same processes, "
        "the other each in processes of its own: turns of 20 ms and long windows need not agree to the last percent",
        ComparisonWarningKind.ONLY_IN_BASE: f"only in BASE: {warning.cell}",
        ComparisonWarningKind.ONLY_IN_NEW: f"only in NEW: {warning.cell}",
        ComparisonWarningKind.PROGRAM_DIFFERS: f"the program of {warning.cell} is another one in NEW",
    }[warning.kind]


# A night


def cell_text(cell: NightCell, fewest_nights: int, guarded_loss: float) -> str:
    """Why a cell has its verdict. fewest_nights: that a verdict needs; guarded_loss: that must not be missed."""
    if cell.outcome is None:
        return "the night before measured it; tonight's grid does not contain it"
    if cell.outcome is not Outcome.OK or cell.tonight_samples_s is None:
        why = f"{cell.outcome}: {cell.reason}" if cell.reason else cell.outcome.value
        return f"{why}; it was expected to run" if cell.verdict is NightlyVerdict.NOT_MEASURED else why
    if cell.creeping:
        loss = _effect(cell, cell.reference_effect)
        return f"little by little {loss} than in the first nights from {cell.reference_night} on"
    if cell.effect is None:
        return f"nothing to compare with yet: {plural(cell.nights, 'night')} of {fewest_nights}"
    if cell.verdict is NightlyVerdict.PENDING and cell.second_effect is None:
        return f"{_effect(cell, cell.effect)} together with most cells: slower in the next night too, it is a loss"
    if cell.first_effect is not None and cell.second_effect is not None:
        both = f"{_effect(cell, cell.first_effect)}, {_effect(cell, cell.second_effect)}"
        loss = f"{_effect(cell, cell.effect)} over two measurements of this night ({both})"
        if cell.verdict is NightlyVerdict.SLOWER:
            return f"{loss}: confirmed"
        if cell.verdict is NightlyVerdict.PENDING:
            return f"{loss}: slower in the next night too, it is a loss"
        return f"not confirmed: measured twice this night ({both})"
    return _compared(cell) + _not_guarded(cell, guarded_loss)


def _effect(cell: NightCell, effect: float | None) -> str:
    return effect_text(-(effect or 0), scale_of(cell.metric))


def _compared(cell: NightCell) -> str:
    if cell.verdict is NightlyVerdict.SAME:
        return f"no difference larger than {exact_percent(cell.margin or 0)}"
    loss = _effect(cell, cell.effect) + (" than the pinned run" if cell.pinned else "")
    if cell.verdict is NightlyVerdict.UNDECIDED:
        return f"{loss}, within the spread of the nights"
    return f"{loss}, more than the spread of the nights ({percent(cell.nightly_spread or 0)}) explains"


def _not_guarded(cell: NightCell, guarded_loss: float) -> str:
    if cell.guarded:
        return ""
    if not cell.too_noisy:
        return f"; not yet guarded at {exact_percent(guarded_loss)} after {plural(cell.nights, 'night')}"
    spread = percent(cell.nightly_spread)
    return f"; too noisy to guard at {exact_percent(guarded_loss)}: the nights spread by {spread}"


def night_text(cells: Sequence[NightCell], unmeasured: Sequence[str], fewest_nights: int) -> str:
    """The verdict of a night in one sentence. unmeasured: cells and studies without a measurement."""
    slower = [f"{cell.name} {_slower_by(cell)}" for cell in cells if cell.worst is NightlyVerdict.SLOWER]
    failed = [cell.name for cell in cells if cell.verdict is NightlyVerdict.FAILED]
    named = (("slower", slower), ("failed", failed), ("not measured", unmeasured))
    parts = [f"{len(names)} {what}: {_few(names)}" for what, names in named if names]
    if parts:
        return "; ".join(parts)
    compared = sum(cell.effect is not None for cell in cells)
    if not compared:
        return f"nothing to compare with yet: no cell has {fewest_nights} nights before"
    if pending := [cell.name for cell in cells if cell.worst is NightlyVerdict.PENDING]:
        return f"{len(pending)} of {plural(compared, 'cell')} slower, pending until the next night"
    return f"nothing got slower: {compared} of {len(cells)} cells compared"


def _slower_by(cell: NightCell) -> str:
    """ "by 5.0 %", of a latency "(p99) by 12 %"."""
    if cell.verdict is NightlyVerdict.SLOWER:
        return f"by {percent(abs((cell.reference_effect if cell.creeping else cell.effect) or 0))}"
    measure, one = next((m, one) for m, one in cell.others.items() if m in FINDINGS and one.verdict is cell.worst)
    return f"({MEASURES[measure]}) by {percent(abs(scale_of(one.metric).share(-(one.effect or 0))))}"


def changed_host_text(study: NightStudy, change: FingerprintChange) -> str:
    return f"{study.study}: {describe_change(change)}"


def excluded_nights_text(study: NightStudy, excluded: Sequence[ExcludedNight]) -> str:
    last = excluded[-1]
    why = "; ".join(map(describe_change, last.changes))
    return f"{study.study}: {len(excluded)} nights on other hardware excluded, the last {last.night}: {why}"


def judged_late_text(today: str) -> str:
    return f"judged on {today}: a night that was missed cannot be measured later"


def slower_host_text(pending: int, compared: int) -> str:
    """pending: cells that were slower together."""
    cells = f"{pending} of {plural(compared, 'cell')}"
    return f"{cells} were slower together: the host was slower tonight; the same in the next night is a loss"


def no_gpu_text(label: str) -> str:
    return f"{label}: left out, this host has no GPU"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
