import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.trace.lookup import find

dense = st.integers(0, 40)
sparse = st.sampled_from([-(2**62), -5, 0, 7, 10**9, 2**62])
keys = st.one_of(
    st.lists(dense, max_size=30), st.lists(sparse, max_size=6), st.lists(st.one_of(dense, sparse), max_size=9)
)


@given(keys, st.lists(st.one_of(dense, sparse), max_size=30))
def test_finds_what_is_there_and_nothing_else(have, wanted):
    found = find(np.array(have, np.int64), np.array(wanted, np.int64)).tolist()
    assert [index >= 0 for index in found] == [value in have for value in wanted]
    assert all(have[index] == value for index, value in zip(found, wanted, strict=True) if index >= 0)


@given(st.lists(st.one_of(dense, sparse), max_size=30, unique=True))
def test_unique_keys_find_themselves(have):
    array = np.array(have, np.int64)
    assert find(array, array).tolist() == list(range(len(have)))
