"""What the statistics promise, each promise measured on simulated studies."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from bench.analysis.repeats import decide
from bench.analysis.statistics import CONFIDENCE_AFTER_LOOKS, Estimate, Measured, drift, paired
from bench.analysis.verdicts import decided
from bench.records.results import NoiseClass, Verdict
from tests.estimates import estimate_pairs
from tests.validation.simulated import Plan, comparisons, fixed_times, linear, simulate, step, times, true_sd, warm_up

SHIPPED_REPEATS = 6
CLASSES = (NoiseClass.DEVICE_BOUND, NoiseClass.LAUNCH_BOUND)
PLANS = {
    "resampled": Plan(),
    "resampled, outliers": Plan(kind="outliers"),
    "resampled, linear drift": Plan(drift=linear),
    "resampled, step": Plan(drift=step),
    "t3": Plan(kind="t3"),
    "resampled, one GPU": Plan(rest=3, launch_bound=3),
    "normal, few": Plan(rest=6, launch_bound=3, kind="normal"),
}


@dataclass(frozen=True)
class Figure:
    """One measured figure. error: its standard error over studies; ok: None where nothing was promised."""

    promise: str
    case: str
    value: float
    error: float
    goal: str
    ok: bool | None


# A part of the work that another process may do.
Task = Callable[[], Iterable[Figure]]


def false_verdicts(studies: int) -> Iterator[Figure]:
    for name, plan in PLANS.items():
        rates = per_study(plan, studies, SHIPPED_REPEATS, lambda estimates, _: differs(estimates))
        yield from by_class(plan, rates, "A/A: FASTER or SLOWER", name, at_most(0.05))


def coverage(studies: int) -> Iterator[Figure]:
    for name in ("resampled", "resampled, outliers", "t3", "resampled, one GPU", "normal, few"):
        plan = PLANS[name]
        for n in (3, 6, 10):
            covered = per_study(plan, studies, n, lambda estimates, _: covers(estimates, 0.0))
            yield from by_class(plan, covered, "95 % interval covers", f"{name}, n = {n}", hardly_below(0.93))


def widths(studies: int) -> Iterator[Figure]:
    for name in ("resampled", "resampled, outliers", "t3"):
        plan = PLANS[name]
        for n in (6, 10):
            ideal = 2 * stats.norm.ppf(0.975) * true_sd(plan) / np.sqrt(n)
            wide = per_study(plan, studies, n, lambda estimates, _: width(estimates))
            yield from by_class(
                plan, wide, "interval width / with true variance", f"{name}, n = {n}", at_most(1.3), ideal
            )


def coverage_after_looks(studies: int) -> Iterator[Figure]:
    """At targets around the half-width that six pairs give: there, stopping early is most tempting."""
    for name in ("resampled", "t3", "resampled, one GPU", "normal, few"):
        plan = PLANS[name]
        for factor in (0.7, 0.9, 1.1):
            covered = np.array([_looked(plan, factor, seed) for seed in range(studies)])
            case = f"{name}, target {factor} x half-width at 6"
            yield from by_class(plan, covered, "interval covers after the looks", case, hardly_below(0.93))


def power_at_mde(studies: int) -> Iterator[Figure]:
    """Each study states its minimum detectable effects; a second one has exactly these effects.

    Outliers that a study was spared are in no statement of it.
    """
    for name in ("resampled", "resampled, outliers", "t3"):
        plan, found = PLANS[name], []
        for seed in range(studies):
            stated = [one.mde for one in study(plan, SHIPPED_REPEATS, 2 * seed)]
            estimates = study(plan.with_effects(np.log1p(-np.array(stated))), SHIPPED_REPEATS, 2 * seed + 1)
            found.append(~covers(estimates, 0.0))
        power = at_least(0.70 if plan.kind == "outliers" else 0.80)
        yield from by_class(plan, np.array(found), "effect at the MDE found", name, power)


def same_above_margin(studies: int) -> Iterator[Figure]:
    for name in ("resampled", "resampled, outliers", "t3"):
        for effect in (0.02, 0.025):
            plan = PLANS[name].with_effects(np.log1p(-effect))
            same = per_study(plan, studies, SHIPPED_REPEATS, lambda estimates, _: verdicts(estimates) == Verdict.SAME)
            case = f"{name}, effect {100 * effect:g} %"
            yield from by_class(plan, same, "SAME above the margin", case, at_most(0.05))


def one_percent(studies: int) -> Iterator[Figure]:
    """The stated rate is that of a t test that knows the spread, at six pairs."""
    effect = float(np.log1p(-0.01))
    for name in ("resampled", "t3"):
        plan = PLANS[name].with_effects(effect)
        estimates = [study(plan, SHIPPED_REPEATS, seed) for seed in range(studies)]
        covered = np.array([covers(one, effect) for one in estimates])
        yield from by_class(plan, covered, "injected 1 %: interval covers", name, at_least(0.93))
        found = np.array([~covers(one, 0.0) for one in estimates])
        stated = np.abs(effect) / true_sd(plan) * np.sqrt(SHIPPED_REPEATS)
        z = stats.norm.ppf(0.975)
        expected = stats.norm.sf(z - stated) + stats.norm.cdf(-z - stated)
        for noise_class in CLASSES:
            members = np.array(plan.classes()) == noise_class
            rate, error = mean_and_error(found[:, members])
            case = f"{name}, {noise_class}"
            goal = f"{100 * expected[members].mean():.1f} % with the true variance"
            yield Figure("injected 1 %: interval without 0", case, rate, error, goal, None)


def drift_bias(studies: int) -> Iterator[Figure]:
    """Without noise, so that all that is left of a penalty is the drift. Bias: mean over orders."""
    size = PLANS["resampled"].size
    orders = min(studies, 200)
    for shape in (linear, warm_up, step):
        ratios = []
        for seed in range(orders):
            # A step may come at any time: in the middle of a pair it hurts most.
            moved = {"at": np.random.default_rng(seed).random()} if shape is step else {}
            level = shape(times(size, SHIPPED_REPEATS, seed), **moved)
            ratios.append((level[:, 1] - level[:, 0]).mean(axis=1))
        bias = np.abs(np.mean(ratios, axis=0)).max()
        name = f"{shape.__name__} of 3 % over 2 h"
        yield Figure("bias of a penalty by drift", name, bias, 0.0, "< 0.2 %", bool(bias < 0.002))
        typical = float(np.quantile(np.abs(ratios), 0.95))
        yield Figure("the same, 95 % of comparisons below", name, typical, 0.0, "< 0.2 %", typical < 0.002)
        yield Figure("the same, worst comparison of all", name, float(np.abs(ratios).max()), 0.0, "", None)
        level = shape(fixed_times(size, SHIPPED_REPEATS))
        fixed = float(np.abs((level[:, 1] - level[:, 0]).mean(axis=1)).mean())
        yield Figure("the same drift in fixed order", name, fixed, 0.0, "plain: > 0.2 %", fixed > 0.002)


def drift_seen(studies: int) -> Iterator[Figure]:
    """The drift that the report states, from the runs of a noisy study."""
    plan = Plan(drift=linear)
    at = times(plan.size, SHIPPED_REPEATS, 0)
    intervals = []
    for seed in range(min(studies, 200)):
        logs = simulate(plan, SHIPPED_REPEATS, np.random.default_rng(seed))
        runs = [
            Measured(str(index[:2]), plan.classes()[index[0]], at[index], float(np.exp(logs[index])))
            for index in np.ndindex(at.shape)
        ]
        intervals.append(drift(runs).interval)
    truth = float(np.expm1(linear(np.array(1.0))))
    covered = np.array([[low <= truth <= high] for low, high in intervals])
    rate, error = mean_and_error(covered)
    yield Figure("drift of the host: interval covers", "linear 3 %", rate, error, ">= 93 %", rate >= 0.93)


GOALS = (
    *(false_verdicts, power_at_mde, same_above_margin, one_percent),
    *(coverage, coverage_after_looks, widths, drift_bias, drift_seen),
)


def tasks(studies: int) -> list[Task]:
    return [partial(goal, studies) for goal in GOALS]


def study(plan: Plan, repeats: int, seed: int) -> list[Estimate]:
    logs = simulate(plan, repeats, np.random.default_rng([seed, repeats]), seed % 20)
    return estimate_pairs(comparisons(plan, logs))


def per_study(plan: Plan, studies: int, repeats: int, look: Callable[[list[Estimate], int], np.ndarray]) -> np.ndarray:
    """studies x comparisons."""
    return np.array([look(study(plan, repeats, seed), seed) for seed in range(studies)])


def by_class(
    plan: Plan,
    values: np.ndarray,
    promise: str,
    case: str,
    goal: "Goal",
    divide_by: np.ndarray | None = None,
) -> Iterator[Figure]:
    """The mean over the comparisons of each class (ratio of the means where divide_by is given)."""
    for noise_class in CLASSES:
        members = np.array(plan.classes()) == noise_class
        value, error = mean_and_error(values[:, members])
        if divide_by is not None:
            value, error = value / divide_by[members].mean(), error / divide_by[members].mean()
        yield Figure(promise, f"{case}, {noise_class}", value, error, goal.text, goal.holds(value, error))


@dataclass(frozen=True)
class Goal:
    text: str
    holds: Callable[[float, float], bool]


def at_most(limit: float) -> Goal:
    """A rate may exceed its limit by two standard errors of the simulation; a ratio may not."""
    if limit > 1:
        return Goal(f"<= {limit:g}", lambda value, _: value <= limit)
    return Goal(f"<= {100 * limit:g} % + 2 s.e.", lambda value, error: value <= limit + 2 * error)


def at_least(limit: float) -> Goal:
    return Goal(f">= {100 * limit:g} %", lambda value, _: value >= limit)


def hardly_below(limit: float) -> Goal:
    """For few trials: two standard errors less than the limit are no contradiction."""
    return Goal(f">= {100 * limit:g} % - 2 s.e.", lambda value, error: value >= limit - 2 * error)


def rate(promise: str, case: str, hits: Sequence[bool], goal: "Goal | None" = None) -> Figure:
    """A share of independent trials."""
    value = float(np.mean(hits))
    error = math.sqrt(max(value * (1 - value), 1e-9) / len(hits))
    return Figure(promise, case, value, error, goal.text if goal else "", goal.holds(value, error) if goal else None)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The comparisons of one study share variances: the study is the unit of the standard error."""
    means = np.asarray(values, float).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def verdicts(estimates: list[Estimate]) -> np.ndarray:
    return np.array([decided(one) for one in estimates], dtype=object)


def differs(estimates: list[Estimate]) -> np.ndarray:
    return np.array([decided(one) in (Verdict.SLOWER, Verdict.FASTER) for one in estimates])


def covers(estimates: list[Estimate], effect: float) -> np.ndarray:
    truth = -np.expm1(effect)
    return np.array([one.interval[0] <= truth <= one.interval[1] for one in estimates])


def width(estimates: list[Estimate]) -> np.ndarray:
    """On the log scale."""
    return np.array([np.log1p(-one.interval[0]) - np.log1p(-one.interval[1]) for one in estimates])


def _looked(plan: Plan, factor: float, seed: int) -> np.ndarray:
    """Whether the intervals cover, after the looks of the shipped rule with a target for each class."""
    logs = simulate(plan, 20, np.random.default_rng([seed, 20]), seed % 20)
    pairs = np.full(plan.size, SHIPPED_REPEATS)
    targets = factor * stats.norm.ppf(0.975) * true_sd(plan) / np.sqrt(SHIPPED_REPEATS)
    classes = np.array(plan.classes())
    while True:
        whole = comparisons(plan, logs)
        seen = [
            type(one)(
                one.label,
                one.noise_class,
                {block: one.local_runs[block] for block in range(1, n + 1)},
                {block: one.remote_runs[block] for block in range(1, n + 1)},
            )
            for one, n in zip(whole, pairs, strict=True)
        ]
        more = np.zeros(plan.size, int)
        for noise_class in CLASSES:
            members = np.flatnonzero(classes == noise_class)
            target = float(np.median(targets[members]))
            decisions = decide([paired(seen[i]) for i in members], target, max_repeats=20)
            # A comparison that stopped at an earlier look is not asked again.
            more[members] = [one.more for one in decisions]
        more[pairs < pairs.max()] = 0
        if not more.any():
            return covers(estimate_pairs(seen, CONFIDENCE_AFTER_LOOKS), 0.0)
        pairs = pairs + more
