"""Tonight's cells against the nights before: the estimates of compare, with the spread of the nights themselves.

The unit is the night: one value a cell, the median of its undisturbed runs. What differs between two nights
(clocks, memory layout, temperature) is no difference of the software, so the spread within a night counts nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.results.statistics import Estimate, Sample, estimate
from bench.results.verdicts import Verdict, decided, percent, told

# False alarms: 5 % of all such spans of nights have one, whatever the number of cells.
FALSE_ALARM_SPANS = 0.05
SPAN_NIGHTS = 60
# Fewer say too little about how unlike each other nights are.
FEWEST_NIGHTS = 5
GUARDED_LOSS = 0.05
# Above it a loss of 5 % is missed too often at this level (with 28 nights it is found in 9 of 10 cases at 0.8 %).
LARGEST_SPREAD = 0.008
# One-sided, of the second measurement of a night alone: chance makes a quiet cell slower twice in one alarm of 1000.
CONFIRMED_AT = 0.001
FAILED = "FAILED"
NOT_MEASURED = "NOT MEASURED"


@dataclass(frozen=True)
class NightCell:
    """samples_s: tonight, None where the cell failed; before: of the nights of the baseline, oldest first.

    again_samples_s: measured again in the same night, None where it was not.
    pinned: of the pinned run directory, which then takes the place of the nights' median.
    expected: whether it is a finding if the cell cannot run: the night before had it ok, or the study is strict.
    """

    name: str
    outcome: str
    reason: str
    noise_class: str
    samples_s: float | None
    before: tuple[float, ...] = ()
    pinned: float | None = None
    expected: bool = False
    again_samples_s: float | None = None


@dataclass(frozen=True)
class NightVerdict:
    """effect: throughput tonight / baseline - 1, negative is slower; interval likewise, at the level of the night.

    verdict: of compare, or FAILED or NOT MEASURED; None where there is too little to compare with.
    again_samples_s: of the second measurement, where there was one; effect and interval are then of both.
    guarded: whether a loss of GUARDED_LOSS would be found.
    """

    name: str
    verdict: str | None
    effect: float | None
    interval: tuple[float, float] | None
    tonight_samples_s: float | None
    baseline_samples_s: float | None
    nights: int
    nightly_spread: float | None
    guarded: bool
    text: str
    again_samples_s: float | None = None

    @property
    def too_noisy(self) -> bool:
        return self.nightly_spread is not None and self.nightly_spread > LARGEST_SPREAD

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"interval": self.interval and list(self.interval), "too_noisy": self.too_noisy}


def level(comparisons: int) -> float:
    """Of one one-sided test, so that SPAN_NIGHTS nights of as many comparisons rarely have a false alarm (Bonferroni).

    1.7e-5 for 48 cells.
    """
    return FALSE_ALARM_SPANS / (SPAN_NIGHTS * max(comparisons, 1))


def judge_cells(cells: Sequence[NightCell]) -> list[NightVerdict]:
    """A verdict for each cell, in their order.

    Slower is said at once where a cell was measured once. Of a cell that was measured again it is said only if
    the second measurement alone is slower too (at CONFIRMED_AT); what is told is then the mean of both.
    """
    firsts = _estimates(cells, [cell.samples_s for cell in cells], None)
    judged = [_judged(cell, found) for cell, found in zip(cells, firsts, strict=True)]
    twice = [i for i, one in enumerate(judged) if one.verdict == Verdict.SLOWER and cells[i].again_samples_s]
    if twice:
        again = _estimates(cells, [cell.again_samples_s for cell in cells], CONFIRMED_AT)
        both = _estimates(cells, [_mean(cell) for cell in cells], None)
        for i in twice:
            judged[i] = _confirmed(cells[i], judged[i], again[i], both[i])
    return judged


def _estimates(
    cells: Sequence[NightCell], samples_s: Sequence[float | None], one_sided: float | None
) -> list[Estimate | None]:
    """Of each cell with enough nights, these throughputs against its baseline. one_sided: None for that of a night."""
    samples = [_sample(cell, rate) for cell, rate in zip(cells, samples_s, strict=True)]
    comparable = [sample for sample in samples if sample]
    # compare's p-value and interval are two-sided.
    found = iter(estimate(comparable, confidence=1 - 2 * (one_sided or level(len(comparable)))))
    return [next(found) if sample else None for sample in samples]


def _mean(cell: NightCell) -> float | None:
    if cell.samples_s is None or cell.again_samples_s is None:
        return cell.samples_s
    return math.sqrt(cell.samples_s * cell.again_samples_s)


def _confirmed(cell: NightCell, first: NightVerdict, again: Estimate | None, both: Estimate | None) -> NightVerdict:
    """The verdict that the second measurement leaves of a first one that was slower."""
    if again is None or both is None or first.effect is None:
        return first
    losses = ", ".join(told(found) for found in (-first.effect, again.penalty))
    # SAME, which comes before SLOWER, is none here: a confirmed loss below the margin stays in the first verdict.
    slower = again.penalty > 0 and again.p_difference is not None and again.p_difference <= 2 * CONFIRMED_AT
    measured = replace(
        first,
        effect=math.expm1(both.mean_log),
        interval=(-both.interval[1], -both.interval[0]) if both.interval else None,
        again_samples_s=cell.again_samples_s,
    )
    if slower:
        return replace(measured, text=f"{told(both.penalty)} over two measurements of this night ({losses}): confirmed")
    text = f"not confirmed: measured twice this night ({losses})"
    return replace(measured, verdict=Verdict.UNDECIDED.value, text=text)


def spread(before: Sequence[float]) -> float | None:
    """Standard deviation of the nights' logarithms, that is, relative; None below two nights."""
    return float(np.std(np.log(before), ddof=1)) if len(before) > 1 else None


def _sample(cell: NightCell, samples_s: float | None) -> Sample | None:
    if samples_s is None or len(cell.before) < FEWEST_NIGHTS:
        return None
    logs = np.log(cell.before)
    nights = len(logs)
    # Variance of a median of normal values: pi / 2 of that of the mean. A pinned value is one night.
    of_baseline = 1.0 if cell.pinned else math.pi / 2 / nights
    return Sample(
        label=cell.name,
        noise_class=cell.noise_class,
        mean=math.log(samples_s) - (math.log(cell.pinned) if cell.pinned else float(np.median(logs))),
        variance=float(np.var(logs, ddof=1)),
        df=nights - 1,
        scale=1 + of_baseline,
        pairs=nights,
    )


def _judged(cell: NightCell, found: Estimate | None) -> NightVerdict:
    own_spread = spread(cell.before)
    verdict, text = _said(cell, found, own_spread)
    return NightVerdict(
        name=cell.name,
        verdict=verdict,
        effect=math.expm1(found.mean_log) if found else None,
        interval=(-found.interval[1], -found.interval[0]) if found and found.interval else None,
        tonight_samples_s=cell.samples_s,
        baseline_samples_s=cell.pinned or (float(np.median(cell.before)) if cell.before else None),
        nights=len(cell.before),
        nightly_spread=own_spread,
        guarded=len(cell.before) >= FEWEST_NIGHTS and own_spread is not None and own_spread <= LARGEST_SPREAD,
        text=text,
    )


def _said(cell: NightCell, found: Estimate | None, own_spread: float | None) -> tuple[str | None, str]:
    if cell.samples_s is None or cell.outcome != "ok":
        reason = f"{cell.outcome}: {cell.reason}" if cell.reason else cell.outcome
        if cell.outcome not in ("not_runnable", "missing"):
            return FAILED, reason
        return (NOT_MEASURED, f"{reason}; it was to be measured") if cell.expected else (None, reason)
    if found is None:
        nights = len(cell.before)
        return None, f"nothing to compare with yet: {nights} {'night' if nights == 1 else 'nights'} of {FEWEST_NIGHTS}"
    noisy = own_spread is not None and own_spread > LARGEST_SPREAD
    loss = told(found.penalty) + (" than the pinned run" if cell.pinned else "")
    aside = (
        f"; too noisy to guard at {100 * GUARDED_LOSS:g} %: the nights spread by {percent(own_spread or 0)}"
        if noisy
        else ""
    )
    verdict = decided(found) or Verdict.UNDECIDED
    if verdict is Verdict.SAME:
        return verdict.value, f"no difference larger than {100 * found.margin:g} %{aside}"
    if verdict is Verdict.UNDECIDED:
        return verdict.value, f"{loss}, which the spread of the nights explains{aside}"
    return verdict.value, f"{loss}, more than the spread of the nights ({percent(own_spread or 0)}) explains{aside}"
