"""Effects with their uncertainty: log ratios, pooled variances, intervals, tests, drift.

The unit is the process run. All effects are differences of natural logarithms of throughput; a penalty is
1 - exp(mean log ratio), positive when the second condition (remote, new) is the slower one.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import digamma, polygamma, stdtrit

from bench.errors import StudyError
from bench.records.results import Drift, Interval, NoiseClass

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
MARGIN = 0.02
# Several looks at the data narrow the intervals by chance: 95 % would cover 92-94 % (docs/validity.md).
CONFIDENCE_AFTER_LOOKS = 0.96
# Few comparisons show little of how much variances differ: the others never count more than 4 runs.
MAX_PRIOR_DF = 4.0
MIN_POOLED = 6
# Run values agree no better than this by more than luck: keeps a variance of zero out of the logarithms.
_SMALLEST_SD = 1e-6
# Beyond a factor of e^36 a penalty is 1 in a float; beyond e^709 the end of an interval is infinite.
_MOST_LOG = 36.0
_MOST_END_LOG = 700.0


@dataclass(frozen=True)
class Comparison:
    """Two conditions measured in pairs: {block: throughput in samples/s} of each.

    Variances are pooled within a noise class and never across; not at all where it is unknown.
    """

    label: str
    noise_class: NoiseClass
    local_runs: Mapping[int, float]
    remote_runs: Mapping[int, float]


@dataclass(frozen=True)
class Sample:
    """A mean log ratio whose squared standard error is `variance * scale`.

    variance: of one log ratio (pairs) or of one run's logarithm (two independent groups), with df degrees
    of freedom; nan where df is 0. poolable: with those of its noise class.
    """

    label: str
    noise_class: NoiseClass
    mean: float
    variance: float
    df: float
    scale: float
    pairs: int
    poolable: bool = True


@dataclass(frozen=True)
class Estimate:
    """An effect with its uncertainty.

    penalty and interval: fractions; interval and both p-values are None where there is a single pair, unless the
    others of its class are enough alike to be worth a degree of freedom.
    sd: of one log ratio, after pooling; df: degrees of freedom it has. p_same: TOST against the margin.
    mde: the smallest penalty found with power 0.8 if sd is at its upper 80 % bound.
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
    pooled: bool
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
    return Sample(
        comparison.label,
        comparison.noise_class,
        float(ratios.mean()),
        _variance(ratios),
        len(ratios) - 1,
        1 / len(ratios),
        len(ratios),
    )


def unpaired(label: str, noise_class: NoiseClass, base: Sequence[float], new: Sequence[float]) -> Sample:
    """ln(new / base) of runs that were not measured side by side, each group with a variance of its own.

    Degrees of freedom by Satterthwaite (Welch 1947); where one group is a single run, both have the other's variance.
    Never pooled: the groups differ in number, and in what happened between them.
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
        error, df = welch_error(parts, [len(group) for group in known])
        pooled = error**2 / scale
    mean = float(second.mean() - first.mean())
    return Sample(label, noise_class, mean, pooled, df, scale, min(len(first), len(second)), poolable=False)


def welch_error(parts: Sequence[float], sizes: Sequence[int]) -> tuple[float, float]:
    """(standard error, Satterthwaite's degrees of freedom); parts: variance / size of each side."""
    total = sum(parts)
    if total == 0:
        return 0.0, float(sum(sizes) - len(sizes))
    return math.sqrt(total), total**2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))


def fit_prior(variances: Floats, dfs: Floats) -> tuple[float, float]:
    """(degrees of freedom, variance) of the information that the other comparisons have about a variance.

    Scaled inverse chi-square prior fitted by the moments of the log variances: Smyth, Stat. Appl. Genet. Mol.
    Biol. 3 (2004), article 3, section 6.2, with the degrees of freedom held at or below MAX_PRIOR_DF. Its
    location is half-way, on the log scale, between Smyth's and the bias-corrected geometric mean: the former
    covers 92 % of the time where comparisons are few and unlike, the latter makes intervals at n = 3 more
    than 1.3 times too wide (docs/validity.md).
    """
    floor = max(_SMALLEST_SD**2, 1e-5 * float(np.median(variances)))
    centred = np.log(np.maximum(variances, floor)) - digamma(dfs / 2) + np.log(dfs / 2)
    between = float(np.var(centred, ddof=1) - np.mean(polygamma(1, dfs / 2)))
    df = min(MAX_PRIOR_DF, 2 * _inverse_trigamma(between)) if between > 0 else MAX_PRIOR_DF
    location = centred.mean() + (digamma(df / 2) - np.log(df / 2)) / 2
    return df, float(np.exp(location))


def estimate(samples: Sequence[Sample], confidence: float = CONFIDENCE, margin: float = MARGIN) -> list[Estimate]:
    """An Estimate of each sample, in their order; variances of poolable ones pooled within each noise class.

    The unknown class is not pooled (plain Student), nor is one with fewer than MIN_POOLED comparisons that have a
    variance.
    """
    if not 0 < margin < 1 or not 0 < confidence < 1:
        raise StudyError(f"margin {margin}, confidence {confidence}", "statistics", "both must be between 0 and 1")
    found: dict[int, Estimate] = {}
    for alike in {(sample.noise_class, sample.poolable) for sample in samples}:
        members = [i for i, sample in enumerate(samples) if (sample.noise_class, sample.poolable) == alike]
        estimates = _estimate_class([samples[i] for i in members], confidence, margin)
        found.update(zip(members, estimates, strict=True))
    return [found[i] for i in range(len(samples))]


def estimate_pairs(
    comparisons: Sequence[Comparison], confidence: float = CONFIDENCE, margin: float = MARGIN
) -> list[Estimate]:
    return estimate([paired(comparison) for comparison in comparisons], confidence, margin)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: Holm, Scand. J. Statist. 6 (1979) 65. Same order as given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def repeats_to_decide(found: Estimate, power: float = 0.8) -> int | None:
    """The number of pairs that decides SLOWER, FASTER or SAME with this power, if effect and spread are as estimated.

    None where there is no spread to plan with; at most 10**7.
    """
    if found.sd is None:
        return None
    effect, alpha = abs(found.mean_log), 1 - found.confidence
    reserve = -np.log1p(-found.margin) - effect

    def decides(n: int) -> bool:
        df = max(found.df + n - found.pairs, 1.0)
        error = found.sd * np.sqrt(found.scale * found.pairs / n)
        reach = stats.t.ppf([1 - alpha / 2, 0.95, power, (1 + power) / 2], df) * error
        # Near an effect of zero both one-sided tests have to succeed: hence the half of the failures each.
        return bool(reach[0] + reach[2] <= effect or reach[1] + reach[3] <= reserve)

    low, high = 1, 2
    while not decides(high):
        low, high = high, high * 2
        if high > 10**7:
            return 10**7
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def _estimate_class(samples: Sequence[Sample], confidence: float, margin: float) -> list[Estimate]:
    variances = np.array([sample.variance for sample in samples])
    dfs = np.array([sample.df for sample in samples], dtype=float)
    known = dfs > 0
    first = samples[0]
    pooled = int(known.sum()) >= MIN_POOLED and first.poolable and first.noise_class is not NoiseClass.UNKNOWN
    prior_df, prior = fit_prior(variances[known], dfs[known]) if pooled else (0.0, 0.0)
    own = np.where(known, np.where(known, variances, 0.0) * dfs, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        posterior = np.maximum((prior_df * prior + own) / (prior_df + dfs), _SMALLEST_SD**2)
    df = prior_df + dfs
    mean = np.clip([sample.mean for sample in samples], -_MOST_LOG, _MOST_LOG)
    error = np.sqrt(posterior * np.array([sample.scale for sample in samples]))
    half = stats.t.ppf((1 + confidence) / 2, df) * error
    p_difference = 2 * stats.t.sf(np.abs(mean) / error, df)
    p_same = np.maximum(
        stats.t.sf((mean - np.log1p(-margin)) / error, df), stats.t.cdf((mean - np.log1p(margin)) / error, df)
    )
    # Planning takes the arithmetic mean of the class as prior: the next study may meet the outliers that
    # this comparison was spared (with the geometric one only 74 % of such effects are found). At most
    # twice the spread: one wild model of a class should not make the others look blind.
    common = float(np.average(variances[known], weights=dfs[known])) if pooled else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        planned = np.sqrt(np.clip((prior_df * common + own) / df / posterior, 1.0, 4.0)) * error
    worst = planned * np.sqrt(df / stats.chi2.ppf(0.2, df))
    mde = -np.expm1(-worst * (stats.t.ppf((1 + confidence) / 2, df) + stats.t.ppf(0.8, df)))
    estimates = []
    for i, sample in enumerate(samples):
        single = df[i] < 1
        estimates.append(
            Estimate(
                label=sample.label,
                noise_class=sample.noise_class,
                pairs=sample.pairs,
                mean_log=float(mean[i]),
                penalty=float(-np.expm1(mean[i])),
                interval=None if single else _penalties(mean[i], half[i]),
                sd=None if single else float(np.sqrt(posterior[i])),
                df=float(df[i]),
                scale=sample.scale,
                p_difference=None if single else float(p_difference[i]),
                p_same=None if single else float(p_same[i]),
                mde=None if single else float(mde[i]),
                pooled=pooled,
                confidence=confidence,
                margin=margin,
            )
        )
    return estimates


def _penalties(mean: float, half: float) -> Interval:
    low, high = np.clip([mean - half, mean + half], -_MOST_END_LOG, _MOST_END_LOG)
    return float(-np.expm1(high)), float(-np.expm1(low))


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else float("nan")


def _logs(throughputs: Floats, side: str) -> Floats:
    if not np.all(np.isfinite(throughputs) & (throughputs > 0)):
        raise StudyError(f"a {side} throughput is not a positive number", "statistics", "look at its run record")
    return np.log(throughputs)


def _inverse_trigamma(y: float) -> float:
    """x with trigamma(x) = y, by Newton's method on 1 / trigamma, nearly linear (Smyth, appendix)."""
    if y > 1e7:
        return float(1 / np.sqrt(y))
    x = 0.5 + 1 / y
    for _ in range(50):
        value = polygamma(1, x)
        step = value * (1 - value / y) / polygamma(2, x)
        x += step
        if -step / x < 1e-8:
            break
    return float(x)


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
    half = stats.t.ppf((1 + confidence) / 2, df) * error
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
