"""The studies through the commands on a few, and that they would see a method that claims too much."""

import numpy as np
import pytest

from bench.analysis import claims
from tests.validation.through_commands import NOISES, SD, between_studies, through_nights, within_a_study


def by_promise(figures):
    return {figure.promise: figure for figure in figures}


@pytest.mark.slow
def test_a_report_of_made_studies_claims_what_is_true(monkeypatch):
    found = by_promise(within_a_study("ramp", 1))
    assert found["report: a headline though nothing differs"].value == 0
    assert found["report: 5 % lost found as headline"].value == 1
    monkeypatch.setattr(claims, "is_headline", lambda *of_entry: True)
    assert by_promise(within_a_study("ramp", 1))["report: a headline though nothing differs"].ok is False


def test_compare_ends_with_3_for_a_loss_only():
    false, found = between_studies("ramp", 1)
    assert (false.value, found.value) == (0, 1)


@pytest.mark.slow
def test_nights_on_disk_show_a_creeping_loss():
    alarms, reported = through_nights(80, 30)
    assert alarms.value == 0 and reported.ok


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_centred_on_a_percent_or_so(name):
    at = np.arange(12 * 2 * 6).reshape(12, 2, 6)
    drawn = np.array([NOISES[name](np.random.default_rng(seed), at) for seed in range(40)])
    assert SD / 10 < drawn.std(axis=-1).mean() < 6 * SD
