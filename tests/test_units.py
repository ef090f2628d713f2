import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import units

SHARES = st.floats(-50, 50)


def shown(text):
    """The first number of a text."""
    return float(re.search(r"[+−-]?[\d,.]+", text).group().replace("−", "-").replace(",", ""))


@pytest.mark.parametrize(
    "function",
    [
        units.rate,
        units.microseconds,
        units.bandwidth,
        units.percent,
        units.signed_percent,
        units.duration,
        units.byte_size,
    ],
)
def test_unknown_is_a_dash(function):
    assert function(None) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (86290.4, "86,290"),
        (725.31, "725.3"),
        (0, "0"),
        (1_234_567, "1,235,000"),
        (3.14159, "3.142"),
        (999.96, "1,000"),
        (9999.6, "10,000"),
    ],
)
def test_rates_have_four_digits(value, text):
    assert units.rate(value) == text


@pytest.mark.parametrize(
    ("value_us", "text"),
    [
        (276.4, "276 µs"),
        (1378, "1.38 ms"),
        (2.5e6, "2.50 s"),
        (9.87, "9.87 µs"),
        (0.5, "0.500 µs"),
        (999.6, "1.00 ms"),
        (9.999, "10.0 µs"),
        (999_700, "1.00 s"),
    ],
)
def test_latencies_choose_their_unit(value_us, text):
    assert units.microseconds(value_us) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.04, "40 ms"),
        (0.351, "0.35 s"),
        (2.44, "2.4 s"),
        (9.96, "10 s"),
        (12.34, "12 s"),
        (75, "75 s"),
        (89.6, "1 min 30 s"),
        (400, "6 min 40 s"),
        (599.7, "10 min"),
        (3599, "1 h 0 min"),
        (4000, "1 h 7 min"),
        (7190, "2 h 0 min"),
    ],
)
def test_durations(seconds, text):
    assert units.duration(seconds) == text


@given(st.floats(0, 1e6))
def test_durations_are_within_a_twentieth_or_half_a_minute(seconds):
    in_seconds = {"h": 3600, "min": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"([\d.]+) (\w+)", units.duration(seconds))
    assert sum(float(number) * in_seconds[unit] for number, unit in parts) == pytest.approx(
        seconds, rel=0.05, abs=0.0006 if seconds < 1 else 30 if seconds >= 599 else 0.5
    )


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (128 << 30, "128 GiB"),
        (1536, "1.50 KiB"),
        (12, "12 B"),
        (1 << 40, "1.00 TiB"),
        (1 << 60, "1048576 TiB"),
        ((1 << 20) - 1, "1.00 MiB"),
    ],
)
def test_sizes(size_bytes, text):
    assert units.byte_size(size_bytes) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0034, "0.34 %"),
        (0.02, "2.0 %"),
        (0.13, "13 %"),
        (0.0996, "10 %"),
        (0.00996, "1.0 %"),
        (-0.05, "−5.0 %"),
        (-0.00001, "0.00 %"),
        (0, "0 %"),
        (1.234, "123 %"),
    ],
)
def test_percent_has_two_digits(share, text):
    assert units.percent(share) == text


def test_percent_with_three_digits_keeps_two_decimals_at_most():
    assert [units.percent(share, 3) for share in (0.9987, 0.0123)] == ["99.9 %", "1.23 %"]


@given(SHARES)
def test_percent_is_within_its_rounding(share):
    assert shown(units.percent(share)) == pytest.approx(100 * share, rel=0.0501, abs=0.00501)


@given(SHARES)
def test_zero_has_no_sign(share):
    for text in (units.percent(share), units.signed_percent(share), units.change(share), units.tick_percent(share)):
        if not text.startswith("×") and shown(text) == 0:
            assert not text.startswith(("−", "+", "-"))


@given(SHARES)
def test_signs_are_those_of_the_number(share):
    text = units.signed_percent(share)
    if shown(text):
        assert text.startswith("+" if share > 0 else "−")


@pytest.mark.parametrize(("share", "text"), [(0.012, "+1.2 %"), (-0.05, "−5.0 %"), (0, "0 %")])
def test_signed_percent(share, text):
    assert units.signed_percent(share) == text


@pytest.mark.parametrize(("share", "text"), [(0.02, "2 %"), (0.005, "0.5 %"), (0.1, "10 %")])
def test_settings_are_shown_as_given(share, text):
    assert units.exact_percent(share) == text


@given(st.floats(0, 1))
def test_an_upper_bound_is_never_rounded_down(share):
    assert shown(units.upper_bound(share)) >= 100 * share - 1e-6


@pytest.mark.parametrize(("share", "text"), [(0.3, "30 %"), (0.0151, "1.6 %"), (0.1, "10 %"), (0, "0.01 %")])
def test_upper_bounds_have_two_digits(share, text):
    assert units.upper_bound(share) == text


@pytest.mark.parametrize(
    ("share", "half", "text"),
    [
        (0.297, 0.0053, "29.7 % ± 0.6 %"),
        (0.229, 0.021, "23 % ± 3 %"),
        (0.3, 0.01, "30.0 % ± 1.0 %"),
        (0.3, 0.0015, "30.0 % ± 0.2 %"),
        (0.0001, 0.0000003, "0.01 % ± 0.01 %"),
    ],
)
def test_a_share_has_the_decimals_that_its_uncertainty_supports(share, half, text):
    assert units.with_half_width(share, half) == text


@pytest.mark.parametrize(
    ("uncertainty", "places"), [(0.03, 2), (0.1, 1), (0.53, 1), (0.97, 1), (1.0, 1), (1.94, 1), (1.96, 0), (30, 0)]
)
def test_decimals_of_an_uncertainty(uncertainty, places):
    assert units.decimals(uncertainty) == places


@pytest.mark.parametrize(
    ("share", "interval", "text"),
    [
        (0.3, [0.29, 0.31], "30.0 % ± 1.0 %"),
        (-0.05, [-0.11, 0.01], "−5 % ± 6 %"),
        (-0.0001, [-0.003, 0.003], "0.0 % ± 0.3 %"),
        (-0.9, [-2033.2, 0.998], "−90 %"),
        (-0.9, None, "−90 %"),
    ],
)
def test_a_penalty_has_the_half_width_of_an_informative_interval(share, interval, text):
    assert units.signed_share(share, interval) == text


@pytest.mark.parametrize(
    ("interval", "too_wide"),
    [((-1.01, 0.51), True), ((-1.01, 0.49), False), ((-5.0, -0.5), False), ((0.2, 0.9), False)],
)
def test_intervals_from_half_to_twice_are_too_wide(interval, too_wide):
    assert units.is_too_wide(interval) is too_wide


@pytest.mark.parametrize(
    ("share", "interval", "text"),
    [
        (0.2961, (0.2912, 0.3008), "29.6 % slower [29.1, 30.1] %"),
        (-0.296, (-0.32, -0.27), "30 % faster [27, 32] %"),
        (0.004, (0.0002, 0.008), "0.40 % slower [0.02, 0.80] %"),
        (0.001, (-0.004, 0.006), "0.1 % slower [−0.4, 0.6] %"),
        (-0.0001, (-0.004, 0.006), "0.0 % [−0.6, 0.4] %"),
        (0.0, (-0.1, 0.1), "0 % [−10, 10] %"),
    ],
)
def test_effects_and_intervals_have_the_same_decimals(share, interval, text):
    assert units.effect_with_interval(share, interval, ("slower", "faster")) == text


@given(st.floats(0.0006, 1), st.floats(0.0006, 1), st.sampled_from([1, -1]))
def test_an_interval_that_excludes_zero_is_shown_so(one, other, sign):
    low, high = sorted((sign * one, sign * other))
    ends = re.findall(r"−?[\d.]+", units.percent_interval((low, high)))
    assert all(float(end.replace("−", "-")) * sign > 0 for end in ends)


@given(SHARES, st.floats(0, 3), st.floats(0, 3))
def test_shown_interval_contains_the_shown_effect(share, below, above):
    text = units.effect_with_interval(share, (share - below, share + above), ("slower", "faster"))
    effect, low, high = (float(number.replace("−", "-")) for number in re.findall(r"−?[\d.]+", text))
    assert low <= effect <= high


@pytest.mark.parametrize(
    ("effect", "interval", "text"),
    [
        (0.38, [0.35, 0.41], "+38 % [35, 41]"),
        (-0.05, [-0.054, -0.046], "−5.0 % [−5.4, −4.6]"),
        (3.5, [3.4, 3.6], "× 4.5 [4.4, 4.6]"),
        (14.584, [14.55, 14.61], "× 15.6 [15.6, 15.6]"),
        (-0.90941, [-0.9096, -0.9093], "−90.9 % [−91.0, −90.9]"),
        (-0.8, None, "−80 %"),
        (3.43, [-0.49, 37.6], "× 4.4 [0.51, 39]"),
        (1.9, [0.004, 5.9], "× 2.9 [1.004, 6.9]"),
        (0.0, [-0.001, 0.001], "0.0 % [−0.1, 0.1]"),
        (0.9, [-0.998, 2033.2], "+90 %"),
        (0.016, [0.0011, 0.0314], "+1.6 % [0.1, 3.2]"),
    ],
)
def test_a_change_has_the_decimals_that_its_interval_supports(effect, interval, text):
    assert units.change(effect, interval) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.31, 0.38, "+31 % to +38 %"),
        (0.996, 1.004, "× 2.0"),
        (0.42, 5.2, "× 1.42 to 6.2"),
        (-0.5, 1.2, "−50 % to × 2.2"),
    ],
)
def test_ranges_of_changes(low, high, text):
    assert units.change_range(low, high) == text


@pytest.mark.parametrize(("count", "text"), [(7, "7"), (99, "99"), (101, "110"), (1234, "1,300"), (1300, "1,300")])
def test_planned_numbers_are_rounded_up_to_two_digits(count, text):
    assert units.planned_text(count) == text


@given(st.integers(1, 10**9))
def test_planned_numbers_are_never_rounded_down(count):
    assert count <= shown(units.planned_text(count)) <= 1.1 * count


@pytest.mark.parametrize(("parts", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_lists(parts, text):
    assert units.listed(parts) == text


def test_plurals():
    assert [units.plural(1, "run"), units.plural(2, "run"), units.plural(2, "entry", "entries")] == [
        "1 run",
        "2 runs",
        "2 entries",
    ]


def test_values_of_settings():
    assert units.values_text({"a": True, "b": 16}) == "on, 16"
    assert units.keyed_values_text({"depth": 12, "dim": 1024}) == "depth 12, dim 1024"


def test_html_breaks_no_line_before_a_percent_sign():
    assert units.no_break("loses 30.0 % ± 1.0 % and × 2.0") == "loses 30.0\u00a0%\u00a0±\u00a01.0\u00a0% and ×\u00a02.0"


@given(st.lists(st.integers(0, 10**6), min_size=1), st.sampled_from([0, 1, 50, 90, 99, 100]))
def test_percentile_is_the_linear_one(values, percent):
    assert units.percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent))


def test_percentile_rounds_once():
    assert units.percentile([2**60, 2**60 + 1], 50, scale=2**60) == 1.0
    assert units.percentile(np.array([2**62, 2**62 + 2]), 50, scale=2) == (2**62 + 1) / 2


def test_a_percentile_needs_one_expected_value_beyond_it():
    assert [units.samples_needed(percent) for percent in (50, 90, 99)] == [2, 29, 299]
    assert units.unsupported(99, 299) is None
    assert units.unsupported(99, 298) == "p99 needs 299 batches, there are 298"


def test_summary_gives_a_reason_for_every_null():
    few = units.summary([1.0, 2.0, 3.0], of_what="windows")
    assert (few["p50"], few["p90"], few["p99"], few["max"], few["count"]) == (2.0, None, None, 3.0, 3)
    assert few["reasons"] == {"p90": "p90 needs 29 windows, there are 3", "p99": "p99 needs 299 windows, there are 3"}
    assert units.summary([])["max"] is None


def test_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        units.percentile([], 50)
