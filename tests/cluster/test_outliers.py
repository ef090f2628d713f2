import numpy as np
import pytest

from bench.cluster.comparison import Value, compare_hosts, compare_type, small_sample
from bench.records.cluster import Quantity
from bench.records.results import Results
from tests.report.made import cell, results

MARGIN = 0.02


def cells_of(rates: np.ndarray, error: float | None = None) -> dict[str, dict[str, Value]]:
    """rates: cells x hosts."""
    return {
        f"cell{cell}": {f"n{host}": Value(float(rate), error) for host, rate in enumerate(row)}
        for cell, row in enumerate(rates)
    }


def outliers(rates: np.ndarray, error: float | None = None) -> list[str]:
    return sorted(
        {host for one in compare_hosts(Quantity.THROUGHPUT, cells_of(rates, error), MARGIN) for host in one.outliers}
    )


def made(seed: int, cells: int, hosts: int, sd: float) -> np.ndarray:
    return 1000 * np.exp(np.random.default_rng(seed).normal(0, sd, (cells, hosts)))


@pytest.mark.parametrize("hosts", [3, 4, 8, 40])
def test_host_with_half_the_link_is_the_only_outlier(hosts: int) -> None:
    rates = made(1, 6, hosts, 0.003)
    rates[2:, 1] *= 0.5
    found = compare_hosts(Quantity.THROUGHPUT, cells_of(rates), MARGIN)
    assert [[*one.outliers] for one in found] == [[], [], ["n1"], ["n1"], ["n1"], ["n1"]]
    assert found[3].outliers["n1"] == pytest.approx(-0.5, abs=0.02)
    assert found[3].median == pytest.approx(1000, rel=0.02)


def test_centre_holds_when_nearly_half_of_the_hosts_are_slow() -> None:
    rates = made(2, 4, 9, 0.002)
    rates[:, :4] *= 0.7
    assert outliers(rates) == ["n0", "n1", "n2", "n3"]


@pytest.mark.parametrize(("hosts", "cells"), [(3, 6), (5, 6), (8, 3), (20, 48)])
def test_similar_hosts_are_rarely_outliers(hosts: int, cells: int) -> None:
    """Between-host spread of 0.5 %, twice that of CUDA graphs between processes of one host."""
    false = [bool(outliers(made(seed, cells, hosts, 0.005))) for seed in range(100)]
    assert sum(false) / len(false) <= 0.05


def test_similar_hosts_are_outliers_without_margin_or_spread() -> None:
    """That the test above can fail: a tiny margin, and a spread taken from one cell of three hosts."""
    found = [
        any(one.outliers for one in compare_hosts(Quantity.THROUGHPUT, cells_of(made(seed, 1, 3, 0.005)), 1e-6))
        for seed in range(400)
    ]
    assert sum(found) / 400 > 0.05


def test_no_outlier_is_named_among_two_hosts() -> None:
    assert outliers(np.array([[1000.0, 500.0]])) == []


def test_spread_within_a_host_is_not_a_difference_of_hosts() -> None:
    rates = np.array([[1000.0, 1001.0, 940.0, 1000.5]])
    assert outliers(rates) == ["n2"]
    assert outliers(rates, error=0.02) == []


@pytest.mark.parametrize("seed", range(20))
def test_unit_and_order_of_hosts_do_not_matter(seed: int) -> None:
    rates = made(seed, 3, 5, 0.02)
    names = outliers(rates)
    assert outliers(rates * 1e-3) == names
    assert outliers(rates[:, ::-1]) == sorted(f"n{4 - int(name[1:])}" for name in names)


def test_invalid_values_are_ignored() -> None:
    values = {"n1": Value(0.0), "n2": Value(float("nan")), "n3": Value(5.0)}
    (one,) = compare_hosts(Quantity.THROUGHPUT, {"cell": values, "empty": {}}, MARGIN)
    assert one.values == {"n3": 5.0}


def test_scale_of_few_hosts_is_unbiased() -> None:
    """The corrected MAD of normal values has mean 1 (within 3 %), for every number of hosts in the table."""
    random = np.random.default_rng(3)
    for hosts in (2, 3, 4, 5, 6, 7, 8, 9, 12):
        values = random.standard_normal((40_000, hosts))
        deviations = np.abs(values - np.median(values, axis=1, keepdims=True))
        mad = 1.4826 * small_sample(hosts) * np.median(deviations, axis=1)
        assert mad.mean() == pytest.approx(1, abs=0.03)


def test_command_is_compared_in_its_own_unit() -> None:
    def of(value: float) -> Results:
        metric = {"name": "latency", "unit": "ms", "better": "lower", "value": value, "runs": [value]}
        return results((cell("a", metric=metric),))

    alike = {f"n{number}": of(10 + 0.001 * number) for number in range(5)}
    found = compare_type("one type", alike | {"slow": of(20)}, MARGIN)
    (one,) = found.compared
    assert (one.quantity, one.unit, [*one.outliers]) == (Quantity.METRIC, "ms", ["slow"])
    assert one.values["slow"] == 20
