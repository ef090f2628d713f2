"""The promises about crossings on few simulated studies, and through run records as a user has them."""

import pytest

from bench.analysis import crossing
from tests.validation import crossed


def kept(figures):
    return [figure for figure in figures if figure.ok is False] == []


@pytest.mark.slow
def test_intervals_of_processes_cover():
    assert kept(crossed.coverage(1500))


def test_false_verdicts_of_crossings_are_rare():
    assert kept(crossed.false_verdicts(1440))


def test_crossings_find_what_they_state():
    assert kept(crossed.power(1000)) and kept(crossed.same_above_margin(1000))


@pytest.mark.slow
def test_records_through_the_report_hold_the_truth():
    figures = list(crossed.reports(1))
    assert kept(figure for figure in figures if "covers" not in figure.promise)
    assert all(figure.value >= 0.8 for figure in figures if "covers" in figure.promise)
    (width,) = {figure.value for figure in figures if "half-width" in figure.promise and figure.case == "-5 %"}
    assert width < 0.01


def test_rounds_as_units_are_caught(monkeypatch):
    """With half rounds as units the interval would be many times too narrow."""
    real = crossing.crossed_sample

    def rounds(label, noise, values):
        return real(label, noise, {f"{key} {n}": one for key, one in values.items() for n in range(10)})

    monkeypatch.setattr(crossed, "crossed_sample", rounds)
    assert not kept(crossed.coverage(200))
