import pytest

from bench.workload.devices import CpuDevice
from bench.workload.measure import LatencyMarks, latency, mark_stride


def test_fast_window_marks_some_batches_of_both_slots():
    assert mark_stride(100, 512) == 1
    assert mark_stride(1024, 512) == 3
    assert mark_stride(5000, 512) % 2 == 1
    assert 5000 / mark_stride(5000, 512) <= 512


def test_marks_are_created_before_the_window_and_reused():
    marks = LatencyMarks(CpuDevice(), max_marked=2)
    marks.prepare(5)
    starts, ends = marks.events(5)
    assert [start is not None for start in starts] == [True, False, False, True, False]
    for start, end in zip(starts, ends, strict=True):
        if start and end:
            start.record(None)
            end.record(None)
    assert len(marks.read_us()) == 2
    assert all(value >= 0 for value in marks.read_us())
    assert marks.events(5)[0] is starts


def test_marks_for_another_length_are_refused():
    marks = LatencyMarks(CpuDevice())
    marks.prepare(5)
    with pytest.raises(ValueError, match="windows of 5 batches, not 6"):
        marks.events(6)


def test_quantiles_interpolate_linearly():
    found = latency([float(value) for value in range(1000, -1, -1)])
    assert found.count == 1001
    assert (found.p50, found.p90, found.p99, found.max) == (500, 900, 990, 1000)
    assert found.quantiles == [10.0 * percent for percent in range(101)]


def test_unsupported_quantiles_are_none():
    found = latency([3.0, 1.0, 2.0, 5.0])
    assert found.p50 == 2.5
    assert found.p99 is None
    assert found.reasons["p99"]
    quantiles = found.quantiles
    assert (quantiles[0], quantiles[50], quantiles[100]) == (1.0, 2.5, 5.0)
    assert quantiles[1] is None
    assert quantiles[99] is None


def test_no_values_give_no_numbers():
    found = latency([])
    assert found.count == 0
    assert found.max is None
    assert found.quantiles == [None] * 101
