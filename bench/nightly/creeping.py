"""A loss that comes little by little: the nights against a fixed reference, where a rolling median would follow it.

One-sided cumulative sum (Page, Biometrika 41 (1954) 100) over the nights since a named date. A night counts at most
MOST_OF_A_NIGHT units, so that no single night raises an alarm, however slow it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from bench.analysis.statistics import MARGIN

REFERENCE_NIGHTS = 28
# A unit is so much of the reference's spread, and at least half of the margin below which a change is SAME: nights that
# resemble their predecessors (autocorrelated by 0.5) add up to sums 1.7 times as high as independent ones.
UNIT_SPREADS = 1.5
LEAST_UNIT = 0.01
# Of each night this many units are expected; the sum of what is lost beyond that is an alarm from LIMIT on.
SLACK = 1.0
LIMIT = 10.0
MOST_OF_A_NIGHT = 4.0
# Above LIMIT, so that the alarm ends some nights after the loss did.
MOST = 12.0
# The nights that the loss is stated over.
RECENT_NIGHTS = 10


@dataclass(frozen=True)
class Creeping:
    """effect: the recent nights / the reference - 1, their medians; negative is slower.

    alarm: the sum is too large, and the effect beyond the margin below which a change is SAME.
    """

    effect: float
    alarm: bool


def creeping(samples_s: Sequence[float]) -> Creeping | None:
    """The last of these nights against the first REFERENCE_NIGHTS of them; None up to there.

    samples_s: one value for each night, oldest first, those that were slower included.
    """
    if len(samples_s) <= REFERENCE_NIGHTS:
        return None
    logs = np.log(samples_s)
    reference, since = logs[:REFERENCE_NIGHTS], logs[REFERENCE_NIGHTS:]
    level = median(reference.tolist())
    unit = max(UNIT_SPREADS * float(np.std(reference, ddof=1)), LEAST_UNIT)
    total = 0.0
    for lost in np.clip((level - since) / unit, -MOST_OF_A_NIGHT, MOST_OF_A_NIGHT).tolist():
        total = min(max(total + lost - SLACK, 0.0), MOST)
    effect = math.expm1(median(logs[-RECENT_NIGHTS:].tolist()) - level)
    return Creeping(effect, total >= LIMIT and effect <= -MARGIN)
