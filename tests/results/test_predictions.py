import pytest
from bench.analysis.predictions import hidden_copies, predictions

from tests.analysis.cells import made_cell


def test_only_remote_memory_under_a_local_cpu_is_predicted(placed_results):
    kinds = {entry["remote_cell"]: entry["kind"] for entry in placed_results["penalties"]}
    found = placed_results["predictions"]
    assert {kinds[said["remote_cell"]] for said in found} == {"memory"} and len(found) == 6


def test_the_bare_copy_is_predicted_as_observed_and_its_bracket_holds_it(placed_results):
    (copy,) = [said for said in placed_results["predictions"] if said["remote_cell"].endswith("vit0x0x0_cpu0")]
    # The copies of the synthetic remote node run at 38 of 54 GB/s, and the pipeline at 1 / 1.04 of its bound.
    assert copy["predicted"] == pytest.approx(1 - 1.04 * 38 / 54, abs=0.01)
    assert copy["low"] <= copy["predicted"] <= copy["high"]
    observed = next(entry for entry in placed_results["penalties"] if entry["remote_cell"] == copy["remote_cell"])
    assert copy["agrees"] and observed["interval"][1] >= copy["low"] and observed["interval"][0] <= copy["high"]


def test_an_observation_outside_the_bracket_does_not_agree(placed_results):
    moved = [entry | {"penalty": 0.6, "interval": [0.59, 0.61]} for entry in placed_results["penalties"]]
    assert not any(said["agrees"] for said in predictions(moved, placed_results["cells"], 0.02))


def test_a_miss_below_the_margin_is_no_disagreement(placed_results):
    def judged(miss):
        low = {said["remote_cell"]: said["low"] - miss for said in placed_results["predictions"]}
        moved = [
            entry | {"penalty": low[entry["remote_cell"]], "interval": None}
            for entry in placed_results["penalties"]
            if entry["remote_cell"] in low
        ]
        return {said["agrees"] for said in predictions(moved, placed_results["cells"], 0.02)}

    assert (judged(0.019), judged(0.021)) == ({True}, {False})


def test_without_stages_or_runs_nothing_is_predicted(placed_results):
    bare = [cell | {"solo_us": None} for cell in placed_results["cells"]]
    assert predictions(placed_results["penalties"], bare, 0.02) == []
    unmeasured = [entry | {"penalty": None} for entry in placed_results["penalties"]]
    assert predictions(unmeasured, placed_results["cells"], 0.02) == []


def test_sizes_of_one_model_are_put_together_and_others_are_not():
    def cell(size, model, h2d):
        return made_cell([1.0], model=model, batch_size=size) | {
            "solo_us": {"h2d": h2d, "compute": 60.0, "d2h": 1.0}, "issue_us": 40.0,
        }  # fmt: skip

    small, large, other = cell(16, "a", 32.0), cell(64, "a", 128.0), cell(16, "b", 90.0)
    first, second = hidden_copies([large, small, other, made_cell([1.0], model="c")])
    assert first["cells"] == [small["name"], large["name"]]
    assert first["batch_size"] == pytest.approx(16 + 48 * 28 / 96)
    assert second["cells"] == [other["name"]] and "not hidden at batch 16 already" in second["text"]
