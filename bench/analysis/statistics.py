"""Effects with their uncertainty: log ratios, intervals, tests, drift.

The unit is the process run. All effects are differences of natural logarithms of throughput; a penalty is
1 - exp(mean log ratio), positive when the second condition (remote, new) is the slower one.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, stdtr, stdtrit

from bench.errors import StudyError
from bench.records.results import Drift, Interval, NoiseClass

Floats = NDArray[np.float64]
# The runs of each study.
Studies = Sequence[Sequence[float]]
CONFIDENCE = 0.95
MARGIN = 0.02
# Several looks at the data narrow the intervals by chance: 95 % would cover 92-94 % (docs/validity_methods.md).
CONFIDENCE_AFTER_LOOKS = 0.96
SAME_ALPHA = 0.05
# At 0.05 up to 6.7 % of differences of the margin would be SAME after three looks, at 0.04 up to 5.7 %.
SAME_ALPHA_AFTER_LOOKS = 0.03
# Of the spread, in a plan: so often the true one is not larger. A plan at the estimate is too short half of the time.
PLANNED_BOUND = 0.9
# Run values that agree better than this do so by chance: no spread is taken as smaller.
_SMALLEST_SD = 1e-6
# Beyond a factor of e^36 a penalty is 1 in a float; beyond e^709 the end of an interval is infinite.
_MOST_LOG = 36.0
_MOST_END_LOG = 700.0


@dataclass(frozen=True)
class Comparison:
    """Two conditions measured in pairs: {block: throughput in samples/s} of each."""

    label: str
    noise_class: NoiseClass
    local_runs: Mapping[int, float]
    remote_runs: Mapping[int, float]


@dataclass(frozen=True)
class Sample:
    """A mean log ratio whose squared standard error is `variance * scale`.

    variance: of one log ratio (pairs) or of one run's logarithm (two independent groups), with df degrees
    of freedom; nan where df is 0.
    """

    label: str
    noise_class: NoiseClass
    mean: float
    variance: float
    df: float
    scale: float
    pairs: int


@dataclass(frozen=True)
class Estimate:
    """An effect with its uncertainty.

    penalty and interval: fractions; interval and both p-values are None where there is a single pair.
    sd: of one log ratio; df: degrees of freedom it has. p_same: TOST against the margin.
    mde: the smallest penalty found with power 0.8 if sd is at its upper bound (PLANNED_BOUND).
    """

    label: str
    noise_class: NoiseClass
    pairs: int
    mean_log: float
    penalty: float
    interval: Interval | None
    sd: float | None
    df: float
    scale: float
    p_difference: float | None
    p_same: float | None
    mde: float | None
    confidence: float
    margin: float


def log_ratios(local: Mapping[int, float], remote: Mapping[int, float]) -> Floats:
    """ln(remote / local) of each block that has both, in the order of the blocks.

    Raises StudyError for a throughput that is not a positive number.
    """
    blocks = sorted(local.keys() & remote.keys())
    values = np.array([[local[block], remote[block]] for block in blocks], dtype=float).reshape(-1, 2)
    return _logs(values[:, 1], "remote") - _logs(values[:, 0], "local")


def paired(comparison: Comparison) -> Sample:
    """Raises StudyError where no block has both runs."""
    ratios = log_ratios(comparison.local_runs, comparison.remote_runs)
    if not len(ratios):
        raise StudyError(f"{comparison.label}: no block has both runs", "statistics", "measure the failed runs again")
    return sample_of(comparison.label, comparison.noise_class, ratios)


def sample_of(label: str, noise_class: NoiseClass, values: Floats) -> Sample:
    """values: one log ratio of each pair; at least one."""
    n = len(values)
    return Sample(label, noise_class, float(values.mean()), _variance(values), n - 1, 1 / n, n)


def unpaired(label: str, noise_class: NoiseClass, base: Sequence[float], new: Sequence[float]) -> Sample:
    """ln(new / base) of runs that were not measured side by side, each group with a variance of its own.

    Degrees of freedom by Satterthwaite (Welch 1947), and no more than those of the smaller group where its mean is the
    less certain one; where one group is a single run, both have the other's variance.
    """
    if not len(base) or not len(new):
        raise StudyError(f"{label}: one side has no run", "statistics", "measure the failed runs again")
    first, second = _logs(np.asarray(base, float), "base"), _logs(np.asarray(new, float), "new")
    scale = 1 / len(first) + 1 / len(second)
    known = [group for group in (first, second) if len(group) > 1]
    if len(known) < 2:
        df = float(len(known[0]) - 1) if known else 0.0
        pooled = _variance(known[0]) if known else float("nan")
    else:
        parts = [_variance(group) / len(group) for group in known]
        sizes = [len(group) for group in known]
        error, df = welch_error(parts, sizes)
        pooled = error**2 / scale
        smaller = sizes.index(min(sizes))
        if sizes[0] != sizes[1] and parts[smaller] > parts[1 - smaller]:
            # Else 6.9 % of intervals would miss where 6 runs spread by 1 % and 3 by 3 %.
            df = min(df, float(sizes[smaller] - 1))
    mean = float(second.mean() - first.mean())
    return Sample(label, noise_class, mean, pooled, df, scale, min(len(first), len(second)))


def of_studies(label: str, noise_class: NoiseClass, base: Studies, new: Studies, several: bool = False) -> Sample:
    """ln(new / base) of the runs of one study a side or, where a side has several, of the studies (Kalibera & Jones,
    ISMM 2013).

    Then it is the wider of two: of the studies' means, which spread as the host does between two times, and of all
    runs, as the means of two or three studies may agree by chance. A single study a side then has no spread.
    """
    by_runs = unpaired(label, noise_class, *([rate for runs in side for rate in runs] for side in (base, new)))
    if not several:
        return by_runs
    means = [[float(np.exp(np.mean(_logs(np.asarray(runs), "study")))) for runs in side] for side in (base, new)]
    return max((unpaired(label, noise_class, *means), by_runs), key=_half_width)


def _half_width(sample: Sample) -> float:
    """Of the interval of 95 %; infinite where there is no spread."""
    if sample.df <= 0:
        return math.inf
    return float(stdtrit(sample.df, (1 + CONFIDENCE) / 2)) * math.sqrt(sample.variance * sample.scale)


def welch_error(parts: Sequence[float], sizes: Sequence[int]) -> tuple[float, float]:
    """(standard error, Satterthwaite's degrees of freedom); parts: variance / size of each side."""
    total = sum(parts)
    if total == 0:
        return 0.0, float(sum(sizes) - len(sizes))
    return math.sqrt(total), total**2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))


def estimate(samples: Sequence[Sample], confidence: float = CONFIDENCE, margin: float = MARGIN) -> list[Estimate]:
    """An Estimate of each sample, in their order, each from its own runs only (Student).

    What other comparisons vary by says little: on one host some vary by 0.1 % and some by 6 %, and an interval that
    borrows its width is too narrow for the noisiest, which is the one that looks different (docs/validity_methods.md).
    """
    if not 0 < margin < 1 or not 0 < confidence < 1:
        raise StudyError(f"margin {margin}, confidence {confidence}", "statistics", "both must be between 0 and 1")
    df = np.array([sample.df for sample in samples], dtype=float)
    known = df > 0
    sd = np.sqrt(np.maximum([sample.variance for sample in samples], _SMALLEST_SD**2))
    mean = np.clip([sample.mean for sample in samples], -_MOST_LOG, _MOST_LOG)
    error = sd * np.sqrt([sample.scale for sample in samples])
    t = stdtrit(df, [[(1 + confidence) / 2], [0.8]])
    half = t[0] * error
    with np.errstate(invalid="ignore"):
        p_difference = 2 * stdtr(df, -np.abs(mean) / error)
        p_same = np.maximum(stdtr(df, (np.log1p(-margin) - mean) / error), stdtr(df, (mean - np.log1p(margin)) / error))
        mde = -np.expm1(-_planned_sd(error, df) * (t[0] + t[1]))
    return [
        Estimate(
            label=sample.label,
            noise_class=sample.noise_class,
            pairs=sample.pairs,
            mean_log=float(mean[i]),
            penalty=float(-np.expm1(mean[i])),
            interval=_penalties(mean[i], half[i]) if known[i] else None,
            sd=float(sd[i]) if known[i] else None,
            df=float(df[i]),
            scale=sample.scale,
            p_difference=float(p_difference[i]) if known[i] else None,
            p_same=float(p_same[i]) if known[i] else None,
            mde=float(mde[i]) if known[i] else None,
            confidence=confidence,
            margin=margin,
        )
        for i, sample in enumerate(samples)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: Holm, Scand. J. Statist. 6 (1979) 65. Same order as given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def repeats_to_decide(found: Estimate, power: float = 0.8) -> int | None:
    """The number of pairs after which a study shows either of two truths with this power, the spread at its upper
    bound: that there is no difference (SAME), and that there is one of the margin (SLOWER or FASTER).

    The effect is what is not known yet: planned for the one found, 15 to 53 % of plans decided. Only where there are
    that many pairs already, so that it lies between, the plan is for the nearer of the two at the effect found.
    None where there is no spread to plan with; at most 10**7.
    """
    if found.sd is None:
        return None
    sd = float(_planned_sd(np.array(found.sd), np.array(found.df)))
    alpha, margin = 1 - found.confidence, float(-np.log1p(-found.margin))

    def decides(n: int, distance: float) -> bool:
        df = max(found.df + n - found.pairs, 1.0)
        # Both one-sided tests of SAME have to succeed: hence the half of the failures each.
        quantiles = stdtrit(df, [1 - alpha / 2, power, 1 - same_alpha(found.confidence), (1 + power) / 2])
        error = sd * np.sqrt(found.scale * found.pairs / n)
        return bool(max(quantiles[0] + quantiles[1], quantiles[2] + quantiles[3]) * error <= distance)

    def fewest(distance: float) -> int:
        low, high = 1, 2
        while not decides(high, distance):
            low, high = high, high * 2
            if high > 10**7:
                return 10**7
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if decides(middle, distance) else (middle, high)
        return high

    repeats = fewest(margin)
    if repeats > found.pairs:
        return repeats
    effect = abs(found.mean_log)
    return fewest(min(max(effect, margin - effect), margin))


def same_alpha(confidence: float) -> float:
    """Level of each of the two one-sided tests of SAME; stricter where the data were looked at before."""
    return SAME_ALPHA if confidence <= CONFIDENCE else SAME_ALPHA_AFTER_LOOKS


def _planned_sd(sd: Floats, df: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        planned: Floats = sd * np.sqrt(df / chdtri(df, PLANNED_BOUND))
    return planned


def _penalties(mean: float, half: float) -> Interval:
    low, high = np.clip([mean - half, mean + half], -_MOST_END_LOG, _MOST_END_LOG)
    return float(-np.expm1(high)), float(-np.expm1(low))


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else float("nan")


def _logs(throughputs: Floats, side: str) -> Floats:
    if not np.all(np.isfinite(throughputs) & (throughputs > 0)):
        raise StudyError(f"a {side} throughput is not a positive number", "statistics", "look at its run record")
    return np.log(throughputs)


def interval_of(rates: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Student interval of the geometric mean of at least two independent runs (same unit as the rates)."""
    logs = [math.log(rate) for rate in rates]
    mean = statistics.fmean(logs)
    half = float(stdtrit(len(logs) - 1, (1 + confidence) / 2)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean - half), math.exp(mean + half)


@dataclass(frozen=True)
class Measured:
    """One run, for drift. time: anything that grows through the study, its start in seconds or its position."""

    cell: str
    noise_class: NoiseClass
    time: float
    throughput_samples_s: float


def drift(runs: Sequence[Measured], confidence: float = CONFIDENCE) -> Drift | None:
    """How the host drifted while a study ran; pairs remove it from the penalties. None without three repeats of a cell.

    Least squares over all cells with a level for each cell, weighted by the median variance of its class. A cell's own
    variance would give most weight to those that are low by chance, and an interval that is too narrow.
    """
    cells: dict[str, list[Measured]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    kept = [own for own in cells.values() if len(own) >= 3]
    if not kept:
        return None
    centred = [_centred([float(np.log(run.throughput_samples_s)) for run in own]) for own in kept]
    classes = [own[0].noise_class for own in kept]
    variances = {
        name: np.median([y.var(ddof=1) for y, known in zip(centred, classes, strict=True) if known == name])
        for name in classes
    }
    weights = [np.full(len(y), 1 / max(variances[name], 1e-8)) for y, name in zip(centred, classes, strict=True)]
    times = [np.array([run.time for run in own], dtype=float) for own in kept]
    y, w, at = map(np.concatenate, (centred, weights, times))
    span = at.max() - at.min()
    x = np.concatenate([_centred(time) for time in times]) / span if span else at * 0
    df = len(y) - len(kept) - 1
    leverage = float(np.sum(w * x * x))
    if leverage == 0 or df < 1:
        return None
    slope = float(np.sum(w * x * y)) / leverage
    error = np.sqrt(float(np.sum(w * (y - slope * x) ** 2)) / df / leverage)
    half = stdtrit(df, (1 + confidence) / 2) * error
    levels = [
        np.sum(w[part] * y[part]) / np.sum(w[part])
        for part in np.array_split(np.argsort(at, kind="stable"), 5)
        if len(part)
    ]
    return Drift(
        change=float(np.expm1(slope)),
        interval=(float(np.expm1(slope - half)), float(np.expm1(slope + half))),
        range=float(np.expm1(max(levels) - min(levels))),
        runs=len(y),
    )


def _centred(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=float)
    centred: Floats = array - array.mean()
    return centred
