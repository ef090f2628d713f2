"""Decisions about an effect, as enums and numbers. bench.report.text has the words."""

import math
from dataclasses import dataclass
from typing import Any

from bench.analysis.bound import CPU_TERMS
from bench.analysis.statistics import CONFIDENCE, CONFIDENCE_AFTER_LOOKS, Estimate, repeats_to_decide, same_alpha
from bench.records.results import MAX_USEFUL_MDE, Judged, NoiseClass, Reason, Remedy, Rules, Term, Verdict
from bench.records.study import Design, Settings, Study
from bench.records.trace import Regime

# A single pair has no spread; three give the plain Student interval a finite usefulness.
FEWEST_REPEATS = 3
# Where processes have two states (a layout of memory that is fast or slow), all of a few pairs may differ by just that,
# which looks like an effect without noise: of 96 comparisons one did so in 94 % of studies with 3 pairs, 19 % with 5,
# 5 % with 6. In a crossing most of it cancels inside the process.
FEWEST_FOR_HEADLINE: dict[Design, int] = {"processes": 6, "crossing": 5}
# As a log ratio. No process measured here was slower than the others of its cell by more than 36 %.
BEYOND_STATES = math.log(2)
# What the shipped studies ask for. With fewer it is the number of runs, not their noise, that leaves all open.
ENOUGH_REPEATS = 6


@dataclass(frozen=True)
class Judgement:
    """repeats: how many would decide, where that is known."""

    verdict: Verdict
    reason: Reason
    remedy: Remedy | None = None
    repeats: int | None = None


def judged(found: Estimate, settings: Settings, max_repeats: int = Rules().max_repeats) -> dict[str, Any]:
    """The fields that every `Judged` record takes from its estimate and judgement; interval and headline differ."""
    judgement = judge(found, settings, max_repeats)
    return {
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "remedy": judgement.remedy,
        "pairs": found.pairs,
        "mde": found.mde,
        "repeats_needed": judgement.repeats,
        "p_difference": found.p_difference,
        "noise_class": found.noise_class,
    }


def rules_of(study: Study) -> Rules:
    """With --target-precision the data were looked at before the study ended, so the level is stricter."""
    confidence = CONFIDENCE_AFTER_LOOKS if study.target_precision else CONFIDENCE
    return Rules(margin=study.margin, max_repeats=study.max_repeats, confidence=confidence)


def noise_class(regime: Regime | None, limit: Term | None = None) -> NoiseClass:
    """What the noise of a cell comes from, by the measured regime of the trace.

    limit: where there is no trace, the term that sets the cell's bound (bench.analysis.bound). Where it is the CPU's, a
    trace shows launch-bound: so it was in every cell of docs/reference that has both.
    """
    if regime is None and limit is None:
        return NoiseClass.UNKNOWN
    launches = limit in CPU_TERMS if regime is None else regime is Regime.LAUNCH_BOUND
    return NoiseClass.LAUNCH_BOUND if launches else NoiseClass.DEVICE_BOUND


def decided(found: Estimate) -> Verdict | None:
    """SAME, SLOWER or FASTER, or None as long as the runs do not decide.

    SAME takes precedence: a real difference that is significantly below the margin needs no action.
    """
    if found.p_same is None or found.p_difference is None:
        return None
    if found.p_same <= same_alpha(found.confidence):
        return Verdict.SAME
    if found.p_difference <= 1 - found.confidence:
        return Verdict.SLOWER if found.penalty > 0 else Verdict.FASTER
    return None


def judge(found: Estimate, settings: Settings, max_repeats: int = Rules().max_repeats) -> Judgement:
    """settings: of the cells compared; the remedy depends on what was tried and on what can be."""
    if found.interval is None:
        return Judgement(Verdict.UNDECIDED, Reason.ONE_PAIR, Remedy.REPEAT, FEWEST_REPEATS)
    verdict = decided(found)
    if verdict is Verdict.SAME:
        return Judgement(verdict, Reason.WITHIN_MARGIN)
    if verdict:
        return Judgement(verdict, Reason.DIFFERENT)
    if has_few_pairs(found.mde, found.pairs):
        # A spread that is hardly known is no basis for a plan.
        return Judgement(Verdict.UNDECIDED, Reason.FEW_REPEATS, Remedy.REPEAT, ENOUGH_REPEATS)
    repeats = repeats_to_decide(found)
    if is_uninformative(found.mde):
        # With such a spread the effect is chance, and so is the number of repeats that would decide it.
        return Judgement(Verdict.NOT_RESOLVABLE, Reason.UNINFORMATIVE, _remedy(found.noise_class, settings), repeats)
    if repeats is not None and repeats > max_repeats:
        remedy = _remedy(found.noise_class, settings)
        return Judgement(Verdict.NOT_RESOLVABLE, Reason.TOO_MANY_REPEATS_NEEDED, remedy, repeats)
    more = max(repeats or 0, found.pairs + 1, FEWEST_REPEATS)
    return Judgement(Verdict.UNDECIDED, Reason.FEW_REPEATS, Remedy.REPEAT, more)


def is_headline(entry: Judged, log_ratio: float, p_adjusted: float, rules: Rules, runs: int | None = None) -> bool:
    """A difference that holds after correction (bench.analysis.claims), from enough pairs.

    runs: of two studies, where the units may be studies: of the side that has fewer.
    """
    enough = has_enough_pairs(log_ratio, entry.pairs if runs is None else runs, entry.design)
    return entry.differs and p_adjusted <= 1 - rules.confidence and enough


def has_enough_pairs(log_ratio: float, pairs: int, design: Design) -> bool:
    """Whether a difference cannot be that of a few processes (pairs of them), or is larger than any of theirs."""
    return pairs >= FEWEST_FOR_HEADLINE[design] or abs(log_ratio) >= BEYOND_STATES


def is_uninformative(mde: float | None) -> bool:
    """mde: the smallest penalty that would be found."""
    return mde is not None and mde >= MAX_USEFUL_MDE


def has_few_pairs(mde: float | None, pairs: int) -> bool:
    """Whether it is the number of pairs, not their noise, that makes a comparison uninformative."""
    return is_uninformative(mde) and pairs < ENOUGH_REPEATS


def _remedy(noise: NoiseClass, settings: Settings) -> Remedy:
    """On the cpu device there are no CUDA graphs."""
    if noise is not NoiseClass.LAUNCH_BOUND:
        return Remedy.FIND_DISTURBANCE
    if settings.device == "cpu":
        return Remedy.REDUCE_CPU_WORK
    return Remedy.REDUCE_LAUNCHES if settings.cuda_graph else Remedy.USE_CUDA_GRAPH
