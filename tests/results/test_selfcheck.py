import json

import pytest

from bench.analysis.noise_floor import evaluate
from tests.analysis.cells import made_cell, noisy


def host(shift=0.0, sd=0.003):
    return [
        made_cell(
            noisy(1000 * (1 - shift * again), 6, sd, seed=10 * i + again),
            model=f"m{i}",
            name=f"m{i}{'_again' * again}",
        )
        for i in range(8)
        for again in (0, 1)
    ]


def test_a_cell_against_itself():
    found = evaluate(host())
    assert len(found.comparisons) == 8
    assert found.false_differences == ()
    assert {one["verdict"] for one in found.comparisons} == {"SAME"}


def test_twins_that_really_differ_are_named():
    found = evaluate(host(shift=0.05))
    assert len(found.false_differences) == 8 == found.intervals_without_zero
    assert found.false_differences[0] == "m0_again / m0"
    assert "8 of 8 comparisons" in found.text


def test_the_spread_between_processes_is_that_of_the_runs_and_not_of_the_twins():
    quiet, apart = evaluate(host()), evaluate(host(shift=0.05))
    for one, other in zip(quiet.spreads, apart.spreads, strict=True):
        assert one.spread == pytest.approx(other.spread)
        assert 0.0015 < one.spread < one.upper < 0.008
        assert one.runs == 12


def test_the_noise_floor_is_the_upper_bound_of_each_model():
    found = evaluate(host())
    assert found.noise_floor() == {one.model: one.upper for one in found.spreads}


def test_different_nodes_are_no_twins():
    assert evaluate([made_cell([1.0] * 6), made_cell([2.0] * 6, cpu_node=2)]).comparisons == ()


def test_the_record_is_json():
    record = json.loads(json.dumps(evaluate(host()).as_json(), allow_nan=False))
    assert set(record["noise_floor"]) == {f"m{i}" for i in range(8)}


def test_a_single_run_has_no_spread():
    found = evaluate([made_cell([5.0], name="a"), made_cell([5.0], name="b")])
    assert found.spreads == () and found.comparisons[0]["verdict"] == "UNDECIDED"
