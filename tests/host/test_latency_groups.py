"""Two groups of CPUs: the parts against oracles, the whole by simulated false alarms and power."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linprog

from bench.host.latency_groups import (
    Groups,
    adjusted_rand_index,
    compare_scans,
    dip,
    dip_p_value,
    distance_of,
    fisher,
    split,
)
from bench.records.host import Distance, HiddenNodes


def dip_by_linear_programs(values: np.ndarray) -> float:
    """For each place of the mode, the unimodal distribution nearest to the sample's; no algorithm in common."""
    x = np.sort(values)
    n = len(x)
    best = 1.0
    for mode in range(n):
        left, right = mode + 1, n - mode  # values before the mode's jump, values after it
        rows, limits = [], []

        def constrain(terms: dict[int, float], limit: float, width: int = left + right + 1) -> None:
            row = np.zeros(width)
            for column, factor in terms.items():
                row[column] = factor
            rows.append(row)  # noqa: B023
            limits.append(limit)  # noqa: B023

        for i in range(left):
            constrain({i: 1, -1: -1}, i / n)
            constrain({i: -1, -1: -1}, -(i if i == mode else i + 1) / n)
        for j in range(right):
            i = mode + j
            constrain({left + j: 1, -1: -1}, (i + 1 if j == 0 else i) / n)
            constrain({left + j: -1, -1: -1}, -(i + 1) / n)
        for k in range(left + right - 1):
            constrain({k: 1, k + 1: -1}, 0)
        for first, count, sign, offset in ((0, left, 1, 0), (left, right, -1, mode)):
            for k in range(1, count - 1):
                before, after = x[offset + k] - x[offset + k - 1], x[offset + k + 1] - x[offset + k]
                terms = {k: 1 / before + 1 / after, k - 1: -1 / before, k + 1: -1 / after}
                constrain({first + place: sign * factor for place, factor in terms.items()}, 0)
        cost = np.zeros(left + right + 1)
        cost[-1] = 1
        free = [(None, None)] * (left + right) + [(0, None)]
        best = min(best, linprog(cost, A_ub=np.array(rows), b_ub=limits, bounds=free).fun)
    return max(best, 1 / (2 * n))


@pytest.mark.parametrize("seed", range(12))
def test_dip_equals_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(4, 13))
    values = random.random(count) if seed % 2 else np.r_[random.normal(0, 1, count // 2), random.normal(6, 1, 5)]
    assert dip(values) == pytest.approx(dip_by_linear_programs(values), abs=1e-9)


def test_dip_of_equal_values_is_a_step() -> None:
    assert dip(np.full(10, 3.0)) == 0.05


def test_p_values_match_the_published_table() -> None:
    """n = 50: 5 % beyond 0.0702737, 1 % beyond 0.0808 (Hartigan and Hartigan's table, recomputed by diptest)."""
    assert dip_p_value(0.0703, 50) == pytest.approx(0.05, abs=0.015)
    assert dip_p_value(0.0808, 50) == pytest.approx(0.01, abs=0.007)


def test_fishers_method_equals_scipys() -> None:
    assert fisher(0.03, 0.2) == pytest.approx(stats.combine_pvalues([0.03, 0.2]).pvalue)


def test_split_is_the_best_of_all_splits() -> None:
    values = np.random.default_rng(5).normal(0, 1, 30)
    order = np.sort(values)
    costs = [np.var(order[:k]) * k + np.var(order[k:]) * (30 - k) for k in range(1, 30)]
    assert (~split(values)).sum() == int(np.argmin(costs)) + 1


def test_rand_index_of_known_partitions() -> None:
    assert adjusted_rand_index([0, 0, 1, 1], [1, 1, 0, 0]) == 1.0
    assert adjusted_rand_index([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)
    # Hubert and Arabie's contingency table as in the scikit-learn manual.
    assert adjusted_rand_index([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]) == pytest.approx(0.2424, abs=1e-4)


def two_groups(random: np.random.Generator, members: np.ndarray, noise: float) -> dict[int, float]:
    centres = np.where(members, 11.2, 9.1)
    return dict(enumerate(centres * np.exp(random.normal(0, noise, len(members)))))


def test_two_groups_are_recognised_and_whether_they_hold() -> None:
    """H200 x 4: 9.1 us on half of 64 CPUs, 11.2 us on the others; a second scan puts 53 of 64 in the same group."""
    random = np.random.default_rng(1)
    members = np.arange(64) % 2 == 1
    moved = members.copy()
    moved[random.choice(64, 11, replace=False)] ^= True
    same = compare_scans(two_groups(random, members, 0.01), two_groups(random, members, 0.01))
    assert same.groups is not None and same.holds
    assert same.groups.slow == tuple(range(1, 64, 2)) and same.groups.centres_us == pytest.approx((9.1, 11.2), rel=0.01)
    later = compare_scans(two_groups(random, members, 0.01), two_groups(random, moved, 0.01))
    assert later.groups is not None and later.holds is False and later.rand_index < 0.5


def test_ties_of_a_coarse_clock_are_not_groups() -> None:
    scan = {cpu: 9.0 + 0.5 * (cpu % 2) for cpu in range(64)}
    assert compare_scans(scan, scan).groups is not None
    smeared = compare_scans(scan, scan, tick_us=0.5)
    assert smeared.state is HiddenNodes.ONE_GROUP and smeared.groups is None


def test_few_slow_cpus_are_not_a_node() -> None:
    scan = {cpu: (11.2 if cpu < 8 else 9.1) + 0.01 * (cpu % 7) for cpu in range(64)}
    assert compare_scans(scan, scan).groups is None
    more = {cpu: (11.2 if cpu < 12 else 9.1) + 0.0001 * (cpu % 7) for cpu in range(64)}
    found = compare_scans(more, more)
    assert found.state is HiddenNodes.SMALL_GROUP and found.groups is None
    assert found.evidence.scan == 1 and found.evidence.smaller_share == 12 / 64


def test_groups_need_enough_cpus() -> None:
    found = compare_scans(dict.fromkeys(range(7), 9.1), dict.fromkeys(range(8), 9.1))
    assert found.state is HiddenNodes.TOO_FEW_CPUS and found.evidence.cpus == 7


def test_groups_must_be_far_enough_apart() -> None:
    scan = {cpu: (9.3 if cpu % 2 else 9.1) + 0.0001 * (cpu % 7) for cpu in range(64)}
    found = compare_scans(scan, scan)
    assert found.state is HiddenNodes.CLOSE_GROUPS and found.evidence.gap < 0.05 <= found.evidence.gap_needed


def test_groups_must_keep_their_latencies() -> None:
    first = {cpu: 9.1 if cpu % 2 else 11.2 for cpu in range(64)}
    found = compare_scans(first, {cpu: 1.1 * latency for cpu, latency in first.items()})
    assert found.state is HiddenNodes.UNSTABLE_LATENCIES and found.evidence.shift == pytest.approx(1 - 1 / 1.1)


UNIMODAL: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda random, n: random.normal(0, 0.03, n),
    "heavy tails": lambda random, n: 0.03 * random.standard_t(3, n),
    "uniform": lambda random, n: random.uniform(-0.1, 0.1, n),
    "skewed": lambda random, n: 0.05 * random.gamma(2, 1, n),
}


def test_groups_of_a_real_machine_with_16_cpus() -> None:
    """Two scans of an H200 machine with 16 virtual CPUs, 10 ms a CPU: 6.5 and 7.4 us, and some CPUs moved."""
    first = {9: 6.49, 14: 6.49, 0: 6.5, 10: 6.5, 1: 6.51, 8: 6.52, 12: 6.63, 11: 7.06, 4: 7.13, 7: 7.25, 13: 7.3,
             2: 7.34, 5: 7.37, 6: 7.41, 3: 7.52, 15: 7.6}  # fmt: skip
    second = {1: 6.5, 9: 6.51, 12: 6.53, 10: 6.54, 11: 6.55, 8: 6.62, 4: 6.89, 14: 7.01, 13: 7.32, 7: 7.35, 0: 7.4,
              6: 7.44, 2: 7.49, 5: 7.51, 15: 7.52, 3: 7.6}  # fmt: skip
    verdict = compare_scans(first, second)
    assert verdict.groups is not None and verdict.groups.fast == (0, 1, 8, 9, 10, 12, 14)
    assert verdict.holds is False


@pytest.mark.parametrize("name", UNIMODAL)
@pytest.mark.parametrize("cpus", [16, 64])
def test_false_alarms_are_rare(name: str, cpus: int) -> None:
    """At most 0.7 %; two alarms in 300 pairs of scans leave room for chance."""
    random = np.random.default_rng(11)
    alarms = 0
    for _ in range(300):
        scans = [dict(enumerate(9.1 * np.exp(UNIMODAL[name](random, cpus)))) for _ in range(2)]
        alarms += compare_scans(*scans).groups is not None
    assert alarms <= 2


@pytest.mark.parametrize(("cpus", "noise"), [(16, 0.01), (64, 0.02), (64, 0.03), (128, 0.04)])
def test_balanced_groups_are_found(cpus: int, noise: float) -> None:
    """Power of at least 98.8 % at the latencies of the case to recognise."""
    random = np.random.default_rng(12)
    members = np.arange(cpus) < cpus // 2
    found = sum(
        compare_scans(two_groups(random, members, noise), two_groups(random, members, noise)).groups is not None
        for _ in range(300)
    )
    assert found >= 0.988 * 300


def test_distance_is_distinguished_by_the_other_context() -> None:
    first = Groups((0, 1, 2, 3), (4, 5, 6, 7), (9.1, 11.2))
    turned = Groups(first.slow, first.fast, (9.1, 11.2))
    mixed = Groups((0, 1, 4, 5), (2, 3, 6, 7), (9.1, 11.2))
    assert distance_of(first, first) is Distance.GPU
    assert distance_of(first, turned) is Distance.DRIVER_MEMORY
    assert distance_of(first, mixed) is Distance.GROUPS_CHANGED
