"""Two groups of CPUs in a list of latencies: is a host that reports one node hiding two?

All functions are pure. A scan is latency_us by CPU. Simulated (3,000 pairs of scans each, 16 to 128 CPUs): false
alarms 0 for normal, heavy-tailed and skewed latencies, at most 0.63 % for uniform ones; power at 9.1 and 11.2 us
at least 99.8 % on 64 and 128 CPUs with a noise of 2 to 4 %, 98 % on 16 CPUs with 2 %, 78 % with 3 %.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import comb, log

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bench.records.host import Distance, GroupEvidence, HiddenNodes

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

P_VALUE = 0.005
SMALLER_SHARE = 0.20
GAP = 0.05
GAP_IN_MADS = 3.0
CENTRES_WITHIN = 0.03
HOLD_AT = 0.9
MIN_CPUS = 8
"""Below this many CPUs the dip of two tight groups is no rarer than 1 % among uniform samples."""


@dataclass(frozen=True)
class Groups:
    """Two groups of one scan. centres_us: medians, fast group first; fast, slow: CPUs."""

    fast: tuple[int, ...]
    slow: tuple[int, ...]
    centres_us: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Of two scans. groups: of the first scan, None unless state is FOUND; holds: CPUs stay in their group."""

    state: HiddenNodes
    evidence: GroupEvidence
    groups: Groups | None = None
    rand_index: float | None = None

    @property
    def holds(self) -> bool | None:
        return None if self.rand_index is None else self.rand_index >= HOLD_AT


def compare_scans(first: Mapping[int, float], second: Mapping[int, float], tick_us: float = 0.0) -> Comparison:
    """Report two groups only if both scans show them at the same latencies; then see whether they hold.

    The dip tests of the two scans are combined by Fisher's method: on 16 CPUs one scan alone sees too little.
    tick_us: the clock's resolution, spread by jitter so that ties do not dip.
    """
    cpus = sorted(set(first) & set(second))
    evidence = GroupEvidence(cpus=len(cpus))
    if len(cpus) < MIN_CPUS:
        return Comparison(HiddenNodes.TOO_FEW_CPUS, evidence)
    logs = [_log_latencies([scan[cpu] for cpu in cpus], tick_us, seed) for seed, scan in enumerate((first, second))]
    p_value = fisher(*(dip_p_value(dip(values), len(cpus)) for values in logs))
    evidence = replace(evidence, p_value=p_value)
    if p_value >= P_VALUE:
        return Comparison(HiddenNodes.ONE_GROUP, evidence)
    found = []
    for number, values in enumerate(logs, 1):
        groups = find_groups(cpus, values, replace(evidence, scan=number))
        if isinstance(groups, Comparison):
            return groups
        found.append(groups)
    one, two = found
    shift = max(abs(a / b - 1) for a, b in zip(one.centres_us, two.centres_us, strict=True))
    if shift > CENTRES_WITHIN:
        return Comparison(HiddenNodes.UNSTABLE_LATENCIES, replace(evidence, shift=shift))
    return Comparison(HiddenNodes.FOUND, evidence, one, agreement(one, two))


def _log_latencies(latencies_us: Sequence[float], tick_us: float, seed: int) -> Floats:
    jitter = np.random.default_rng(seed).uniform(-tick_us / 2, tick_us / 2, len(latencies_us))
    return np.log(np.asarray(latencies_us) + jitter)


def fisher(first: float, second: float) -> float:
    """The chance of two independent p-values with a product as small as theirs (Fisher's method, in closed form)."""
    product = first * second
    return product * (1 - log(product)) if product > 0 else 0.0


def find_groups(cpus: Sequence[int], logs: Floats, evidence: GroupEvidence) -> Groups | Comparison:
    """Split one scan (log latencies by CPU) into two groups, if they can be two nodes; else why they cannot."""
    numbers = np.asarray(cpus)
    slow = split(logs)
    share = float(min(slow.mean(), 1 - slow.mean()))
    if share < SMALLER_SHARE:
        return Comparison(HiddenNodes.SMALL_GROUP, replace(evidence, smaller_share=share))
    centres = [float(np.median(logs[group])) for group in (~slow, slow)]
    gap = centres[1] - centres[0]
    within = np.concatenate([np.abs(logs[~slow] - centres[0]), np.abs(logs[slow] - centres[1])])
    needed = max(float(np.log1p(GAP)), GAP_IN_MADS * float(np.median(within)))
    if gap < needed:
        gaps = {"gap": float(np.expm1(gap)), "gap_needed": float(np.expm1(needed))}
        return Comparison(HiddenNodes.CLOSE_GROUPS, replace(evidence, **gaps))
    fast_cpus, slow_cpus = (tuple(int(cpu) for cpu in numbers[group]) for group in (~slow, slow))
    return Groups(fast_cpus, slow_cpus, (float(np.exp(centres[0])), float(np.exp(centres[1]))))


def split(values: Floats) -> Mask:
    """Mask of the upper group of the split into two with the least squares within the groups."""
    order = np.sort(values)
    below = np.arange(1, len(order))
    sums = np.cumsum(order)
    low, high = sums[:-1], sums[-1] - sums[:-1]
    # The sum of squares between groups; largest where that within them is least.
    between = low**2 / below + high**2 / (len(order) - below)
    above: Mask = values > order[int(np.argmax(between))]
    return above


def dip(values: Floats) -> float:
    """Hartigan's dip: the largest distance between the sample's distribution and the nearest unimodal one.

    J. A. Hartigan, P. M. Hartigan, The Dip Test of Unimodality, Ann. Statist. 13 (1985) 70-84, with the algorithm
    of P. M. Hartigan, AS 217, Appl. Statist. 34 (1985): narrow the modal interval to where minorant and
    majorant of the distribution are widest apart, until what remains outside departs more than they do.
    """
    x = np.sort(np.asarray(values, dtype=float)).tolist()
    low, high, found = 0, len(x) - 1, 1.0
    while x[low] < x[high]:
        minorant, majorant = _hull(x, low, high, 1), _hull(x, low, high, -1)
        distance, start, end = _widest(x, minorant, majorant)
        if distance < found:
            break
        outside = [corner for corner in minorant if corner <= start]
        beyond = [corner for corner in majorant if corner >= end]
        found = max(found, _departure(x, outside, 1), _departure(x, beyond, -1))
        if (start, end) == (low, high):
            break
        low, high = start, end
    return found / (2 * len(x))


def _hull(x: list[float], low: int, high: int, sign: int) -> list[int]:
    """Corners of the greatest convex minorant (1) or least concave majorant (-1) of (x[i], i), low to high."""
    corners: list[int] = []
    for i in range(low, high + 1):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if sign * ((b - a) * (x[i] - x[b]) - (i - b) * (x[b] - x[a])) < 0:
                break
            corners.pop()
        corners.append(i)
    return corners


def _widest(x: list[float], minorant: list[int], majorant: list[int]) -> tuple[float, int, int]:
    """The widest gap between the two, in steps of the distribution, and the modal interval that it gives."""
    best, start, end = 0.0, minorant[0], majorant[-1]
    for corner in majorant:
        a, b = _segment(minorant, corner)
        gap = corner + 1 - _line(x, a, b, corner)
        if gap > best:
            best, start, end = gap, a, corner
    for corner in minorant:
        a, b = _segment(majorant, corner)
        gap = _line(x, a, b, corner) + 1 - corner
        if gap > best:
            best, start, end = gap, corner, b
    return best, min(start, end), max(start, end)


def _departure(x: list[float], corners: list[int], sign: int) -> float:
    """How far the distribution departs from its minorant (1) or majorant (-1) between corners; at least a step."""
    most = 1.0
    for a, b in pairwise(corners):
        if x[b] > x[a]:
            most = max(most, *(sign * (i - _line(x, a, b, i)) + 1 for i in range(a, b + 1)))
    return most


def _segment(corners: list[int], point: int) -> tuple[int, int]:
    place = max(bisect_left(corners, point), 1)
    return corners[place - 1], corners[place]


def _line(x: list[float], a: int, b: int, point: int) -> float:
    return a + (b - a) * (x[point] - x[a]) / (x[b] - x[a]) if x[b] > x[a] else float(b)


def dip_p_value(statistic: float, count: int) -> float:
    """The share of uniform samples of this size with at least this dip, the uniform being the hardest unimodal.

    Never 0: the sample itself counts as one of them.
    """
    reached = int(np.count_nonzero(_uniform_dips(count) >= statistic))
    return (reached + 1) / (len(_uniform_dips(count)) + 1)


@lru_cache
def _uniform_dips(count: int, samples: int = 2000) -> Floats:
    random = np.random.default_rng(20251130)
    return np.array([dip(random.random(count)) for _ in range(samples)])


def agreement(one: Groups, two: Groups) -> float:
    """The adjusted Rand index of two scans' groups: 1 the same CPUs together, 0 as by chance."""
    cpus = [cpu for cpu in (*one.fast, *one.slow) if cpu in {*two.fast, *two.slow}]
    return adjusted_rand_index([cpu in one.slow for cpu in cpus], [cpu in two.slow for cpu in cpus])


def adjusted_rand_index(first: Sequence[object], second: Sequence[object]) -> float:
    """L. Hubert, P. Arabie, Comparing partitions, J. Classif. 2 (1985) 193-218."""
    both = Counter(zip(first, second, strict=True))
    together = sum(comb(count, 2) for count in both.values())
    each = [sum(comb(count, 2) for count in Counter(labels).values()) for labels in (first, second)]
    pairs = comb(len(first), 2)
    expected = each[0] * each[1] / pairs if pairs else 0.0
    most = sum(each) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def distance_of(first: Groups, other_context: Groups) -> Distance:
    """Whether the latencies follow the distance to the GPU or that to the driver's memory.

    other_context: the groups once more, with the CUDA context created on a CPU of first.slow. Memory that the
    driver allocates is then near that group: if it is the fast one now, the latency follows that memory.
    """
    if agreement(first, other_context) < HOLD_AT:
        return Distance.GROUPS_CHANGED
    same_are_fast = len({*first.fast} & {*other_context.fast}) > len({*first.fast} & {*other_context.slow})
    return Distance.GPU if same_are_fast else Distance.DRIVER_MEMORY
