import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import words


@pytest.mark.parametrize("function", [words.rate, words.microseconds, words.bandwidth, words.percent, words.seconds])
def test_unknown_is_a_dash(function):
    assert function(None) == "–"


@pytest.mark.parametrize(
    ("value", "told"), [(86290.4, "86,290"), (725.31, "725.3"), (0, "0"), (1_234_567, "1,235,000"), (3.14159, "3.142")]
)
def test_rates_have_four_digits(value, told):
    assert words.rate(value) == told


@pytest.mark.parametrize(
    ("value", "told"), [(276.4, "276 µs"), (1378, "1.38 ms"), (2.5e6, "2.50 s"), (9.87, "9.87 µs"), (0.5, "0.500 µs")]
)
def test_times_choose_their_unit(value, told):
    assert words.microseconds(value) == told


@pytest.mark.parametrize(
    ("share", "half", "told"),
    [(0.297, 0.0053, "29.7 % ± 0.5 %"), (0.229, 0.021, "23 % ± 2 %"), (0.0001, 0.0000003, "0.01 % ± 0.01 %")],
)
def test_a_share_has_the_digits_that_its_uncertainty_supports(share, half, told):
    assert words.with_half(share, half) == told


@given(st.floats(0, 1))
def test_a_bound_is_never_rounded_down(share):
    assert float(words.at_most(share).removesuffix(" %")) >= 100 * share - 1e-6


@pytest.mark.parametrize(("share", "told"), [(0.3, "30 %"), (0.0151, "1.6 %"), (0.1, "10 %"), (0, "0.01 %")])
def test_bounds_read_well(share, told):
    assert words.at_most(share) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (12.34, "12.3 s"),
        (90.3, "1 min 30 s"),
        (400, "6 min 40 s"),
        (599.7, "10 min"),
        (3700, "1 h 2 min"),
        (7190, "2 h 0 min"),
    ],
)
def test_durations(value, told):
    assert words.seconds(value) == told


@pytest.mark.parametrize(
    ("value", "told"), [(128 << 30, "128 GiB"), (1536, "1.50 KiB"), (12, "12 B"), (1 << 40, "1.00 TiB")]
)
def test_sizes(value, told):
    assert words.size(value) == told


@pytest.mark.parametrize(
    ("share", "interval", "told"),
    [
        (0.3, [0.29, 0.31], "30.0 % ± 1.0 %"),
        (-0.05, [-0.11, 0.01], "−5 % ± 6 %"),
        (-0.0001, [-0.003, 0.003], "0.0 % ± 0.3 %"),
        (-0.9, [-2033.2, 0.998], "−90 %"),
        (-0.9, None, "−90 %"),
    ],
)
def test_a_penalty_has_the_half_width_of_an_interval_that_tells_something(share, interval, told):
    assert words.signed_share(share, interval) == told


@pytest.mark.parametrize(
    ("interval", "nothing"), [((-1.01, 0.51), True), ((-1.01, 0.49), False), ((-5.0, -0.5), False), ((0.2, 0.9), False)]
)
def test_an_interval_from_half_to_twice_the_throughput_tells_nothing(interval, nothing):
    assert words.tells_nothing(interval) is nothing
