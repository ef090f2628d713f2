"""When a study with --target-precision has seen enough.

The data are looked at after 6, 10 and 20 pairs only, and the intervals are those of CONFIDENCE_AFTER_LOOKS:
looking after every pair would stop on the luckily narrow ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bench.errors import StudyError
from bench.results.statistics import CONFIDENCE_AFTER_LOOKS, MARGIN, Comparison, Estimate, estimate_pairs
from bench.results.verdicts import MAX_REPEATS

LOOKS = (6, 10, 20)


@dataclass(frozen=True)
class Decision:
    """more: pairs to measure before the next look; 0 means that this comparison is finished.

    half_width: of the interval of the penalty, a fraction; repeats_needed: pairs for the target, as it looks.
    """

    label: str
    more: int
    reason: str
    half_width: float | None
    repeats_needed: int | None


def looks(max_repeats: int = MAX_REPEATS) -> tuple[int, ...]:
    """The numbers of pairs at which the data may be looked at."""
    if max_repeats < 1:
        raise StudyError(f"max_repeats is {max_repeats}", "--max-repeats", "ask for 1 or more")
    return (*(look for look in LOOKS if look < max_repeats), max_repeats)


def decide(
    comparisons: Sequence[Comparison],
    target_precision: float,
    max_repeats: int = MAX_REPEATS,
    asked: Mapping[str, int] | None = None,
) -> list[Decision]:
    """What to do with each comparison at this look.

    target_precision: half-width of the interval of a penalty that is narrow enough, a fraction.
    asked: how many pairs were asked for so far, by label, where failed or disturbed runs left fewer.
    Finished comparisons take part: their variances are pooled with the others'.
    """
    if not 0 < target_precision < 1:
        raise StudyError(
            f"target precision {target_precision}", "--target-precision", "a fraction: 0.02 for 2 %"
        )
    found = estimate_pairs(comparisons, CONFIDENCE_AFTER_LOOKS, MARGIN)
    return [
        _decide(one, target_precision, looks(max_repeats), (asked or {}).get(one.label, one.pairs))
        for one in found
    ]


def _decide(found: Estimate, target: float, at: tuple[int, ...], asked: int) -> Decision:
    later = [look for look in at if look > asked]
    if asked < at[0]:
        return Decision(found.label, at[0] - asked, f"no look before {at[0]} pairs", None, None)
    if found.interval is None:
        more = later[0] - asked if later else 0
        return Decision(found.label, more, "one pair has no spread", None, None)
    half = (found.interval[1] - found.interval[0]) / 2
    if half <= target:
        return Decision(found.label, 0, f"narrow enough after {found.pairs} pairs", half, found.pairs)
    needed = pairs_for(found, target)
    if not later:
        return Decision(found.label, 0, f"would take about {needed} pairs", half, needed)
    if pairs_for(found, target, optimism=0.9) > at[-1]:
        return Decision(found.label, 0, f"would take about {needed} pairs, more than {at[-1]}", half, needed)
    return Decision(found.label, later[0] - asked, "not narrow enough yet", half, needed)


def pairs_for(found: Estimate, target: float, optimism: float = 0.5) -> int:
    """Pairs after which the half-width reaches the target, with the spread at this lower bound of its
    estimate (0.5: as it is; 0.9: giving up on a comparison should be a mistake one time in ten)."""
    if found.sd is None:
        raise StudyError(f"{found.label}: one pair has no spread", "--target-precision", "measure more")
    sd = found.sd
    if optimism != 0.5:
        sd *= float(np.sqrt(found.df / stats.chi2.ppf(optimism, found.df)))
    # d(penalty) = (1 - penalty) d(log ratio)
    reach = -float(np.log1p(-min(target / (1 - found.penalty), 0.999999)))
    needed = found.pairs
    for _ in range(50):
        df = max(found.df + needed - found.pairs, 1.0)
        quantile = float(stats.t.ppf((1 + found.confidence) / 2, df))
        step = int(np.ceil((quantile * sd / reach) ** 2))
        if step == needed:
            break
        needed = max(step, 2)
    return needed
