"""A loss in the words of what was measured: a rate that is lower, a time that is longer."""

import pytest

from bench.records.metric import Better, Metric
from bench.records.results import Rules
from bench.report.text.answer import answers
from bench.report.text.axes import summary_text
from bench.report.text.scale import AMOUNT, RATE, TIME, scale_of
from bench.report.text.verdicts import effect_text, verdict_text
from bench.report.view import View
from tests.report.made import axis, cell, line, penalty, results

TIMED = {"name": "time", "unit": "s", "better": "lower", "value": 1.0, "runs": [1.0]}


def metric(unit: str, better: str = "lower") -> Metric:
    return Metric(value=1, unit=unit, better=Better(better))


def test_scale_is_that_of_the_unit_and_the_direction():
    assert scale_of(None) is scale_of(metric("tok/s", "higher")) is RATE
    assert scale_of(metric("ms")) is TIME and scale_of(metric("MiB")) is AMOUNT


@pytest.mark.parametrize(
    ("scale", "loss", "gain"),
    [
        (RATE, "20 % slower", "25 % faster"),
        (TIME, "25 % longer", "20 % shorter"),
        (AMOUNT, "25 % more", "20 % less"),
    ],
)
def test_effect_is_worded_in_its_scale(scale, loss, gain):
    assert (effect_text(0.2, scale), effect_text(-0.25, scale)) == (loss, gain)


def test_verdict_of_a_time_has_effect_and_interval_of_the_time():
    entry = penalty(0.2, interval=(0.18, 0.22))
    assert verdict_text(entry, 0.2, Rules(), TIME) == "25 % longer [21, 29] %"
    assert verdict_text(entry, 0.2, Rules()) == "20 % slower [18, 22] %"


def test_answer_says_how_much_more_time():
    cells = (cell("local", metric=TIMED), cell("remote", node=2, metric=TIMED))
    found = results(cells, penalties=[penalty(0.2, interval=(0.18, 0.22))])
    (answer,) = answers(View(found))
    assert "takes 25 % ± 4 % more time" in answer.sentence
    same = results(cells, penalties=[penalty(0.001, "SAME", reason="within_margin", interval=(-0.01, 0.01))])
    (answer,) = answers(View(same))
    assert "takes nothing above" in answer.sentence and answer.sentence.endswith("more time.")


def test_axis_of_a_time_is_told_in_speed():
    entry = axis(line("a", {"binding": "none"}, 0.5, "FASTER"), base={"binding": "numactl"}, is_speed=True)
    assert summary_text(entry, entry.summary[0]).startswith("binding none, in speed: ")


def test_loss_of_a_time_without_an_end_is_worded():
    entry = penalty(0.2, interval=(-0.5, 1.0), verdict="UNDECIDED", reason="few_repeats", repeats_needed=9)
    assert verdict_text(entry, 0.2, Rules(), TIME).startswith("possibly longer by any amount: ")
