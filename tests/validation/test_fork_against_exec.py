"""What the acceptance of forked runs makes of pairs, and that each way of being unlike is caught."""

import json
from copy import deepcopy

import numpy as np
import pytest

from tests.host.made_hosts import host_topology
from tests.validation import fork_against_exec
from tests.validation.fork_against_exec import BEGIN, END, MODELS, PAGE, joined, page, the_cells
from tests.validation.fork_results import facts, judged, variance_ratio

NEAR, FAR = "pipeline_gpu0_numa0_{}", "pipeline_gpu0_numa2_{}"
RESULT = {
    "throughput_samples_s": 1000.0,
    "phases_s": {"imports": 1.0},
    "windows": [{"batches": 10, "duration_s": 0.1, "start_ns": 0, "minor_faults": faults} for faults in (0, 3, 0)],
    "certificate": {
        "verdict": "proved",
        "policy": {"start": {"mode": "bind", "nodes": [0]}, "end": {"mode": "bind", "nodes": [0]}},
        "node_cpus": "0-7",
        "share_on_node": {"input_ring": 1.0},
        "threads": {"start": [{"allowed_cpus": "0-7", "threads": 9, "examples": ["python"]}], "end": None},
    },
}


def sample(rate: float) -> dict:
    return facts(RESULT | {"throughput_samples_s": rate}, 2.5, 0.0)


def runs(models=("vit0x0x0", "vit32x6x512"), cells=(NEAR,), blocks=40, sd=0.001, bias=0.0, fork_sd=None, remote=0.0):
    """Normal noise around 1000 samples/s; bias: of forked runs on the second node, or on the only one."""
    rng = np.random.default_rng(7)
    made = {}
    for model in models:
        for at, cell in enumerate(cells):
            local = 1000 * np.exp(at * np.log1p(-remote))
            extra = bias if at == len(cells) - 1 else 0.0
            executed = local * np.exp(rng.normal(0, sd, blocks))
            forked = local * (1 - extra) * np.exp(rng.normal(0, fork_sd or sd, blocks))
            made[cell.format(model)] = {
                str(block + 1): {"exec": sample(executed[block]), "fork": sample(forked[block])}
                for block in range(blocks)
            }
    return made


def nodes(made):
    return {name: int(name.split("numa")[1].split("_")[0]) for name in made}


def verdicts(made):
    found = judged(made, nodes(made))
    return {one["name"]: one["kept"] for one in found["criteria"]}, found


def test_runs_of_one_kind_are_accepted():
    kept, found = verdicts(runs())
    assert set(kept.values()) == {True} and found["accepted"]
    assert [row["verdict"] for row in found["cells"]] == ["SAME", "SAME"] and found["penalties"] == []


def test_a_slower_fork_is_caught():
    kept, found = verdicts(runs(bias=0.01))
    assert kept["throughput"] is False and not found["accepted"]
    assert "vit0x0x0 SLOWER" in found["criteria"][0]["measured"]


def test_few_noisy_pairs_do_not_decide():
    kept, found = verdicts(runs(blocks=4, sd=0.01))
    assert kept["throughput"] is None and kept["variance ratio in 0.5 to 2"] is None and not found["accepted"]


def test_a_penalty_that_forking_changes_is_caught():
    made = runs(cells=(NEAR, FAR), remote=0.2)
    kept, found = verdicts(made)
    assert kept["penalty"] is True and found["accepted"] and len(found["penalties"]) == 2
    changed, found = verdicts(runs(cells=(NEAR, FAR), remote=0.2, bias=0.01))
    assert changed["penalty"] is False
    assert found["penalties"][0]["slower"] == pytest.approx(0.01, abs=0.002)


def test_a_wider_spread_is_caught():
    kept, _ = verdicts(runs(sd=0.0005, fork_sd=0.0015))
    assert kept["throughput"] is True and kept["variance ratio in 0.5 to 2"] is False


def test_the_interval_of_the_variance_ratio_covers():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        executed, forked = ([list(rng.normal(0, sd, 8)) for sd in (1.0, 5.0, 0.2)] for _ in range(2))
        ratio, low, high = variance_ratio(executed, forked)
        assert low < ratio < high
        covered += low <= 1 <= high
    assert covered >= 0.92 * 300


def test_only_faults_of_forking_are_caught():
    made = runs()
    for pair in (pair for blocks in made.values() for pair in blocks.values()):
        pair["exec"]["minor_faults"] = pair["fork"]["minor_faults"] = [500, 510, 505]
    assert verdicts(made)[0]["no minor faults of forking in windows"] is True
    for pair in made[NEAR.format("vit0x0x0")].values():
        pair["fork"]["minor_faults"] = [900, 910, 905]
    kept, found = verdicts(made)
    assert kept["no minor faults of forking in windows"] is False
    assert "vit0x0x0: 905 against 505" in found["criteria"][2]["measured"]


@pytest.mark.parametrize(
    ("fact", "value"),
    [("verdict", "misplaced"), ("share_on_node", {"input_ring": 0.99}), ("thread_cpus", {"start": ["0-15"]})],
)
def test_an_unlike_certificate_is_caught_and_named(fact, value):
    made = runs()
    one = made[NEAR.format("vit0x0x0")]["17"]
    one["fork"] = deepcopy(one["fork"])
    one["fork"]["certificate"][fact] = value
    kept, found = verdicts(made)
    assert kept["equal certificates"] is False
    assert f"vit0x0x0: {fact}" in found["criteria"][-1]["measured"]


def test_half_a_pair_and_a_cell_without_pairs_are_left_out():
    made = runs(blocks=5)
    del made[NEAR.format("vit0x0x0")]["2"]["fork"]
    made[NEAR.format("vit16x8x768")] = {}
    found = judged(made, nodes(made))
    assert [(row["name"], row["pairs"]) for row in found["cells"]] == [
        (NEAR.format("vit0x0x0"), 4),
        (NEAR.format("vit32x6x512"), 5),
    ]


def test_several_calls_are_joined_and_the_page_lists_them():
    record = {"schema": 1, "device": "cuda", "gpu": "a GPU", "errors": ["block 2: oom"], "ran_s": 100.0}
    record |= {"runs": runs(blocks=3), "nodes": nodes(runs(blocks=3))}
    whole = joined([record, deepcopy(record)])
    assert [*whole["runs"][NEAR.format("vit0x0x0")]] == ["1", "2", "3", "4", "5", "6"]
    text = page(json.loads(json.dumps(whole | judged(whole["runs"], whole["nodes"]))))
    assert text.startswith("On a GPU, 24 runs in 200 s: forked runs are **not accepted**.")
    assert text.count("- block 2: oom") == 2 and "| gpu0_numa0_vit32x6x512 | 6 | 1,00" in text


def test_cells_are_those_of_the_page():
    cells = the_cells("cuda", host_topology("two_sockets"), None)
    assert [(cell.model.name, cell.cuda_graph) for cell in cells[::2]] == [*MODELS["cuda"].items()]
    assert {(cell.mem_node, cell.num_samples) for cell in cells} == {(0, 1000), (1, 1000)}
    assert BEGIN in PAGE.read_text() and END in PAGE.read_text()


def test_a_block_begins_only_if_it_fits_the_time(monkeypatch):
    class Runner:
        errors: list[str] = []  # noqa: RUF012 - of one test
        topology = None
        left = iter([10.0, -1.0])

        def left_s(self) -> float:
            return next(self.left)

        def run(self, cell, how, block):
            return sample(1000.0)

    monkeypatch.setattr(fork_against_exec, "_gpu", lambda topology, cell: "a stub")
    cells = the_cells("cuda", host_topology("two_sockets"), ["vit0x0x0"])
    record = fork_against_exec.measure(Runner(), cells, 5, None)
    assert {name: [*blocks] for name, blocks in record["runs"].items()} == {cell.name: ["1"] for cell in cells}
    assert record["runs"][cells[0].name]["1"].keys() == {"exec", "fork"}
