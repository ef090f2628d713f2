"""The uncertainty of one cell's throughput."""

import math
import statistics
from collections.abc import Sequence


def interval_of(rates: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student interval of the geometric mean of at least two independent runs (same unit as the rates)."""
    from scipy.special import stdtrit

    logs = [math.log(rate) for rate in rates]
    mean = statistics.fmean(logs)
    half = stdtrit(len(logs) - 1, (1 + confidence) / 2) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean - half), math.exp(mean + half)
