import math

import numpy as np
import pytest

from bench.analysis.pairs import Local
from bench.analysis.penalties import penalties, penalties_from
from bench.analysis.verdicts import Rules
from tests.analysis.cells import made_cell, noisy

MODELS = [f"m{i}" for i in range(6)]
REPORTED = {"gpus": [{"index": 0, "node": 0}]}


def study(effect=0.05, sd=0.002, runs=6, remote=2, **settings):
    return [
        made_cell(
            noisy(1000 * (1 - effect * (node == remote)), runs, sd, seed=7 * i + node),
            cpu_node=node,
            model=model,
            **settings,
        )
        for node in (0, remote)
        for i, model in enumerate(MODELS)
    ]


@pytest.mark.parametrize(("device", "advised"), [("cuda", True), ("cpu", False)])
def test_a_cuda_graph_is_advised_where_there_can_be_one(device, advised):
    found = penalties(study(0.0, sd=0.4, device=device, noise_class="launch-bound"), REPORTED)
    hints = [entry["hint"] for entry in found]
    assert all("noise" in hint and ("cuda_graph: true" in hint) == advised for hint in hints) and len(hints) == 6


def square(cpu=0.03, memory=0.05, both=None, sd=0.0005, runs=6, model="m", seed=0):
    """Cells of the 2x2 design, CPU or memory on node 0 or 1; both: what the RR cell loses beyond."""
    levels = {
        (0, 0): 0.0,
        (1, 0): math.log1p(-cpu),
        (0, 1): math.log1p(-memory),
        (1, 1): math.log1p(-cpu) + math.log1p(-memory) + (math.log1p(-both) if both else 0.0),
    }
    return [
        made_cell(noisy(1000 * math.exp(level), runs, sd, seed + 10 * i), cpu_node=c, mem_node=m, model=model)
        for i, ((c, m), level) in enumerate(levels.items())
    ]


def test_an_entry_for_each_remote_cell_as_the_contract_says():
    found = penalties(study(), REPORTED)
    assert [entry["model"] for entry in found] == MODELS
    entry = found[0]
    assert entry["penalty"] == pytest.approx(0.05, abs=0.005)
    assert entry["interval"][0] < 0.05 < entry["interval"][1]
    assert {
        key: entry[key] for key in ("gpu", "local_node", "remote_node", "local_source", "kind", "pairs")
    } == {
        "gpu": 0,
        "local_node": 0,
        "remote_node": 2,
        "local_source": "reported",
        "kind": "node",
        "pairs": 6,
    }
    assert entry["verdict"] == "SLOWER" and entry["headline"]
    assert "slower" in entry["text"]


def test_the_penalty_is_the_formula_of_the_design():
    entry = penalties([made_cell([10.0, 20.0, 40.0]), made_cell([9.0, 16.0, 38.0], cpu_node=2)], REPORTED)[0]
    assert entry["penalty"] == pytest.approx(1 - (0.9 * 0.8 * 0.95) ** (1 / 3))


def test_batch_sizes_and_gpus_are_never_compared_with_each_other():
    cells = [*study(), *study(batch_size=32), *study(gpu=1)]
    found = penalties(cells, {"gpus": [{"index": 0, "node": 0}, {"index": 1, "node": 2}]})
    assert len(found) == 18
    assert {entry["local_node"] for entry in found if entry["gpu"] == 1} == {2}
    for entry in found:
        sides = [next(c for c in cells if c["name"] == entry[key]) for key in ("local_cell", "remote_cell")]
        assert sides[0]["settings"]["batch_size"] == sides[1]["settings"]["batch_size"]


def test_a_model_listed_twice_has_two_penalties():
    twins = [
        made_cell(noisy(1000, seed=i), cpu_node=node, name=f"n{node}{again}")
        for i, (node, again) in enumerate([(0, ""), (0, "_again"), (2, ""), (2, "_again")])
    ]
    found = penalties(twins, REPORTED)
    assert [(entry["local_cell"], entry["remote_cell"]) for entry in found] == [
        ("n0", "n2"),
        ("n0_again", "n2_again"),
    ]


def test_a_cell_that_failed_is_a_line_without_a_number():
    entry = penalties([made_cell([1.0] * 6), made_cell([math.nan] * 6, cpu_node=2)], REPORTED)[0]
    assert (entry["penalty"], entry["interval"], entry["verdict"], entry["pairs"]) == (None, None, None, 0)
    assert "not measured" in entry["text"]


def test_one_node_has_no_penalty():
    assert penalties([made_cell([1.0] * 6)], REPORTED) == []
    assert penalties([], REPORTED) == []


def test_one_repeat_gives_the_penalty_and_no_verdict():
    entry = penalties([made_cell([10.0]), made_cell([9.0], cpu_node=2)], REPORTED)[0]
    assert entry["penalty"] == pytest.approx(0.1)
    assert (entry["interval"], entry["verdict"], entry["p_adjusted"]) == (None, "UNDECIDED", None)


def test_headlines_hold_after_holm_and_the_verdict_before():
    entries = penalties(study(effect=0.05) + study(effect=0.0, batch_size=32), REPORTED)
    assert all(entry["headline"] == (entry["settings"]["batch_size"] == 10) for entry in entries)
    assert all(entry["p_adjusted"] <= 1 for entry in entries)


def test_a_study_that_looked_has_wider_intervals():
    def width(rules):
        entry = penalties(study(), REPORTED, rules)[0]
        return entry["interval"][1] - entry["interval"][0]

    assert width(Rules(looked=True)) > width(Rules())


def test_the_2x2_design_gives_both_effects_and_the_interaction():
    entries = penalties_from(square(both=0.02), {0: Local(0, "reported")}, Rules())
    by_kind = {entry["kind"]: entry for entry in entries}
    assert set(by_kind) == {"node", "cpu", "memory"}
    effects = by_kind["node"]["effects"]
    # Each main effect averages over the other factor, so that half of the interaction is in each.
    half = math.log1p(-0.02) / 2
    truth = {
        "cpu": -math.expm1(math.log1p(-0.03) + half),
        "memory": -math.expm1(math.log1p(-0.05) + half),
        "interaction": 0.02,
    }
    for kind, penalty in truth.items():
        assert effects[kind]["penalty"] == pytest.approx(penalty, abs=0.001)
        low, high = effects[kind]["interval"]
        assert low < effects[kind]["penalty"] < high < low + 0.003
        assert effects[kind]["headline"]
    assert by_kind["memory"]["penalty"] == pytest.approx(0.05, abs=0.001)
    assert by_kind["cpu"]["penalty"] == pytest.approx(0.03, abs=0.001)


def test_without_interaction_the_interaction_is_said_to_be_the_same():
    entries = penalties_from(square(), {0: Local(0, "reported")}, Rules())
    effects = next(entry["effects"] for entry in entries if "effects" in entry)
    assert effects["interaction"]["verdict"] == "SAME" and not effects["interaction"]["headline"]


def test_an_incomplete_design_has_no_effects():
    entries = penalties_from(square()[:3], {0: Local(0, "reported")}, Rules())
    assert len(entries) == 2 and not any("effects" in entry for entry in entries)


def test_contrasts_equal_a_regression_on_the_design():
    """Oracle: least squares with effect coding gives the same three numbers."""
    cells = square(both=0.01, sd=0.01, seed=3)
    entries = penalties_from(cells, {0: Local(0, "reported")}, Rules())
    effects = next(entry["effects"] for entry in entries if "effects" in entry)
    rows, y = [], []
    for cell in cells:
        for run in cell["runs"]:
            c, m = cell["cpu_node"] - 0.5, cell["mem_node"] - 0.5
            rows.append([1, c, m, c * m])
            y.append(math.log(run["throughput_samples_s"]))
    _, cpu, memory, interaction = np.linalg.lstsq(np.array(rows), np.array(y), rcond=None)[0]
    for kind, log in (("cpu", cpu), ("memory", memory), ("interaction", interaction)):
        assert effects[kind]["penalty"] == pytest.approx(-math.expm1(log))
