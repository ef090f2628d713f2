"""What the command for own workloads on a GPU computes; the command itself is tried with --device cpu by hand."""

import math

import pytest

from tests.validation.own_workloads_on_gpu import compared, page, rates_of, scheduled_ms


def test_windows_count_in_the_epoch_that_they_lie_in():
    windows = [{"start_ns": start * 10**9, "duration_s": 1.0, "batches": batches} for start, batches in
               ((0, 100), (1, 102), (2, 50), (3, 60), (4, 70))]  # fmt: skip
    epochs = [(0, 2 * 10**9, True), (int(2.5 * 10**9), 5 * 10**9, False)]
    assert rates_of(windows, epochs) == [(True, 101.0), (False, 65.0)]


def test_second_of_a_pair_is_compared_with_the_first():
    found = compared([(100.0, 98.0), (50.0, 49.0), (10.0, 9.8)])
    assert found["difference"] == pytest.approx(0.02) and found["pairs"] == 3
    low, high = found["interval"]
    assert math.isclose(low, 0.02, abs_tol=1e-5) and math.isclose(high, 0.02, abs_tol=1e-5)


def test_looks_at_a_whole_command_follow_less_and_less_often():
    """At pages after 1, 2, 4, 8 and 16 s, at threads in the 25 other seconds."""
    assert scheduled_ms(30, 10.0, 1.0) == 5 * 10 + 25
    assert scheduled_ms(60, 10.0, 0.0) == 6 * 10


def test_page_has_a_row_for_each_part():
    pinned = {
        "pinned_bytes": 1 << 32, "largest_mapping_bytes": 1 << 32, "ms_a_gib": 12.34, "verdict": "local",
        "holds": True, "complete": True,
        "took_s": 9.0,
    }  # fmt: skip
    looks = compared([(100.0, 99.0), (100.0, 99.9)]) | {
        "cost_ms_an_epoch": 3.25, "epoch_s": 4.0, "ms_a_look": {"pages": 1.0, "threads": 0.25},
        "of_a_command": {"30": 0.001},
    }  # fmt: skip
    text = page(
        {"pinned": pinned, "looks": {"models": {"vit0x0x0": looks}, "holds": False, "complete": False, "took_s": 80.0}}
    )
    assert "| pinned | 4.00 GiB of 4.00 GiB to the page, 12.3 ms a GiB, local | yes | 9.0 s |" in text
    assert "| looks | vit0x0x0 0.55 % slower [" in text and "in the first 4.0 s, with 3.2 ms of looks (" in text
    assert "; 0.10 % of a command of 30 s | no, stopped |" in text
