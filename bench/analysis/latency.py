"""Latency and steadiness of two cells, by the same pairs, intervals and verdicts as throughput.

As a log ratio each is base / other, so that a longer latency and a larger spread count as a loss.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from bench.analysis.crossing import ProcessValue, crossed_sample
from bench.analysis.metric import inverse_change
from bench.analysis.pairs import class_of, counted_pairs, runs_that_count
from bench.analysis.statistics import Estimate, Floats, Sample, estimate, of_studies, sample_of
from bench.analysis.verdicts import is_headline, judged
from bench.records.results import CellRun, Change, Changes, Interval, Measure, MeasuredCell, NoiseClass, Rules
from bench.records.study import Design, Settings

# A spread of six runs is hardly known: only much less, or more, is worth a statement.
SPREAD_MARGIN = 0.5
# The spread of all values but one needs more than two.
FEWEST_FOR_SPREAD = 4
_SMALLEST_VARIANCE = 1e-12
# Pseudo-values of many runs that are all alike but one are beyond what a float holds.
_MOST_LOG = 700.0
_OF_RUN = {
    Measure.LATENCY_P50: "latency_p50_us",
    Measure.LATENCY_P99: "latency_p99_us",
    Measure.SPREAD_IN_RUNS: "window_spread",
}
# Of the spread between six runs an interval of 95 % excludes zero by chance in 5 % with normal noise, 8 % with that of
# Student (3 degrees of freedom) and 11 % with bursts: it is stated, and never a headline.
CLAIMED = (Measure.LATENCY_P50, Measure.LATENCY_P99, Measure.SPREAD_IN_RUNS)
Samples = dict[Measure, Sample]
Runs = Sequence[CellRun]


def paired_samples(label: str, base: MeasuredCell, other: MeasuredCell) -> Samples:
    """Of the pairs of runs, or processes of a crossing, that the comparison of throughput counts too."""
    pairs = counted_pairs(base, other)
    found = {}
    for measure, field in _OF_RUN.items():
        sides = [(getattr(one, field), getattr(two, field), one) for one, two in pairs]
        known = [(math.log(one / two), run) for one, two, run in sides if one and two]
        if known:
            found[measure] = _paired(label, base, other, known)
    if len(pairs) >= FEWEST_FOR_SPREAD:
        spreads = [log_spreads([run.rate or 0.0 for run in side]) for side in zip(*pairs, strict=True)]
        known = list(zip((spreads[0] - spreads[1]).tolist(), (one for one, _ in pairs), strict=True))
        found[Measure.SPREAD_BETWEEN_RUNS] = _paired(label, base, other, known)
    return found


def samples_of_studies(
    label: str, noise: NoiseClass, base: Sequence[Runs], new: Sequence[Runs], several: bool = False
) -> Samples:
    """Of one cell. base, new: the runs that count, of each study of that side. several: see statistics.of_studies."""
    found = {}
    for measure, field in _OF_RUN.items():
        sides = [_known([[getattr(run, field) for run in runs] for runs in side]) for side in (base, new)]
        if all(sides):
            found[measure] = of_studies(label, noise, sides[1], sides[0], several)
    if min(len(runs) for runs in (*base, *new)) >= FEWEST_FOR_SPREAD:
        spreads = [[_spreads(runs) for runs in side] for side in (base, new)]
        found[Measure.SPREAD_BETWEEN_RUNS] = of_studies(label, noise, spreads[1], spreads[0], several)
    return found


def _known(studies: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """Without runs that do not have the measure, and studies where none has it."""
    return [own for study in studies if (own := [value for value in study if value])]


def _spreads(runs: Runs) -> list[float]:
    logs = log_spreads([run.rate or 0.0 for run in runs])
    spreads: list[float] = np.exp(np.clip(logs, -_MOST_LOG, _MOST_LOG)).tolist()
    return spreads


def undisturbed(cell: MeasuredCell, measure: Measure) -> float | None:
    """The median of the runs that count for a night; None where none of them has it. Not of spreads between runs."""
    values = [value for run in runs_that_count(cell) if (value := getattr(run, _OF_RUN[measure]))]
    return statistics.median(values) if values else None


def log_spreads(rates: Sequence[float]) -> Floats:
    """ln of the standard deviation of the logarithms, as one pseudo-value a run (jackknife, Miller 1968).

    Their mean estimates it, and their own spread its error, without normal noise. At least FEWEST_FOR_SPREAD rates.
    """
    logs = np.log(rates)
    n = len(logs)
    whole = _half_log_variance(logs)
    without = np.array([_half_log_variance(np.delete(logs, at)) for at in range(n)])
    return n * whole - (n - 1) * without


def changes(families: Sequence[Samples], rules: Rules) -> list[dict[Measure, Estimate]]:
    """The estimates of each comparison."""
    found: list[dict[Measure, Estimate]] = [{} for _ in families]
    for measure in Measure:
        own = [
            (estimates, family[measure]) for estimates, family in zip(found, families, strict=True) if measure in family
        ]
        known = estimate([sample for _, sample in own], rules.confidence, margin_of(measure, rules))
        for (estimates, _), one in zip(own, known, strict=True):
            estimates[measure] = one
    return found


def margin_of(measure: Measure, rules: Rules) -> float:
    return SPREAD_MARGIN if measure in (Measure.SPREAD_IN_RUNS, Measure.SPREAD_BETWEEN_RUNS) else rules.margin


def judged_changes(found: Mapping[Measure, Estimate], settings: Settings, rules: Rules, design: Design) -> Changes:
    """Before correction."""
    return {
        measure: Change(
            change=inverse_change(one.penalty),
            interval=one.interval and _interval(one.interval),
            margin=one.margin,
            **judged(one, settings, rules.max_repeats),
            design=design,
        )
        for measure, one in found.items()
    }


def p_values(changes: Changes) -> list[float | None]:
    """Of what takes part in the correction over all claims."""
    return [one.p_difference for measure, one in changes.items() if measure in CLAIMED]


def corrected(changes: Changes, adjusted: Mapping[float, float], rules: Rules, runs: int | None = None) -> Changes:
    """adjusted: by p-value, what the correction makes of it. runs: see verdicts.is_headline."""
    return {
        measure: replace(
            one,
            p_adjusted=adjusted[one.p_difference],
            headline=is_headline(one, -math.log1p(one.change), adjusted[one.p_difference], rules, runs),
        )
        if measure in CLAIMED and one.p_difference is not None
        else one
        for measure, one in changes.items()
    }


def _paired(label: str, base: MeasuredCell, other: MeasuredCell, values: Sequence[tuple[float, CellRun]]) -> Sample:
    noise = class_of(base, other)
    if all(run.crossing for _, run in values):
        of_processes = {
            run.crossing.id: ProcessValue(value, None, run.crossing.birth_cpu_node)
            for value, run in values
            if run.crossing
        }
        return crossed_sample(label, noise, of_processes)
    return sample_of(label, noise, np.array([value for value, _ in values]))


def _half_log_variance(logs: Floats) -> float:
    return 0.5 * math.log(max(float(np.var(logs, ddof=1)), _SMALLEST_VARIANCE))


def _interval(of_penalty: Interval) -> Interval:
    return inverse_change(of_penalty[0]), inverse_change(of_penalty[1])
