import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.quantiles import percentile, samples_needed, summary, unsupported


@given(st.lists(st.integers(0, 10**6), min_size=1), st.sampled_from([0, 1, 50, 90, 99, 100]))
def test_percentile_is_the_linear_one(values, percent):
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent))


def test_percentile_rounds_once():
    assert percentile([2**60, 2**60 + 1], 50, scale=2**60) == 1.0
    assert percentile(np.array([2**62, 2**62 + 2]), 50, scale=2) == (2**62 + 1) / 2


def test_a_sample_supports_a_percentile_if_one_value_is_expected_beyond_it():
    assert [samples_needed(percent) for percent in (50, 90, 99)] == [2, 10, 100]
    assert unsupported(99, 100) is None
    assert unsupported(99, 99) == "p99 needs 100 batches, there are 99"


def test_summary_gives_a_reason_for_every_null():
    few = summary([1.0, 2.0, 3.0], of_what="windows")
    assert (few["p50"], few["p90"], few["p99"], few["max"], few["count"]) == (2.0, None, None, 3.0, 3)
    assert few["reasons"] == {"p90": "p90 needs 10 windows, there are 3", "p99": "p99 needs 100 windows, there are 3"}
    assert summary([])["max"] is None


def test_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
