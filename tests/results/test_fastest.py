import math

import numpy as np
import pytest

from bench.analysis.axes import comparisons
from bench.analysis.fastest import fastest
from bench.analysis.statistics import Comparison, estimate_pairs
from bench.report.text import fastest_ways
from tests.analysis.cells import made_cell, noisy

STUDY = {"dtype": "fp32", "cuda_graph": False, "compile_model": "off", "buffers": 2}
SUFFIXES = {"dtype": "{}", "cuda_graph": "graph", "compile_model": "compiled-{}", "batch_size": "bs{}"}


def way(throughputs, *, model="vit32x2x128", node=0, **changes):
    """A cell named as the grid names it, of the study's values but for `changes`."""
    suffixes = "".join("_" + SUFFIXES[key].format(value) for key, value in changes.items())
    settings = {"dtype": "fp32", "compile_model": "off"} | changes
    name = f"pipeline_gpu0_numa{node}_{model}{suffixes}"
    return made_cell(throughputs, cpu_node=node, model=model, name=name, **settings)


def lines(*cells):
    (found,) = fastest_ways({"cells": cells, "study": STUDY, "fastest": fastest(cells, STUDY)})
    return found.lines


def test_the_fastest_way_is_told_with_its_gain_and_as_sure_as_it_is():
    cells = (
        way(noisy(1000)),
        way(noisy(1500, seed=1), cuda_graph=True),
        way(noisy(1200, seed=2), compile_model="default"),
    )
    (entry,) = fastest(cells, STUDY)
    assert (entry["way"], entry["ways"], entry["rivals"], entry["same_dtype"]) == ("graph", 3, [], None)
    low, high = entry["interval"]
    assert low < entry["effect"] < high and entry["effect"] == pytest.approx(0.5, abs=0.01)
    (line,) = lines(*cells)
    assert line.startswith("vit32x2x128: graph, 1,5") and line.endswith("ahead of all 2 others")


def test_the_gain_is_that_of_the_paired_comparison_with_the_base():
    base, graph = noisy(1000, sd=0.02), noisy(1500, sd=0.02, seed=1)
    (entry,) = fastest((way(base), way(graph, cuda_graph=True)), STUDY)
    runs = [dict(enumerate(side, 1)) for side in (base, graph)]
    (told,) = estimate_pairs([Comparison("graph", "rest", *runs)])
    assert entry["effect"] == pytest.approx(math.expm1(told.mean_log))
    assert entry["interval"] == pytest.approx([-told.interval[1], -told.interval[0]])


def test_what_cannot_be_told_from_the_fastest_is_named():
    wild = way(noisy(1400, sd=0.3, seed=3), compile_model="default")
    (line,) = lines(way(noisy(1000)), way(noisy(1500, seed=1), cuda_graph=True), wild)
    assert line.endswith("not told apart from compiled-default")


def test_where_the_base_may_be_as_fast_that_is_said():
    (line,) = lines(way(noisy(1000, sd=0.2)), way(noisy(1100, sd=0.2, seed=1), cuda_graph=True))
    assert line.startswith("vit32x2x128: none told apart from the base; the most was seen of graph, 1,")


def test_of_many_workloads_a_few_are_told():
    cells = [
        way(noisy(level * size), batch_size=size, **changes)
        for size in range(20, 40)
        for level, changes in ((10, {}), (20, {"cuda_graph": True}))
    ]
    told = lines(*cells)
    assert len(told) == 13 and told[-1] == "8 more in results.json"


def test_where_another_dtype_wins_the_studys_own_is_told_too():
    cells = (
        way(noisy(1000)),
        way(noisy(1500, seed=1), cuda_graph=True),
        way(noisy(3000, seed=2), dtype="bf16"),
        way(noisy(2000, seed=4), dtype="bf16", cuda_graph=True),
    )
    (line,) = lines(*cells)
    assert line.startswith("vit32x2x128: bf16, ") and "ahead of all 3 others; with fp32 graph, 1,5" in line
    assert line.endswith("ahead of 1 other")


def test_one_pair_makes_nothing_sure():
    (entry,) = fastest((way([1000.0]), way([9000.0], cuda_graph=True)), STUDY)
    assert (entry["rivals"], entry["interval"]) == (["base"], None)
    assert lines(way([1000.0]), way([9000.0], cuda_graph=True)) == (
        "vit32x2x128: graph, 9,000 samples/s, × 9.0, the fastest of 2 in one pair",
    )


def test_other_work_is_another_race():
    cells = [
        way(noisy(1000)),
        way(noisy(1500, seed=1), cuda_graph=True),
        way(noisy(5000, seed=2), batch_size=50),
        way(noisy(5500, seed=3), batch_size=50, cuda_graph=True),
    ]
    assert [line.split(",")[0] for line in lines(*cells)] == ["vit32x2x128: graph", "vit32x2x128 bs50: graph"]
    assert fastest((way(noisy(1000)), way(noisy(2000), batch_size=50)), STUDY) == []
    assert fastest_ways({"cells": [], "study": STUDY, "fastest": []}) == []


def test_two_ways_that_an_axis_compares_are_told_as_there():
    """One pair of cells, pooled with others: the page has one interval and one verdict of it."""
    quiet = noisy(1000), noisy(1500, seed=1)
    cells = way(quiet[0]), way(quiet[1], cuda_graph=True), way(noisy(900, sd=0.3, seed=2), compile_model="default")
    (line,) = [
        line
        for axis in comparisons(cells, STUDY)
        for line in axis["lines"]
        if line["name"] == cells[1]["name"]
    ]
    assert line["verdict"] == "FASTER"
    (entry,) = fastest(cells, STUDY, compared=comparisons(cells, STUDY))
    assert (entry["effect"], entry["interval"]) == (pytest.approx(line["effect"]), pytest.approx(line["interval"]))
    assert "base" not in entry["rivals"]
    # Where the fastest way is the base of the axis the comparison is turned round.
    slower = way(noisy(1000)), way(noisy(500, seed=1), cuda_graph=True)
    (entry,) = fastest(slower, STUDY, compared=comparisons(slower, STUDY))
    assert (entry["way"], entry["rivals"]) == ("base", [])


def test_a_way_that_is_not_the_studys_own_is_not_called_base():
    """All compiled, and the study's own value is off: no base was measured."""
    rates = {"fp32": 1000, "bf16": 2000}
    cells = [way(noisy(rate, seed=rate), compile_model="default", dtype=dtype) for dtype, rate in rates.items()]
    (entry,) = fastest(cells, STUDY)
    assert entry["base_cell"] is None and entry["way"] == "bf16"
    (entry,) = fastest([cells[0] | {"throughput_samples_s": 9000.0}, cells[1]], STUDY)
    assert entry["way"] == "fp32"


def test_a_gain_on_the_base_is_promised_only_where_a_base_was_measured():
    base, graph = way(noisy(1000)), way(noisy(1500, seed=1), cuda_graph=True)
    modes = way(noisy(1500, seed=2), compile_model="default"), way(noisy(1200), compile_model="reduce-overhead")
    for cells, said in (((base, graph), True), (modes, False)):
        (found,) = fastest_ways({"cells": cells, "study": STUDY, "fastest": fastest(cells, STUDY)})
        assert ("gain on the base" in found.lead) == said


def test_what_did_not_run_is_no_rival_and_what_shares_no_block_is():
    nothing = math.nan
    failed = way([nothing] * 4, compile_model="default")
    apart = way([nothing, nothing, 900.0, 901.0], dtype="bf16")
    (entry,) = fastest((way([1000.0, 1001.0, nothing, nothing]), failed, apart), STUDY)
    assert (entry["ways"], entry["rivals"], entry["way"]) == (2, ["bf16"], "base")


def test_several_nodes_are_summed_up():
    cells = [
        way(noisy(level, seed=seed), node=node, **changes)
        for seed, (node, level, changes) in enumerate(
            [(0, 1000, {}), (0, 1500, {"cuda_graph": True}), (2, 1000, {}), (2, 1400, {"cuda_graph": True})]
        )
    ]
    (line,) = lines(*cells)
    assert line == "vit32x2x128: graph on 2 of 2 GPUs and nodes, +40 % to +50 %, told apart from all others on 2"


def test_among_equals_none_is_called_the_only_fastest_more_often_than_the_level_says():
    random, studies, claimed = np.random.default_rng(7), 400, 0
    for _ in range(studies):
        runs = 1000 * np.exp(random.normal(0, 0.01, (2, 6)))
        (entry,) = fastest((way(runs[0].tolist()), way(runs[1].tolist(), cuda_graph=True)), STUDY)
        claimed += not entry["rivals"]
    assert claimed <= 0.05 * studies + 2 * math.sqrt(0.05 * 0.95 * studies)
