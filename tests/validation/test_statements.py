"""The statements around comparisons on few studies, and that what they replace would be caught."""

import numpy as np
import pytest

from bench.analysis import pairs
from bench.study import order
from tests.validation import statements


@pytest.mark.parametrize(
    ("task", "studies"),
    [
        (statements.worst_coverage, 300),
        (statements.false_headlines, 100),
        (statements.periodic, 60),
        (statements.near_sets, 15),
        (statements.nearest_by_probe, 20),
    ],
)
def test_statements_hold(task, studies):
    figures = task(studies)
    # So few studies are not the measurement: two standard errors either way.
    low = [one for one in figures if one.goal.startswith(">=")]
    assert all(one.value + 2 * one.error >= float(one.goal[3:].split()[0]) / 100 for one in low), figures
    assert all(one.ok is not False for one in figures if one not in low), figures


def test_an_order_by_turns_would_follow_a_period(monkeypatch):
    def by_turns(names, seed, salt):
        names = sorted(names)
        return names[::-1] if salt.startswith("turns") and int(salt.split()[1]) % 2 else names

    monkeypatch.setattr(order, "_shuffled", by_turns)
    alone = statements.periodic(20)[0]
    assert alone.value > 0.3 and not alone.ok


def test_runs_that_chose_a_node_would_not_cover(monkeypatch):
    """The noise is large enough that only lucky runs name a node."""
    honest = statements.nearest_by_runs(20, ["normal"], [0.005])[0]
    monkeypatch.setattr(pairs, "_of_blocks", lambda cell, odd: cell)
    chosen = statements.nearest_by_runs(20, ["normal"], [0.005])[0]
    assert chosen.value < honest.value


def test_the_spreads_are_those_of_a_real_study():
    assert min(statements.spreads()) < 0.001 < 0.06 < max(statements.spreads())
    assert np.mean([scan > 0.05 for scan in map(np.max, statements.probe_scans())]) == 1


@pytest.mark.slow
def test_studies_by_afternoon_differ_only_as_single_ones():
    found = {(one.promise, one.case[-14:]): one for one in statements.several_studies(3)}
    assert found["compare: exit 3, nothing changed", "1 study a side"].value == 1
    assert all(one.ok is not False for one in found.values())


def test_few_runs_of_two_states_do_not_end_with_3():
    found = {(one.promise, one.case): one.value for one in statements.few_runs(6)}
    assert found["compare: exit 3 if any number of runs counted", "two-valued, 3 runs a side"] > 0.3
    assert found["compare: exit 3, nothing changed", "two-valued, 3 runs a side"] == 0


def test_stated_figures_have_rows():
    found = {(one.promise, one.case): one.value for one in statements.of_few_values(100)}
    assert found["the p99 of so many batches is below the true one", "100 batches"] > 0.6
    assert 0.3 < found["SAME", "one remote run in ten loses 30 %, n = 6"] < 0.7
    assert statements.two_states(50)[0].value < 0.92
