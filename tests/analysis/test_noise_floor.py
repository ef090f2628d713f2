import json

import pytest

from bench.analysis.noise_floor import evaluate, recall, recall_all, remember
from bench.records.base import plain
from bench.records.results import Verdict
from tests.analysis.cells import made_cell, noisy
from tests.run_directories import build_run_directory, topology_json

MODELS = [f"vit32x2x{64 * i}" for i in range(1, 9)]


def host(shift=0.0, sd=0.003):
    return [
        made_cell(
            noisy(1000 * (1 - shift * again), 6, sd, seed=10 * i + again),
            model=model,
            name=f"{model}{'_again' * again}",
            more={"occurrence": again},
        )
        for i, model in enumerate(MODELS)
        for again in (0, 1)
    ]


def test_a_cell_is_the_same_as_itself():
    found = evaluate(host())
    assert len(found.comparisons) == 8
    assert found.false_differences == ()
    assert {one.verdict for one in found.comparisons} == {Verdict.SAME}


def test_twins_that_differ_are_named():
    found = evaluate(host(shift=0.05))
    assert len(found.false_differences) == 8 == found.intervals_without_zero
    assert found.false_differences[0] == (f"{MODELS[0]}_again", MODELS[0])


def test_the_spread_is_of_the_runs_and_not_of_the_twins():
    quiet, apart = evaluate(host()), evaluate(host(shift=0.05))
    for one, other in zip(quiet.spreads, apart.spreads, strict=True):
        assert one.spread == pytest.approx(other.spread)
        assert 0.0015 < one.spread < one.upper < 0.008
        assert one.runs == 12


def test_the_noise_floor_is_the_upper_bound_of_each_model():
    found = evaluate(host())
    assert found.noise_floor == {one.model: one.upper for one in found.spreads}
    assert set(found.noise_floor) == set(MODELS)


def test_cells_of_different_nodes_are_not_twins():
    assert evaluate([made_cell([1.0] * 6), made_cell([2.0] * 6, cpu_node=2)]).comparisons == ()


def test_a_single_run_has_no_spread():
    found = evaluate([made_cell([5.0], name="a"), made_cell([5.0], name="b")])
    assert found.spreads == () and found.comparisons[0].verdict is Verdict.UNDECIDED


def test_a_study_with_twins_is_remembered_for_its_host(tmp_path, results_of):
    path = tmp_path / "outputs/self_check/2026-11-22/18-00-00"
    results = results_of(build_run_directory(path, "self_check", topology=topology_json(gpus=2, near=(0, 1), nodes=2)))
    kept = remember(results, tmp_path / "outputs")
    assert (kept.study, kept.measured_at) == ("self_check", "2026-11-22T18:00:00+00:00")
    assert recall_all(tmp_path / "outputs") == {"synthetic-host": kept}
    assert recall("synthetic-host", tmp_path / "outputs") == max(
        spread.upper for spread in kept.spreads if spread.noise_class == "device-bound"
    )


def test_a_study_without_twins_is_not_remembered(tmp_path, quick_run, results_of):
    assert remember(results_of(quick_run), tmp_path / "outputs") is None
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("damage", ["[]", '{"synthetic-host": {"spreads": [{"upper": "x"}]}}', '{"synthetic-host": 3}'])
def test_a_damaged_noise_floor_is_ignored(tmp_path, damage):
    (tmp_path / "noise_floor.json").write_text(damage)
    assert recall("synthetic-host", tmp_path) is None


def test_recall_ignores_launch_bound_models(tmp_path):
    quiet, loud = evaluate(host()), evaluate([made_cell(noisy(9, sd=0.2), noise_class="launch-bound")])
    known = {"a": quiet, "b": loud}
    (tmp_path / "noise_floor.json").write_text(json.dumps(plain(known)))
    assert recall("a", tmp_path) == max(quiet.noise_floor.values())
    assert recall("b", tmp_path) is None
