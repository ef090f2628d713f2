import math

import pytest
from scipy import stats

from bench.analysis.statistics import interval_of


def test_against_scipy_on_the_logarithms():
    rates = [100.0, 103.0, 98.0, 101.5]
    logs = [math.log(rate) for rate in rates]
    low, high = stats.t.interval(0.95, 3, sum(logs) / 4, stats.sem(logs))
    assert interval_of(rates) == pytest.approx((math.exp(low), math.exp(high)))


def test_runs_that_agree_leave_no_width():
    assert interval_of([5.0, 5.0]) == pytest.approx((5.0, 5.0))
