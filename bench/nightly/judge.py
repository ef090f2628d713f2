"""Tonight's cells against the nights before.

The unit is the night: one value per cell, the median of its undisturbed runs. What differs between two nights
(clocks, memory layout, temperature) is not a difference of the software, so the spread within a night does not count.

A loss must be seen twice before it is an alarm: in a second measurement of the same night or, where most cells were
slower together and the second measurement would meet the same host, in the next night. A host whose nights have heavy
tails may ask for the next night after the second measurement too.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from msgspec.structs import replace
from scipy.special import chdtri, ndtr, stdtrit

from bench.analysis.latency import margin_of
from bench.analysis.statistics import MARGIN, Estimate, Sample, estimate
from bench.analysis.verdicts import decided
from bench.nightly.creeping import creeping
from bench.records.metric import Metric
from bench.records.nightly import NightCell, NightlyVerdict
from bench.records.results import Measure, NoiseClass, Rules
from bench.records.run import Outcome
from bench.report.text.studies import cell_text

# False alarms: 5 % of all such spans of nights have one, whatever the number of cells.
FALSE_ALARM_SPANS = 0.05
SPAN_NIGHTS = 60
# Fewer nights do not show how different nights are.
FEWEST_NIGHTS = 5
GUARDED_LOSS = 0.05
# A cell is guarded if such a loss is found with this power, the spread of its nights at its upper 80 % bound.
GUARDED_POWER = 0.9
# A cell is too noisy if it would not be guarded after so many nights either.
MANY_NIGHTS = 28
# One-sided, of the second measurement of a night: chance makes a quiet cell slower twice in one alarm of 1000.
CONFIRMED_AT = 0.001
# The host was slower, and not a cell, if more than half of at least so many cells were, each one-sided at this level.
FEWEST_OF_A_HOST = 3
TOGETHER_AT = 0.01
_SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Tonight:
    """One cell as the night measured it. samples_s: None if it failed; before: of the baseline's nights by their dates.

    every: of all nights since the named date, oldest first, and first_night the date of the first. pending_before: this
    measure was slower in the night before, and pending then or in one of the slower nights before it. second_samples_s:
    measured again in the same night, None if it was not.
    pinned: of the pinned run directory, which then takes the place of the nights' median.
    expected: whether it is a finding if the cell cannot run: the night before had it ok, or the study is strict.
    measure: None for throughput; else what is named samples_s is the inverse, which is better higher too.
    """

    name: str
    outcome: Outcome
    reason: str
    noise_class: NoiseClass
    samples_s: float | None
    before: Mapping[str, float] = field(default_factory=dict)
    pinned: float | None = None
    expected: bool = False
    second_samples_s: float | None = None
    metric: Metric | None = None
    every: tuple[float, ...] = ()
    first_night: str = ""
    pending_before: bool = False
    measure: Measure | None = None


def level(comparisons: int, others: int = 0) -> float:
    """Of one one-sided test, so that SPAN_NIGHTS nights of that many comparisons rarely have a false alarm
    (Bonferroni): 1.7e-5 for 48 cells. others: comparisons of the other kind (throughput; latency and steadiness),
    which have half of the false alarms if there are any, so that many latencies cost throughput little.
    """
    return FALSE_ALARM_SPANS / (2 if others else 1) / (SPAN_NIGHTS * max(comparisons, 1))


def spread(before: Collection[float]) -> float | None:
    """Standard deviation of the nights' logarithms, that is, relative; None below two nights."""
    return float(np.std(np.log(list(before)), ddof=1)) if len(before) > 1 else None


def judge_cells(cells: Sequence[Tonight], confirm_next_night: bool = False) -> list[NightCell]:
    """A verdict for each cell, in their order.

    A cell is SLOWER by its first measurement and unconfirmed, until a second one by itself is slower too (at
    CONFIRMED_AT); its effect is then the mean of both. Where most cells are slower together it is PENDING, and SLOWER
    if that was so in a night before, without one between them that was not slower. With confirm_next_night so is a
    cell that a second measurement confirmed. A creeping loss of throughput is SLOWER whatever this night says.
    """
    nights = 2 if confirm_next_night else 1
    firsts = _estimates(cells, [cell.samples_s for cell in cells], None)
    judged = [_judged(cell, one, nights) for cell, one in zip(cells, firsts, strict=True)]
    slower = [i for i, one in enumerate(judged) if one.verdict is NightlyVerdict.SLOWER]
    together = {
        measure: slower_together(
            [one for cell, one in zip(cells, firsts, strict=True) if cell.measure == measure and not cell.pinned]
        )
        for measure in {cell.measure for cell in cells}
    }
    seconds = _estimates(cells, [cell.second_samples_s for cell in cells], CONFIRMED_AT) if slower else []
    both = _estimates(cells, [_mean(cell) for cell in cells], None) if slower else []
    for i in slower:
        waits = of_the_host = together[cells[i].measure] and not cells[i].pinned
        if not of_the_host and cells[i].second_samples_s:
            judged[i] = _confirmed(cells[i], judged[i], seconds[i], both[i])
            waits = confirm_next_night and judged[i].verdict is NightlyVerdict.SLOWER
        elif not of_the_host:
            judged[i] = replace(judged[i], unconfirmed=True)
        if waits and not cells[i].pending_before:
            judged[i] = replace(judged[i], verdict=NightlyVerdict.PENDING)
    judged = [one if cell.measure else _creeping(cell, one) for cell, one in zip(cells, judged, strict=True)]
    return [replace(one, text=cell_text(one, FEWEST_NIGHTS, GUARDED_LOSS)) for one in judged]


def slower_together(estimates: Sequence[Estimate | None]) -> bool:
    """Whether more than half of the cells were slower than their nights before, each at TOGETHER_AT."""
    known = [one for one in estimates if one and one.p_difference is not None]
    slower = sum(one.penalty > 0 and (one.p_difference or 0.0) <= 2 * TOGETHER_AT for one in known)
    return len(known) >= FEWEST_OF_A_HOST and 2 * slower > len(known)


def power(loss: float, spread: float, df: float, scale: float, one_sided: float, nights: int = 1) -> float:
    """The probability that a loss is found, and by the second measurement again, in each of so many nights.

    spread: estimated with df degrees of freedom, and taken at its upper 80 % bound for what tonight may be; the limit
    of the test follows from the estimate itself.
    """
    spread = max(spread, _SMALLEST_SPREAD)
    worst = spread * math.sqrt(df / float(chdtri(df, 0.8)))
    reach = -math.log1p(-loss) / math.sqrt(scale)
    found = 1.0
    for alpha in (one_sided, CONFIRMED_AT):
        found *= float(ndtr((reach - float(stdtrit(df, 1 - alpha)) * spread) / worst))
    return found**nights


def tail_df(series: Sequence[Mapping[str, float]]) -> float:
    """Degrees of freedom of the Student distribution with the tails of these cells' nights; inf if normal ones may be.

    series: of each cell by night. The tails are those of the nights or, where it has heavier ones, of what is left of
    them without what all cells of a night share.
    """
    known = [cell for cell in series if len(cell) >= FEWEST_NIGHTS]
    dates = {night: at for at, night in enumerate(sorted({night for cell in known for night in cell}))}
    logs = np.full((len(known), len(dates)), np.nan)
    for row, cell in zip(logs, known, strict=True):
        row[[dates[night] for night in cell]] = np.log(list(cell.values()))
    scores = _standardised(logs)
    if not len(scores):
        return math.inf
    present = ~np.isnan(scores)
    shared = np.nansum(scores, axis=0) / np.maximum(np.sum(present, axis=0), 1)
    squares = np.maximum(np.sum(present * shared**2, axis=1), _SMALLEST_SPREAD)
    slopes = np.nansum(scores * shared, axis=1) / squares
    return min(_tail_df(scores), _tail_df(_standardised(scores - slopes[:, None] * shared)))


def _standardised(values: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and sum of squares 1, without the constant ones; a missing night is nan."""
    deviations = values - np.nanmean(values, axis=1, keepdims=True)
    norms = np.sqrt(np.nansum(deviations**2, axis=1, keepdims=True))
    varied = norms[:, 0] > _SMALLEST_SPREAD
    standardised: np.ndarray = deviations[varied] / norms[varied]
    return standardised


def _tail_df(scores: np.ndarray) -> float:
    """By the mean excess kurtosis (Joanes & Gill, J. R. Stat. Soc. D 47 (1998) 183: G2, without bias for normal values)
    where it is above three standard errors; that of Student's distribution is 6 / (df - 4).

    If the values of two cells are correlated by r, their kurtoses are by r^4 (Mehler's formula), of which chance gives
    3 / (n^2 - 1) in n nights.
    """
    n = np.sum(~np.isnan(scores), axis=1)
    scores = np.nan_to_num(scores)
    excess = n * np.sum(scores**4, axis=1) - 3
    kurtosis = float(np.sum((n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * excess + 6)))
    errors = np.sqrt(24 * n * (n - 1.0) ** 2 / ((n - 3) * (n - 2) * (n + 3) * (n + 5)))
    # In blocks: of thousands of cells all pairs at once would need gigabytes.
    blocks = [slice(first, first + 500) for first in range(0, len(scores), 500)]
    of_pairs = sum(float(errors[one] @ ((scores[one] @ scores.T) ** 2) ** 2 @ errors) for one in blocks)
    own = float(np.sum(errors**2))
    by_chance = 3 / (scores.shape[1] ** 2 - 1) * (float(np.sum(errors)) ** 2 - own)
    limit = 3 * math.sqrt(own + max(of_pairs - own - by_chance, 0.0))
    return 4 + 6 * len(scores) / kurtosis if kurtosis > limit else math.inf


def _estimates(
    cells: Sequence[Tonight], samples_s: Sequence[float | None], one_sided: float | None
) -> list[Estimate | None]:
    """Of each cell with enough nights, this throughput against its baseline. one_sided: None for that of a night.

    The level of a night is far in the tail, so the limit is that of the tails that the nights of all cells show.
    """
    measures = {cell.measure for cell in cells}
    tails = {one: tail_df([cell.before for cell in cells if cell.measure == one]) for one in measures}
    samples = [
        _sample(cell, rate, math.inf if one_sided else tails[cell.measure])
        for cell, rate in zip(cells, samples_s, strict=True)
    ]
    comparable = [cell.measure for cell, sample in zip(cells, samples, strict=True) if sample]
    throughputs = comparable.count(None)
    others = len(comparable) - throughputs
    found: list[Estimate | None] = [None] * len(cells)
    for measure in set(comparable):
        own = {i: sample for i, sample in enumerate(samples) if sample and cells[i].measure == measure}
        of_one = one_sided or (level(others, throughputs) if measure else level(throughputs, others))
        # The p-value and interval of an estimate are two-sided.
        margin = margin_of(measure, Rules()) if measure else MARGIN
        for i, one in zip(own, estimate(list(own.values()), 1 - 2 * of_one, margin), strict=True):
            found[i] = one
    return found


def _sample(cell: Tonight, samples_s: float | None, most_df: float) -> Sample | None:
    if samples_s is None or len(cell.before) < FEWEST_NIGHTS:
        return None
    logs = np.log(list(cell.before.values()))
    nights = len(logs)
    # Variance of a median of normal values: pi / 2 of that of the mean. A pinned value is one night.
    of_baseline = 1.0 if cell.pinned else math.pi / 2 / nights
    return Sample(
        label=cell.name,
        noise_class=cell.noise_class,
        mean=math.log(samples_s) - (math.log(cell.pinned) if cell.pinned else median(logs.tolist())),
        variance=float(np.var(logs, ddof=1)),
        df=min(nights - 1, most_df),
        scale=1 + of_baseline,
        pairs=nights,
    )


def _mean(cell: Tonight) -> float | None:
    if cell.samples_s is None or cell.second_samples_s is None:
        return cell.samples_s
    return math.sqrt(cell.samples_s * cell.second_samples_s)


def _judged(cell: Tonight, estimated: Estimate | None, nights: int) -> NightCell:
    """nights: that must find a loss."""
    own_spread = spread(cell.before.values())
    guarded = noisy = False
    if estimated and estimated.sd is not None and own_spread is not None:
        one_sided = (1 - estimated.confidence) / 2
        guarded = power(GUARDED_LOSS, estimated.sd, estimated.df, estimated.scale, one_sided, nights) >= GUARDED_POWER
        has_tails = estimated.df < len(cell.before) - 1
        df = estimated.df if has_tails else max(estimated.df, MANY_NIGHTS - 1)
        scale = 1 + math.pi / 2 / MANY_NIGHTS
        noisy = power(GUARDED_LOSS, own_spread, df, scale, one_sided, nights) < GUARDED_POWER
    return NightCell(
        name=cell.name,
        outcome=cell.outcome,
        reason=cell.reason,
        verdict=_verdict(cell, estimated),
        effect=math.expm1(estimated.mean_log) if estimated else None,
        interval=_interval(estimated),
        margin=estimated.margin if estimated else None,
        tonight_samples_s=cell.samples_s,
        baseline_samples_s=cell.pinned or (median(cell.before.values()) if cell.before else None),
        pinned=cell.pinned is not None,
        nights=len(cell.before),
        nightly_spread=own_spread,
        guarded=guarded,
        too_noisy=noisy and not guarded,
        metric=cell.metric,
    )


def _verdict(cell: Tonight, estimated: Estimate | None) -> NightlyVerdict | None:
    if cell.samples_s is None or cell.outcome is not Outcome.OK:
        if cell.outcome not in (Outcome.NOT_RUNNABLE, Outcome.MISSING):
            return NightlyVerdict.FAILED
        return NightlyVerdict.NOT_MEASURED if cell.expected else None
    if estimated is None:
        return None
    return NightlyVerdict(decided(estimated) or NightlyVerdict.UNDECIDED)


def _creeping(cell: Tonight, judged: NightCell) -> NightCell:
    """A cell that was measured tonight, against the reference."""
    found = creeping((*cell.every, cell.samples_s)) if cell.samples_s else None
    if found is None:
        return judged
    judged = replace(judged, reference_night=cell.first_night, reference_effect=found.effect)
    if not found.alarm or judged.verdict is NightlyVerdict.SLOWER:
        return judged
    return replace(judged, verdict=NightlyVerdict.SLOWER, creeping=True)


def _confirmed(cell: Tonight, first: NightCell, second: Estimate | None, both: Estimate | None) -> NightCell:
    """The verdict that the second measurement leaves of a first one that was slower."""
    if second is None or both is None:
        return first
    # SAME, which otherwise precedes SLOWER, has no place here: a confirmed loss below the margin stays SLOWER.
    slower = second.penalty > 0 and second.p_difference is not None and second.p_difference <= 2 * CONFIRMED_AT
    return replace(
        first,
        verdict=NightlyVerdict.SLOWER if slower else NightlyVerdict.UNDECIDED,
        effect=math.expm1(both.mean_log),
        interval=_interval(both),
        first_effect=first.effect,
        second_effect=math.expm1(second.mean_log),
        second_samples_s=cell.second_samples_s,
    )


def _interval(estimated: Estimate | None) -> tuple[float, float] | None:
    """Of the effect, which has the opposite sign of a penalty."""
    return (-estimated.interval[1], -estimated.interval[0]) if estimated and estimated.interval else None
