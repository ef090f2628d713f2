import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.host.cpulist import format_cpulist, parse_cpulist


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3,8", (0, 1, 2, 3, 8)), ("", ()), ("none", ()), ("5\n", (5,)), ("0,2-3,128-129", (0, 2, 3, 128, 129))],
)
def test_reads_what_the_kernel_writes(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_cpulist(text) == numbers


def test_refuses_other_texts() -> None:
    with pytest.raises(ValueError):
        parse_cpulist("node0")


@given(st.sets(st.integers(0, 300)))
def test_what_is_written_reads_the_same(numbers: set[int]) -> None:
    assert set(parse_cpulist(format_cpulist(numbers))) == numbers
