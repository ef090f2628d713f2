"""The comparison itself; the copies need a GPU."""

import pytest

from bench.trace.torch_trace import Event
from tests.validation.control_clocks import COPIES, _row

SIZE = 1 << 20


def traced(copy_ns: int, gap_ns: int) -> list[Event]:
    """Singles, then a train, of copies of copy_ns with gap_ns between them."""
    starts = range(1_000, 1_000 + 2 * COPIES * (copy_ns + gap_ns), copy_ns + gap_ns)
    return [Event("gpu_memcpy", "Memcpy HtoD", start, start + copy_ns, 0, 7, {"bytes": SIZE}) for start in starts]


def test_single_copies_and_trains_are_compared_each_with_its_own():
    span_us = (COPIES * 20_000 + (COPIES - 1) * 1_000) / 1e3
    row = _row(SIZE, traced(20_000, 1_000), [21.0] * COPIES, 1.01 * span_us)
    assert row["event_over_trace"] == pytest.approx(1.05)
    assert row["train_event_over_trace"] == pytest.approx(1.01)
    assert (row["event_us"], row["trace_us"]) == (21.0, 20.0)


def test_copies_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"are \{1048576\} in the trace"):
        _row(2 * SIZE, traced(20_000, 0), [20.0] * COPIES, 320.0)
