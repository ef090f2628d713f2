import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.run import Window
from bench.workload.turns import (
    batches_for,
    carry_over,
    half_ratios,
    midmean,
    planned_rounds,
    rounds_per_set,
    schedule,
    yuen_error,
)


@given(st.integers(2, 9), st.integers(1, 40), st.text(max_size=8))
def test_schedule_is_balanced(placements, rounds, seed):
    planned = schedule(placements, rounds, seed)
    assert len(planned) >= rounds and len(planned) % rounds_per_set(placements) == 0
    first, turns = Counter(), Counter()
    for one in planned:
        assert one[placements:] == one[:placements][::-1] and sorted(one[:placements]) == list(range(placements))
        first[one[0]] += 1
        for turn, placement in enumerate(one):
            turns[placement] += turn
    assert len(set(first.values())) == 1 and len(first) == placements
    assert len(set(turns.values())) == 1


def test_schedule_depends_on_the_seed_only():
    assert schedule(3, 12, "a") == schedule(3, 12, "a")
    assert schedule(3, 12, "a") != schedule(3, 12, "b")


def test_two_placements_have_as_many_abba_as_baab():
    starts = Counter(one[0] for one in schedule(2, 16, "x"))
    assert starts == {0: 8, 1: 8}


def measured(planned, slower, drift_per_s=0.0, batches=10, pace=0.002):
    """Windows by placement: paces times `slower`, with a drift of this share a second, for as long as planned."""
    clock, windows = 0.0, [[] for _ in slower]
    for number, order in enumerate(planned):
        for turn, placement in enumerate(order):
            duration = batches * pace * slower[placement] * (1 + drift_per_s) ** clock
            windows[placement].append(Window(batches=batches, duration_s=duration, round=number, turn=turn))
            clock += batches * pace
    return windows


def test_drift_cancels_between_placements():
    base, other = measured(schedule(2, 32, "drift"), (1.0, 1 / 0.95), drift_per_s=0.02)
    value = midmean(half_ratios(base, other))
    assert value == pytest.approx(math.log(0.95), abs=1e-9)


def test_ratio_is_exact_without_drift():
    base, other, third = measured(schedule(3, 12, "x"), (1.0, 1 / 0.95, 1.0))
    assert midmean(half_ratios(base, other)) == pytest.approx(math.log(0.95), abs=1e-9)
    assert half_ratios(base, third) == pytest.approx([0.0] * 24)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=60))
def test_midmean_lies_inside_the_quartiles(values):
    ordered = sorted(values)
    cut = len(ordered) // 4
    assert ordered[cut] - 1e-12 <= midmean(values) <= ordered[-1 - cut] + 1e-12


def test_midmean_ignores_bursts():
    assert midmean([0.0] * 12 + [5.0, -9.0, 7.0, 4.0]) == pytest.approx(0.0, abs=1e-12)


def test_yuen_error_is_that_of_simulation():
    draw = random.Random(3)
    samples = [[draw.gauss(0, 1) for _ in range(32)] for _ in range(600)]
    middles = [midmean(sample) for sample in samples]
    mean = sum(middles) / len(middles)
    true = math.sqrt(sum((middle - mean) ** 2 for middle in middles) / len(middles))
    assert sum(map(yuen_error, samples)) / len(samples) == pytest.approx(true, rel=0.1)


def test_yuen_error_of_too_few_values_is_infinite():
    assert yuen_error([1.0, 2.0, 3.0]) == math.inf


def test_rounds_last_as_long_as_planned_in_whole_sets():
    assert planned_rounds(2, 3.0, 0.16) == 20
    assert planned_rounds(3, 3.0, 1.0) == 12
    assert planned_rounds(2, 3.0, 100.0) == 8


def test_batches_are_counted_at_the_fastest_pace():
    assert batches_for(0.02, 0.0001, 8) == 200
    assert batches_for(0.02, 0.1, 8) == 8


def test_carry_over_compares_windows_of_one_stay():
    def window(number, turn, batch_s):
        return Window(batches=10, duration_s=10 * batch_s, round=number, turn=turn)

    windows = [window(0, 1, 0.0021), window(0, 2, 0.0020), window(1, 0, 0.003), window(1, 3, 0.004)]
    assert carry_over(windows) == pytest.approx(math.log(21 / 20))
    assert carry_over(windows[2:]) is None
