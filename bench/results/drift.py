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
    """Least squares over all cells with a level for each cell, weighted by the cell's own variance.

    Weights come from the median absolute deviation of a cell, so that one outlier does not silence a quiet
    cell, and have a floor, so that a lucky cell does not outvote the rest. None below three repeats.
    """
    centred, times, weights, cells = [], [], [], 0
    for cell in dict.fromkeys(run.cell for run in runs):
        own = [run for run in runs if run.cell == cell]
        if len(own) < 3:
            continue
        cells += 1
        logs = np.log([run.throughput_samples_s for run in own])
        at = np.array([run.time for run in own], dtype=float)
        spread = max(float(stats.median_abs_deviation(logs, scale="normal")), 5e-4)
        centred.append(logs - logs.mean())
        times.append(at)
        weights.append(np.full(len(own), spread**-2.0))
    if not cells:
        return None
    y, w, at = map(np.concatenate, (centred, weights, times))
    span = at.max() - at.min()
    x = np.concatenate([time - time.mean() for time in times]) / span if span else at * 0
    df = len(y) - cells - 1
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
