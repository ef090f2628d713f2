import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.analysis.statistics import (
    Comparison,
    Measured,
    Sample,
    drift,
    estimate,
    holm,
    interval_of,
    log_ratios,
    paired,
    repeats_to_decide,
    unpaired,
)
from bench.errors import StudyError
from bench.records.results import NoiseClass
from tests.estimates import estimate_pairs

REST, LAUNCH = NoiseClass.DEVICE_BOUND, NoiseClass.LAUNCH_BOUND

rates = st.floats(1.0, 1e6)
runs = st.dictionaries(st.integers(1, 30), rates, min_size=2, max_size=12)


def made(label="c", noise_class=REST, n=6, effect=0.0, sd=0.003, seed=0) -> Comparison:
    rng = np.random.default_rng(seed)
    sides = [1000 * np.exp(shift + rng.normal(0, sd, n)) for shift in (0.0, effect)]
    return Comparison(label, noise_class, *(dict(enumerate(side, 1)) for side in sides))


def of_class(noise_class, count=8, **settings):
    return [made(f"{noise_class}{i}", noise_class, seed=100 + i, **settings) for i in range(count)]


def test_ratios_are_of_common_blocks_in_their_order():
    ratios = log_ratios({3: 10.0, 1: 10.0, 2: 7.0}, {1: 20.0, 3: 5.0, 4: 9.0})
    assert ratios == pytest.approx([np.log(2), -np.log(2)])


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_throughput_that_is_not_positive_is_refused(bad):
    with pytest.raises(StudyError, match="not a positive number"):
        log_ratios({1: 10.0}, {1: bad})


def test_no_common_block_is_refused():
    with pytest.raises(StudyError, match="no block has both"):
        paired(Comparison("c", REST, {1: 1.0}, {2: 1.0}))


@given(runs, runs)
def test_a_single_comparison_is_scipys_paired_t_test(local, remote):
    blocks = sorted(local.keys() & remote.keys())
    logs = [np.log([side[block] for block in blocks]) for side in (remote, local)]
    if len(blocks) < 2 or np.std(logs[0] - logs[1]) < 1e-3:
        return
    (found,) = estimate_pairs([Comparison("c", REST, local, remote)])
    oracle = stats.ttest_rel(*logs)
    low, high = oracle.confidence_interval(0.95)
    assert found.p_difference == pytest.approx(oracle.pvalue, rel=1e-6)
    assert found.interval == pytest.approx((1 - np.exp(high), 1 - np.exp(low)), rel=1e-6, abs=1e-9)
    assert found.penalty == pytest.approx(1 - np.exp(np.mean(logs[0] - logs[1])), rel=1e-6, abs=1e-9)


@given(st.lists(rates, min_size=2, max_size=9), st.lists(rates, min_size=2, max_size=9))
def test_two_independent_groups_are_scipys_welch_test(base, new):
    if min(np.std(np.log(base)), np.std(np.log(new))) < 1e-3:
        return
    (found,) = estimate([unpaired("c", REST, base, new)])
    oracle = stats.ttest_ind(np.log(new), np.log(base), equal_var=False)
    smaller, larger = sorted((base, new), key=len)
    if len(smaller) == len(larger) or stats.sem(np.log(smaller)) <= stats.sem(np.log(larger)):
        assert found.p_difference == pytest.approx(oracle.pvalue, rel=1e-6)
    else:
        assert found.p_difference >= oracle.pvalue * (1 - 1e-6)
        assert found.df <= len(smaller) - 1
    assert found.mean_log == pytest.approx(np.mean(np.log(new)) - np.mean(np.log(base)), abs=1e-9)


def test_same_is_two_one_sided_tests_against_the_margin():
    one = made(effect=-0.012, n=5)
    ratios = log_ratios(one.local_runs, one.remote_runs)
    (found,) = estimate_pairs([one], margin=0.03)
    above = stats.ttest_1samp(ratios, np.log(0.97), alternative="greater").pvalue
    below = stats.ttest_1samp(ratios, np.log(1.03), alternative="less").pvalue
    assert found.p_same == pytest.approx(max(above, below))


@given(st.integers(0, 10_000))
def test_swapping_the_sides_turns_the_effect_around(seed):
    several = [made(str(i), seed=seed + i, effect=0.01 * i) for i in range(7)]
    swapped = [Comparison(c.label, c.noise_class, c.remote_runs, c.local_runs) for c in several]
    for there, back in zip(estimate_pairs(several), estimate_pairs(swapped), strict=True):
        assert there.mean_log == pytest.approx(-back.mean_log)
        assert there.p_difference == pytest.approx(back.p_difference)
        assert 1 - there.interval[0] == pytest.approx(1 / (1 - back.interval[1]))


@given(st.permutations(range(9)))
def test_the_order_of_the_comparisons_does_not_matter(order):
    several = [made(str(i), REST if i < 7 else LAUNCH, seed=i) for i in range(9)]
    straight = estimate_pairs(several)
    shuffled = estimate_pairs([several[i] for i in order])
    for place, i in enumerate(order):
        assert shuffled[place].label == straight[i].label
        assert shuffled[place].interval == pytest.approx(straight[i].interval)


@given(st.integers(0, 5000))
def test_no_comparison_borrows_the_spread_of_others(seed):
    several = [made(str(i), seed=seed * 10 + i, sd=0.001 * 3**i) for i in range(8)]
    assert [estimate_pairs([one])[0] for one in several] == estimate_pairs(several)


def test_a_single_pair_has_no_interval():
    alone = estimate_pairs([made("lone", n=1), *of_class(REST)])[0]
    assert (alone.interval, alone.p_difference, alone.p_same, alone.sd, alone.mde) == (None,) * 5


def test_equal_runs_do_not_divide_by_zero():
    equal = Comparison("c", REST, dict.fromkeys(range(6), 5.0), dict.fromkeys(range(6), 5.0))
    for count in (1, 8):
        found = estimate_pairs([equal] * count)[0]
        assert found.penalty == 0
        assert found.p_difference == 1
        assert 0 < found.interval[1] < 1e-4


def test_the_stated_minimum_effect_has_the_power_it_claims():
    """By the noncentral t distribution: with the spread at its estimate power is above 0.8, as the bound is upper."""
    for found in estimate_pairs(of_class(REST, 3)):
        noncentral = -np.log1p(-found.mde) / (found.sd * np.sqrt(found.scale))
        edge = stats.t.ppf(0.975, found.df)
        assert 0.8 < stats.nct.sf(edge, found.df, noncentral) < 0.999


def test_repeats_that_would_decide_are_planned_for_the_margin():
    """By the normal distribution, at the upper bound of the spread; the effect found does not count."""
    plans = [estimate([Sample("c", REST, effect, 0.1**2, 5, 1 / 6, 6)])[0] for effect in (0.0, -0.013, -0.3)]
    (many,) = {repeats_to_decide(one) for one in plans}
    error = 0.1 * np.sqrt(5 / stats.chi2.ppf(0.1, 5)) / np.sqrt(many)
    assert (stats.norm.ppf(0.95) + stats.norm.ppf(0.9)) * error == pytest.approx(-np.log(0.98), rel=0.02)


def test_an_effect_in_between_takes_more_repeats_than_the_plan():
    between, near = (estimate([Sample("c", REST, effect, 0.001**2, 5, 1 / 6, 6)])[0] for effect in (-0.01, -0.002))
    assert repeats_to_decide(near) < repeats_to_decide(between)


def test_repeats_are_not_planned_without_a_spread():
    assert repeats_to_decide(estimate([Sample("c", REST, 0.1, float("nan"), 0, 1.0, 1)])[0]) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_its_definition(p):
    adjusted = holm(p)
    ranked = sorted(p)
    for value, found in zip(p, adjusted, strict=True):
        rank = max(i for i, other in enumerate(ranked) if other == value)
        steps = [min(1.0, (len(p) - i) * ranked[i]) for i in range(rank + 1)]
        assert found == pytest.approx(max(steps))


@pytest.mark.parametrize(("margin", "confidence"), [(0, 0.95), (1.0, 0.95), (0.02, 1.0)])
def test_invalid_margins_and_confidences_are_refused(margin, confidence):
    with pytest.raises(StudyError, match="margin"):
        estimate([], confidence, margin)


@pytest.mark.parametrize("new", [[1e300, 1e-300], [1e300, 1e300], [1e-300, 1e-300]])
def test_extreme_throughputs_give_finite_numbers(new):
    (found,) = estimate([unpaired("c", REST, [1e-300, 1.0], new)])
    assert np.isfinite([found.penalty, *found.interval, found.mean_log]).all()
    assert np.expm1(found.mean_log) > -1


# One cell


def test_interval_agrees_with_scipy_on_the_logarithms():
    rates = [100.0, 103.0, 98.0, 101.5]
    logs = [math.log(rate) for rate in rates]
    low, high = stats.t.interval(0.95, 3, sum(logs) / 4, stats.sem(logs))
    assert interval_of(rates) == pytest.approx((math.exp(low), math.exp(high)))


def test_equal_runs_have_an_interval_without_width():
    assert interval_of([5.0, 5.0]) == pytest.approx((5.0, 5.0))


# Drift


def drifting(change, noise=0.0, cells=6, repeats=6, seed=0):
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(repeats):
        for cell in rng.permutation(cells):
            time = len(runs) / (cells * repeats - 1)
            level = (cell + 1) * 1000 * np.exp(change(time) + rng.normal(0, noise))
            runs.append(Measured(f"c{cell}", REST, 7200 * time, float(level)))
    return runs


def test_a_straight_line_is_found_exactly():
    found = drift(drifting(lambda time: np.log(0.97) * time))
    assert found.change == pytest.approx(-0.03, abs=1e-12)
    assert found.interval == pytest.approx((-0.03, -0.03), abs=1e-9)


def test_no_drift_is_no_drift():
    found = drift(drifting(lambda time: 0.0, noise=0.002))
    assert found.interval[0] < 0 < found.interval[1]
    assert abs(found.change) < 0.004


def test_a_passing_change_shows_in_the_range_only():
    found = drift(drifting(lambda time: -0.05 * (0.4 < time < 0.6), noise=0.0005))
    assert abs(found.change) < 0.01
    assert 0.03 < found.range < 0.06


def test_noisy_cells_do_not_hide_the_drift_of_quiet_ones():
    loud = [
        Measured(f"loud {run.cell}", LAUNCH, run.time, run.throughput_samples_s)
        for run in drifting(lambda time: 0.0, noise=0.2, seed=1)
    ]
    quiet = drifting(lambda time: np.log(1.01) * time, noise=0.001)
    assert drift([*loud, *quiet]).change == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize("runs", [[], [Measured("a", REST, 0, 1.0)] * 2, [Measured("a", REST, 5, 1.0)] * 4])
def test_without_three_repeats_there_is_no_drift(runs):
    assert drift(runs) is None
