import copy

from bench.report.page import clock_rows, crossings, limit_rows, prediction_rows


def test_the_largest_term_is_marked_and_the_copy_told(placed_results):
    rows = {row["cell"]: row for row in limit_rows(placed_results)}
    assert len(rows) == len(placed_results["cells"])
    for name, copied, largest in (
        ("vit0x0x0", "exposed", 0),
        ("vit32x2x128", "CPU sets the pace", 3),
        ("vit16x8x768", "hidden", 1),
    ):
        row = rows[f"pipeline_gpu0_numa0_{name}_cpu0" if f"pipeline_gpu0_numa0_{name}" not in rows
                   else f"pipeline_gpu0_numa0_{name}"]  # fmt: skip
        assert row["copied"] == copied
        assert [marked for _, marked in row["terms"]] == [at == largest for at in range(5)]


def test_an_efficiency_that_cannot_be_is_a_dash_with_its_reason(placed_results):
    results = copy.deepcopy(placed_results)
    results["cells"][0]["efficiency_solo"] = None
    results["cells"][0]["bound"]["reason"] = "alone, compute took 1.40 times as long"
    row = limit_rows(results)[0]
    assert (row["solo"], row["reason"]) == ("–", "alone, compute took 1.40 times as long")


def test_clocks_are_told_as_differences(placed_results):
    row = clock_rows(placed_results)[0]
    assert row["host"].startswith("+") and row["said"] == "all agree" and not row["disagree"]


def test_predictions_stand_beside_what_was_observed(placed_results):
    row = next(row for row in prediction_rows(placed_results) if row["model"] == "vit0x0x0")
    assert row["node"] == "CPU 0, memory 1" and " to " in row["bracket"] and "±" in row["observed"] and row["agrees"]


def test_only_models_measured_at_several_sizes_have_a_crossing(placed_results):
    assert crossings(placed_results) == []
    first, second = (cell["name"] for cell in placed_results["cells"][:2])
    results = placed_results | {"hidden_copies": [{"cells": [first, second], "batch_size": 30.0, "text": "about 30"}]}
    assert crossings(results) == [("vit0x0x0, GPU 0, node 0", first, "about 30")]
