"""How the host drifted while a study ran. Pairs remove it from the penalties; the report states it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bench.results.statistics import CONFIDENCE


@dataclass(frozen=True)
class Run:
    """time: anything that grows through the study, its start in seconds or its position."""

    cell: str
    noise_class: str
    time: float
    throughput_samples_s: float


@dataclass(frozen=True)
class Drift:
    """change: relative change of throughput from the first run to the last, as a straight line.

    swing: highest less lowest fifth of the study (by time), which sees a step or a warm-up too. Both are
    fractions; None where too little was repeated.
    """

    change: float
    interval: tuple[float, float]
    swing: float
    runs: int


def drift(runs: Sequence[Run], confidence: float = CONFIDENCE) -> Drift | None:
    """Least squares over all cells with a level for each cell, weighted by the median variance of its class.

    A cell's own variance would give most weight to those that chance made quiet, and an interval that is too
    narrow. None below three repeats of any cell.
    """
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    kept = [own for own in cells.values() if len(own) >= 3]
    if not kept:
        return None
    centred = [_centred([float(np.log(run.throughput_samples_s)) for run in own]) for own in kept]
    classes = [own[0].noise_class for own in kept]
    quiet = {
        name: np.median([y.var(ddof=1) for y, known in zip(centred, classes, strict=True) if known == name])
        for name in classes
    }
    weights = [np.full(len(y), 1 / max(quiet[name], 1e-8)) for y, name in zip(centred, classes, strict=True)]
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
        swing=float(np.expm1(max(levels) - min(levels))),
        runs=len(y),
    )


def _centred(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return array - array.mean()
