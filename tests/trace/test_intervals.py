import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.trace.intervals import covered, gaps, join, overlap, union

pairs = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15)).map(lambda pair: (pair[0], sum(pair))), max_size=12)


def as_arrays(values):
    return (np.array([value[column] for value in values], np.int64) for column in (0, 1))


def points(values):
    return {point for start, end in values for point in range(start, end)}


def listed(intervals):
    return list(zip(intervals.start.tolist(), intervals.end.tolist(), strict=True))


@given(pairs)
def test_union_covers_the_same_points_with_the_fewest_pieces(values):
    made = union(*as_arrays(values))
    assert points(listed(made)) == points(values)
    assert made.length == len(points(values))
    assert all(one[1] < other[0] for one, other in zip(listed(made), listed(made)[1:], strict=False))


@given(pairs, pairs)
def test_overlap_and_join_are_those_of_sets(one, other):
    a, b = union(*as_arrays(one)), union(*as_arrays(other))
    assert overlap(a, b) == overlap(b, a) == len(points(one) & points(other))
    assert points(listed(join(a, b))) == points(one) | points(other)


@given(pairs, pairs)
def test_covered_is_the_part_inside_each(one, other):
    start, end = as_arrays(other)
    expected = [len(points(one) & points([pair])) for pair in other]
    assert covered(union(*as_arrays(one)), start, end).tolist() == expected


@given(pairs)
def test_gaps_are_the_rest(values):
    inside = gaps(union(*as_arrays(values)), -5, 100)
    assert points(listed(inside)) == set(range(-5, 100)) - points(values)


def test_lengths_are_exact_beyond_what_a_float_holds():
    start = np.array([2**60, -(2**60)], np.int64)
    assert union(start, start + np.array([1, 3])).length == 4
