import numpy as np
import pytest

from bench.analysis.pairs import LocalNode, fastest_nodes, local_nodes
from bench.analysis.penalties import penalties
from bench.records.base import convert
from bench.records.host import Probe, Topology
from bench.records.results import LocalSource
from tests.analysis.cells import made_cell, noisy

MODELS = ("vit0x0x0", "vit32x2x128", "vit16x8x768")
REPORTED, MEASURED, RUNS, REFERENCE = LocalSource


def host(penalty: float, nodes=(0, 2), runs=6, gpu=0, **settings):
    return [
        made_cell(
            noisy(1000 * (1 - penalty * (node != nodes[-1])), runs, seed=10 * node + i),
            gpu=gpu,
            cpu_node=node,
            model=model,
            **settings,
        )
        for node in nodes
        for i, model in enumerate(MODELS)
    ]


def topology(*nodes):
    return convert({"gpus": [{"index": index, "node": node} for index, node in enumerate(nodes)]}, Topology)


def test_the_reported_node_is_local_even_if_not_the_fastest():
    assert local_nodes(host(0.1), topology(0)) == {0: LocalNode(0, REPORTED)}


def test_an_unreported_node_is_measured():
    assert local_nodes(host(0.1), topology(None)) == {0: LocalNode(2, RUNS)}


def test_a_reported_node_without_cells_is_not_the_reference():
    assert local_nodes(host(0.1), topology(5)) == {0: LocalNode(2, RUNS)}


def test_without_a_difference_the_lowest_node_is_the_reference():
    assert local_nodes(host(0.0), topology()) == {0: LocalNode(0, REFERENCE)}


def test_the_cpu_device_has_no_reported_node():
    assert local_nodes(host(0.0, device="cpu"), topology(2)) == {0: LocalNode(0, REFERENCE)}


def test_each_gpu_has_its_own():
    cells = [*host(0.1), *host(0.1, gpu=1)]
    assert local_nodes(cells, topology(0, None)) == {0: LocalNode(0, REPORTED), 1: LocalNode(2, RUNS)}


def test_the_probe_goes_before_the_runs():
    probe = convert({"gpus": [{"index": 0, "near_nodes": [2, 0], "hidden_nodes": "several_reported"}]}, Probe)
    assert local_nodes(host(0.1, (0, 2, 4)), topology(None), probe) == {0: LocalNode(2, MEASURED)}


def test_the_fastest_of_three_must_beat_both():
    assert fastest_nodes(host(0.05, (0, 1, 2))) == (2,)


def test_two_equally_near_nodes_are_a_set_and_the_best_is_local():
    """Sub-NUMA clustering: nodes 2 and 3 share a socket with the GPU, 0 and 1 are on the other one."""
    cells = [
        made_cell(noisy(1000 * (0.9 if node < 2 else 1.0), seed=10 * node + i), cpu_node=node, model=model)
        for node in range(4)
        for i, model in enumerate(MODELS)
    ]
    near = fastest_nodes(cells)
    assert set(near) == {2, 3}
    assert local_nodes(cells, topology()) == {0: LocalNode(near[0], RUNS)}


@pytest.mark.parametrize("runs", [1, 2, 4])
def test_too_few_runs_choose_nothing(runs):
    assert fastest_nodes(host(0.3, runs=runs)) == ()


def test_runs_that_choose_do_not_estimate():
    cells = host(0.1)
    penalty = penalties(cells, local_nodes(cells, topology()))[0]
    assert (penalty.local_node, penalty.pairs) == (2, 3)
    assert penalties(cells, local_nodes(cells, topology(2)))[0].pairs == 6


def test_noise_rarely_chooses_a_node():
    chosen = 0
    for seed in range(200):
        cells = [
            made_cell(noisy(1000, seed=1000 * seed + 10 * node + i), cpu_node=node, model=model)
            for node in (0, 1, 2)
            for i, model in enumerate(MODELS)
        ]
        chosen += bool(fastest_nodes(cells))
    assert chosen <= 7


def test_means_that_agree_by_chance_choose_no_node():
    """Processes with two states: in each block another model is faster on node 2, so the means of blocks are equal."""
    cells = []
    for model, name in enumerate(MODELS):
        rates = [1000.0 * (1 + 0.01 * (block // 2 % 3 == model)) for block in range(6)]
        cells += [made_cell([1000.0] * 6, cpu_node=0, model=name), made_cell(rates, cpu_node=2, model=name)]
    assert fastest_nodes(cells) == ()


@pytest.mark.parametrize(("t", "chosen"), [(3.6, ()), (4.4, (2,))])
def test_the_level_is_shared_among_the_nodes(t, chosen):
    """One-sided p over six odd blocks: 0.8 % and 0.35 %."""
    wiggle = np.repeat([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], 2)
    logs = 1e-3 * (wiggle + t * wiggle[::2].std(ddof=1) / np.sqrt(6))
    cells = [made_cell([1000.0] * 12, cpu_node=0), made_cell((1000 * np.exp(logs)).tolist(), cpu_node=2)]
    assert fastest_nodes(cells) == chosen


def test_launch_bound_cells_do_not_choose_a_node():
    loud = [
        made_cell(noisy(5000 * (1 + 0.5 * (node == 0))), cpu_node=node, model="vit32x1x64", noise_class="launch-bound")
        for node in (0, 2)
    ]
    assert fastest_nodes([*host(0.05), *loud]) == (2,)
