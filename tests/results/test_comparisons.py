import numpy as np
import pytest

from bench.analysis.axes import comparisons
from tests.analysis.cells import made_cell, noisy


def test_a_setting_is_compared_pair_by_pair_with_the_studys_own_value(placed_results):
    (found,) = placed_results["comparisons"]
    assert (found["axis"], found["base"], len(found["lines"])) == ("cuda_graph", {"cuda_graph": False}, 12)
    cells = {cell["name"]: cell for cell in placed_results["cells"]}
    for line in found["lines"]:
        assert line["name"] == f"{line['base_cell']}_graph"
        assert (line["value"], cells[line["base_cell"]]["settings"]["cuda_graph"]) == ({"cuda_graph": True}, False)
    small = [line for line in found["lines"] if line["model"] == "vit32x2x128"]
    assert all(line["verdict"] == "FASTER" and line["effect"] > 1 and line["headline"] for line in small)
    assert all(line["verdict"] == "SAME" for line in found["lines"] if line["model"] == "vit16x8x768")
    assert found["state"] == "matters"


def test_a_line_names_what_both_cells_have_beside_the_axis():
    cells = [made_cell(noisy(1000), name=f"pipeline_gpu0_numa0_vit32x2x128_{suffix}", batch_size=size, cuda_graph=True)
             for suffix, size in (("bs1_graph", 1), ("bs8_graph", 8))]  # fmt: skip
    (found,) = comparisons(cells, {"axes": {"batch_size": [1, 8]}, "batch_size": 10})
    assert [line["setting"] for line in found["lines"]] == ["graph"]


@pytest.mark.parametrize(("device", "advised"), [("cuda", True), ("cpu", False)])
def test_a_cuda_graph_is_advised_where_there_can_be_one(device, advised):
    cells = [made_cell(noisy(100.0, sd=0.4, seed=seed), buffers=buffers, device=device, noise_class="launch-bound")
             for seed, buffers in ((1, 1), (2, 2))]  # fmt: skip
    (found,) = comparisons(cells, {"buffers": 1})
    (line,) = found["lines"]
    assert ("cuda_graph: true" in line["hint"]) == advised and "noise" in line["hint"]


def test_settings_that_do_not_vary_are_not_compared(numa_results):
    assert numa_results["comparisons"] == []


def test_only_pairs_see_one_percent_in_an_afternoon_that_drifts_by_20():
    drift = [1000 * 0.96**block for block in range(6)]
    small = [0.01, 0.011, 0.009, 0.01, 0.0105, 0.0095]
    faster = [d * (1 + s) for d, s in zip(drift, small, strict=True)]
    cells = [made_cell(drift, host_memory="pinned"), made_cell(faster, host_memory="huge")]
    (found,) = comparisons(cells, {"host_memory": "pinned", "margin": 0.005})
    (line,) = found["lines"]
    assert line["effect"] == pytest.approx(0.01, abs=1e-4)
    assert line["interval"][0] < line["effect"] < line["interval"][1] < 0.02


@pytest.mark.parametrize("noise", range(3))
def test_chance_alone_is_no_headline_among_many_lines(noise):
    """60 lines without a difference, margin so small that none is the SAME."""
    cells = [
        made_cell(
            noisy(100.0, seed=1000 * noise + 2 * line + value), model=f"vit32x2x{line}", dtype=("fp32", "bf16")[value]
        )
        for line in range(60)
        for value in (0, 1)
    ]
    (found,) = comparisons(cells, {"dtype": "fp32"})
    assert len(found["lines"]) == 60 and not any(line["headline"] for line in found["lines"])
    assert found["state"] != "matters"


def test_a_cell_that_failed_is_named():
    cells = [made_cell(noisy(100.0)), made_cell([np.nan] * 6, dtype="bf16", name="broken")]
    cells[0]["settings"]["dtype"] = "fp32"
    (line,) = comparisons(cells, {"dtype": "fp32"})[0]["lines"]
    assert (line["verdict"], line["pairs"]) == (None, 0)
    assert "broken crashed: killed by SIGSEGV" in line["text"]


def test_penalties_are_computed_for_each_combination_of_settings(placed_results):
    """Twelve cells are not local: three models, eager and as a graph, on three other placements."""
    told = placed_results["penalties"]
    assert len(told) == 18
    cells = {cell["name"]: cell for cell in placed_results["cells"]}
    for entry in told:
        local, remote = cells[entry["local_cell"]], cells[entry["remote_cell"]]
        assert local["settings"] == remote["settings"] and local["model"] == remote["model"]


def test_a_line_has_what_could_have_been_seen_and_what_would_decide():
    cells = [made_cell(noisy(100.0, 3, 0.05)), made_cell(noisy(101.0, 3, 0.05, seed=1), dtype="bf16", name="other")]
    cells[0]["settings"]["dtype"] = "fp32"
    (line,) = comparisons(cells, {"dtype": "fp32"})[0]["lines"]
    assert 0 < line["mde"] < 1 and line["repeats_needed"] > 3
