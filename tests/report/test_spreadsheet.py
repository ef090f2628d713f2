import csv
import io

import pytest

from bench.report.tables import csv_table


def read(value):
    (row,) = csv.DictReader(io.StringIO(csv_table(["a", "b"], [{"a": value, "b": "end", "c": "not asked for"}])))
    assert row["b"] == "end"
    return row["a"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2", "@SUM(A1)", "\t=1", "--repeats 4", '=HYPERLINK("http://x")'])
def test_text_that_would_be_a_formula_is_held_back(text):
    assert read(text) == f"'{text}"


@pytest.mark.parametrize(
    ("value", "text"), [(-0.05, "-0.05"), (-3, "-3"), (1e-7, "1e-07"), (None, ""), (False, "False")]
)
def test_numbers_stay_numbers(value, text):
    assert read(value) == text


@pytest.mark.parametrize("text", ["plain", "a,b", 'a "quoted" one', "two\nlines", "a - b", "'quoted"])
def test_other_text_stays_as_it_is(text):
    assert read(text) == text


def test_a_carriage_return_does_not_end_the_row():
    assert read("50 %\rdone\r\nend") == "50 %\ndone\nend"
    assert read("\r=1") == "'\n=1"
