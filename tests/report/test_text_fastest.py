from bench.records.base import convert
from bench.records.results import Fastest
from bench.report.text.fastest import execution_label, fastest_findings
from tests.report import made

BASE = {"cell": "base", "settings": {}, "dtype": "fp32", "is_base": True}
GRAPH = {"cell": "graph", "settings": {"cuda_graph": True}, "dtype": "fp32", "is_base": False}
BF16 = {"cell": "bf16", "settings": {"dtype": "bf16"}, "dtype": "bf16", "is_base": False}
COMPILED = {"cell": "compiled", "settings": {"compile_model": "default"}, "dtype": "fp32", "is_base": False}


def entry(execution=GRAPH, rivals=(), **changes):
    values = {
        "cell": execution["cell"], "gpu": 0, "cpu_node": 0, "mem_node": 0, "model": "vit32x2x128", "settings": {},
        "execution": execution, "candidates": 3, "throughput_samples_s": 1500.0, "base_cell": "base", "effect": 0.5,
        "interval": (0.49, 0.51), "pairs": 6, "rivals": rivals, "same_dtype": None,
    }  # fmt: skip
    return convert(values | changes, Fastest)


def finding(*entries):
    cells = made.cell("base"), made.cell("graph", differing={"cuda_graph": True})
    (found,) = fastest_findings(made.results(cells, fastest=entries))
    return found


def lines(*entries):
    return finding(*entries).lines


def test_the_fastest_has_its_gain():
    assert lines(entry()) == ("vit32x2x128: graph, 1,500 samples/s, +50.0 % [49.0, 51.0], ahead of all 2 others",)
    assert finding(entry()).lead == "The fastest settings of each model, and their gain over the base (CUDA graph off)"


def test_rivals_are_named():
    (line,) = lines(entry(rivals=[COMPILED]))
    assert line.endswith("not distinguishable from compiled")
    many = [GRAPH, COMPILED, BF16, COMPILED]
    assert lines(entry(rivals=many, candidates=6))[0].endswith("not distinguishable from 4 of the other 5")


def test_a_base_that_may_be_as_fast_comes_first():
    (line,) = lines(entry(rivals=[BASE]))
    assert line.startswith("vit32x2x128: none distinguishable from the base; the highest was graph, 1,500")


def test_one_pair_decides_nothing():
    (line,) = lines(entry(rivals=[BASE], pairs=1, candidates=2, interval=None, effect=8.0))
    assert line == "vit32x2x128: graph, 1,500 samples/s, × 9.0, the fastest of 2 in one pair"


def test_another_dtype_is_followed_by_the_studys_own():
    (line,) = lines(entry(BF16, candidates=4, same_dtype=entry(candidates=2)))
    assert line.startswith("vit32x2x128: bf16, ") and "ahead of all 3 others; with fp32 graph, 1,500" in line
    assert line.endswith("ahead of 1 other")


def test_a_few_of_many_workloads_are_shown():
    shown = lines(*(entry(settings={"batch_size": size}) for size in range(20, 40)))
    assert len(shown) == 13 and shown[-1] == "8 more in results.json"
    assert shown[0].startswith("vit32x2x128 bs20: graph")


def test_several_places_are_summarised():
    (line,) = lines(entry(effect=0.4), entry(mem_node=2))
    assert line == "vit32x2x128: graph on 2 of 2 GPUs and nodes, +40 % to +50 %, ahead of all others on 2"


def test_a_gain_over_the_base_needs_a_measured_base():
    assert "gain over the base" not in finding(entry(COMPILED, base_cell=None, effect=None, interval=None)).lead


def test_no_candidates_no_finding():
    assert fastest_findings(made.results()) == []


def test_settings_that_are_not_the_base_are_never_called_base():
    assert execution_label(entry(BASE | {"is_base": False}).execution) == "fp32"
    assert execution_label(entry(BASE).execution) == "base"
