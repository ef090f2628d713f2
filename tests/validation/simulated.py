"""Studies that were never run: noise of real runs, drift of a real afternoon, the real order, a known truth."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from bench.analysis.statistics import Comparison
from bench.records.results import NoiseClass
from bench.study.order import measuring_order

SPREADS = Path(__file__).parents[1] / "fixtures" / "runs" / "h100_between_process_spread.json"
STUDY_S = 7200.0
Shape = Callable[[np.ndarray], np.ndarray]


@cache
def real_noise() -> dict[str, tuple[np.ndarray, ...]]:
    """By noise class: the centred log throughputs of each model's processes."""
    noise: dict[NoiseClass, list[np.ndarray]] = {NoiseClass.DEVICE_BOUND: [], NoiseClass.LAUNCH_BOUND: []}
    for series in json.loads(SPREADS.read_text())["series"]:
        logs = np.log([run["median"] for run in series["runs"]])
        eager = "eager" in series["model"] and "vit0x0x0" not in series["model"]
        noise[NoiseClass.LAUNCH_BOUND if eager else NoiseClass.DEVICE_BOUND].append(logs - logs.mean())
    return {name: tuple(series) for name, series in noise.items()}


def flat(time: np.ndarray) -> np.ndarray:
    return np.zeros_like(time)


def linear(time: np.ndarray) -> np.ndarray:
    return -0.03 * time


def warm_up(time: np.ndarray) -> np.ndarray:
    """Ten minutes of time constant."""
    return -0.03 * (1 - np.exp(-time * STUDY_S / 600))


def step(time: np.ndarray, at: float = 0.4637) -> np.ndarray:
    return -0.03 * (time > at)


@dataclass(frozen=True)
class Plan:
    """A study: comparisons of both classes, and what the host does to their runs.

    kind: resampled (real runs), outliers (the same, and one run in 20 loses 3 % more on average), t3 (Student
    noise with 3 degrees of freedom) and normal, both of 0.5 % standard deviation. drift: log throughput over time 0..1.
    effects: true mean log ratio of each comparison.
    """

    rest: int = 12
    launch_bound: int = 12
    kind: str = "resampled"
    drift: Shape = flat
    effects: Sequence[float] | float = 0.0

    @property
    def size(self) -> int:
        return self.rest + self.launch_bound

    def classes(self) -> list[str]:
        return [NoiseClass.DEVICE_BOUND] * self.rest + [NoiseClass.LAUNCH_BOUND] * self.launch_bound

    def with_effects(self, effects: Sequence[float] | float) -> "Plan":
        return replace(self, effects=effects)


def simulate(plan: Plan, repeats: int, rng: np.random.Generator, seed: int = 0) -> np.ndarray:
    """Log throughputs, comparisons x (local, remote) x repeats, measured in the order of the seed."""
    logs = noise(plan, repeats, rng)
    logs += plan.drift(times(plan.size, repeats, seed))
    logs[:, 1] += np.broadcast_to(np.asarray(plan.effects, float), plan.size)[:, None]
    return logs


def noise(plan: Plan, repeats: int, rng: np.random.Generator) -> np.ndarray:
    shape = (2, repeats)
    if plan.kind == "normal":
        return rng.normal(0, 0.005, (plan.size, *shape))
    if plan.kind == "t3":
        return rng.standard_t(3, (plan.size, *shape)) * 0.005 / np.sqrt(3)
    drawn = np.stack([rng.choice(series, shape) for series in _series(plan)])
    if plan.kind == "outliers":
        drawn -= (rng.random(drawn.shape) < 0.05) * rng.exponential(0.03, drawn.shape)
    return drawn


def true_sd(plan: Plan) -> np.ndarray:
    """Standard deviation of one log ratio, by comparison."""
    if plan.kind in ("t3", "normal"):
        return np.full(plan.size, 0.005 * np.sqrt(2))
    variances = np.array([series.var() for series in _series(plan)])
    if plan.kind == "outliers":
        variances += 0.05 * 2 * 0.03**2 - (0.05 * 0.03) ** 2
    return np.sqrt(2 * variances)


def comparisons(plan: Plan, logs: np.ndarray) -> list[Comparison]:
    return [
        Comparison(f"c{i}", noise_class, *(dict(enumerate(np.exp(side).tolist(), 1)) for side in logs[i]))
        for i, noise_class in enumerate(plan.classes())
    ]


def times(size: int, repeats: int, seed: int) -> np.ndarray:
    """When each run is made, 0..1 through the study; comparisons x (local, remote) x repeats."""
    return _times(size, repeats, seed).copy()


@cache
def _times(size: int, repeats: int, seed: int) -> np.ndarray:
    cells = [(f"c{i}_{side}", f"c{i}") for i in range(size) for side in (0, 1)]
    at = np.empty((size, 2, repeats))
    for slot in measuring_order(cells, repeats, seed, traced=False):
        number, side = slot.cell.removeprefix("c").split("_")
        at[int(number), int(side), slot.block - 1] = slot.position
    return at / (2 * size * repeats - 1)


def fixed_times(size: int, repeats: int) -> np.ndarray:
    """The order that everyone writes first: node by node, cell by cell, its repeats in a row."""
    at = np.arange(2 * size * repeats).reshape(2, size, repeats).swapaxes(0, 1)
    return at / (2 * size * repeats - 1)


def _series(plan: Plan) -> list[np.ndarray]:
    seen = {NoiseClass.DEVICE_BOUND: 0, NoiseClass.LAUNCH_BOUND: 0}
    chosen = []
    for name in plan.classes():
        series = real_noise()[name]
        chosen.append(series[seen[name] % len(series)])
        seen[name] += 1
    return chosen
