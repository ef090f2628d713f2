from bench.results.comparisons import comparisons
from tests.results.made_cells import made_cell, noisy


def test_a_setting_is_compared_pair_by_pair_with_the_studys_own_value(placed_results):
    (found,) = placed_results["comparisons"]
    assert (found["setting"], found["base"], len(found["lines"])) == ("cuda_graph", False, 12)
    cells = {cell["name"]: cell for cell in placed_results["cells"]}
    for line in found["lines"]:
        assert line["name"] == f"{line['base_cell']}_graph"
        assert (line["value"], cells[line["base_cell"]]["settings"]["cuda_graph"]) == (True, False)
    small = [line for line in found["lines"] if "vit32x2x128" in line["name"]]
    assert all(line["verdict"] == "FASTER" and line["effect"] > 1 for line in small)
    assert all(line["verdict"] == "SAME" for line in found["lines"] if "vit16x8x768" in line["name"])


def test_settings_that_do_not_vary_are_not_compared(numa_results):
    assert numa_results["comparisons"] == []


def test_the_first_value_is_the_base_where_the_studys_own_was_not_run():
    cells = [made_cell(noisy(100.0, seed=size), batch_size=size) for size in (16, 32)]
    (found,) = comparisons(cells, {"batch_size": 10}, 0.02, 20)
    assert (found["base"], [line["value"] for line in found["lines"]]) == (16, [32])


def test_cells_that_differ_in_two_settings_at_once_are_not_compared():
    cells = [made_cell(noisy(100.0), batch_size=16), made_cell(noisy(100.0), batch_size=32, cuda_graph=True)]
    assert comparisons(cells, {}, 0.02, 20) == []
