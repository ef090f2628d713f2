"""The turns of a crossing: in which order placements are measured, and what their windows say. Pure; no clock here.

A round is an order of the placements and its mirror, as A B B A; a half is one of the two. Between two placements every
half gives one ln ratio of throughputs. They are folded robustly, because windows of 20 ms are hit by bursts.
"""

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance

from bench.records.run import Window

MIN_BATCHES, MIN_LEAD_BATCHES, MIN_ROUNDS = 4, 3, 8
# A set of rounds has each order and its reverse, up to so many placements.
MOST_WITH_REVERSES = 4
# Above this error of a ratio the rounds are repeated, to this many times the planned number at most: 6 s in all. On an
# H200 the copy pipeline and slow models have 0.05 to 0.1 % after 3 s, eager models 0.35 to 0.5 %.
LARGEST_ERROR = 0.005
MOST_EXTENSIONS = 4
# Of the values, on each side: what the midmean leaves out.
_TRIMMED = 0.25


def schedule(placements: int, rounds: int, seed: str) -> list[list[int]]:
    """Rounds of turns: each placement is first equally often, and its mean turn is that of every other.

    Sets of 2k orders (the rotations of a random order and their reverses), each followed by its mirror; all rounds of a
    set in a random order, which nothing periodic can be in step with. Of many placements each is the first of one
    order, a rotation or the reverse of one: a set of 2k would take 4 k^2 windows. rounds: rounded up to whole sets.
    seed: the same seed gives the same schedule in every process.
    """
    draw = random.Random(hashlib.sha256(seed.encode()).digest())
    planned: list[list[int]] = []
    while len(planned) < rounds:
        order = draw.sample(range(placements), placements)
        rotations = [order[shift:] + order[:shift] for shift in range(placements)]
        reverses = [rotation[::-1] for rotation in rotations]
        orders = [*rotations, *reverses]
        if placements > MOST_WITH_REVERSES:
            # The reverse of the next rotation begins as this one does.
            begins_so = zip(rotations, [*reverses[1:], reverses[0]], strict=True)
            orders = [both[shift % 2] for shift, both in enumerate(begins_so)]
        draw.shuffle(orders)
        planned += [[*one, *reversed(one)] for one in orders]
    return planned


def rounds_per_set(placements: int) -> int:
    return placements if placements > MOST_WITH_REVERSES else 2 * placements


def planned_rounds(placements: int, measure_s: float, round_s: float) -> int:
    """Whole sets that last about measure_s, and MIN_ROUNDS at least."""
    size = rounds_per_set(placements)
    wanted = max(MIN_ROUNDS, round(measure_s / round_s))
    return size * -(-wanted // size)


@dataclass(frozen=True)
class Turn:
    """What all sides with one batch size have in each turn. pace_s: seconds per batch of the fastest of them."""

    lead_batches: int
    batches: int
    pace_s: float


def turn_of(pace_s: float, window_s: float, lead_s: float) -> Turn:
    lead = batches_for(lead_s, pace_s, MIN_LEAD_BATCHES)
    return Turn(lead, batches_for(window_s, pace_s, MIN_BATCHES), pace_s)


def batches_for(seconds: float, pace_s: float, least: int) -> int:
    """As many as take `seconds` at this pace."""
    return max(least, math.ceil(seconds / max(pace_s, 1e-9)))


def half_ratios(base: Sequence[Window], other: Sequence[Window]) -> list[float]:
    """ln(batches per second of other / base) of each half in which both were measured."""
    if not base:
        return []
    # Every side is the last one of some round.
    sides = (1 + max(window.turn or 0 for window in base)) // 2
    paces = [_by_half(windows, sides) for windows in (base, other)]
    return [math.log(paces[0][half] / paces[1][half]) for half in sorted(paces[0].keys() & paces[1].keys())]


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half; the values at its ends count in part. ValueError without values."""
    if not values:
        raise ValueError("midmean of no values")
    ordered, quarter = sorted(values), _TRIMMED * len(values)
    weights = [max(0.0, min(index + 1, len(ordered) - quarter) - max(index, quarter)) for index in range(len(ordered))]
    return sum(weight * value for weight, value in zip(weights, ordered, strict=True)) / sum(weights)


def yuen_error(values: Sequence[float]) -> float:
    """Standard error of the midmean: the winsorised standard deviation / ((1 - 2 x 0.25) sqrt(n)) (Yuen 1974).

    inf for fewer than four values: none of their differences would be left.
    """
    if len(values) < 4:
        return math.inf
    ordered, cut = sorted(values), int(_TRIMMED * len(values))
    low, high = ordered[cut], ordered[-1 - cut]
    winsorised = [min(max(value, low), high) for value in ordered]
    return math.sqrt(variance(winsorised)) / ((1 - 2 * _TRIMMED) * math.sqrt(len(values)))


def carry_over(windows: Sequence[Window]) -> float | None:
    """Median ln(throughput of the second / first window of a stay): how far the lead-in is too short.

    A stay of two windows is the middle of a round, A B B A. None without one.
    """
    by_round: dict[int, list[Window]] = defaultdict(list)
    for window in windows:
        by_round[window.round or 0].append(window)
    stays = [sorted(own, key=lambda window: window.turn or 0) for own in by_round.values() if len(own) == 2]
    changes = [
        math.log(first.batch_s / second.batch_s)
        for first, second in stays
        if (second.turn or 0) == (first.turn or 0) + 1
    ]
    return median(changes) if changes else None


def _by_half(windows: Sequence[Window], sides: int) -> dict[tuple[int, bool], float]:
    """Seconds per batch by round and half."""
    found: dict[tuple[int, bool], list[float]] = defaultdict(list)
    for window in windows:
        found[window.round or 0, (window.turn or 0) >= sides].append(window.batch_s)
    return {half: fmean(paces) for half, paces in found.items()}
