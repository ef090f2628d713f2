import re
from dataclasses import replace

import pytest

from bench.report.text import Answer, Loss, answers, best_node, cards, host_facts


def loss(verdict="SLOWER", share=0.2, interval=(0.18, 0.22), node=2, label="vit32x2x128", sure=True):
    return Loss(label, f"node {node}", node, False, share, interval, verdict, sure, "cell", "text", "hint")


def entry(results, **changes):
    """The results with one penalty, of the first remote cell, changed."""
    first = next(entry for entry in results["penalties"] if entry["gpu"] == 0)
    return results | {"penalties": [first | changes]}


def test_labels_of_the_cpu_device_are_not_counted_as_devices():
    of_cpu = [
        Answer(device, gpu, "AMD", None, "", "nothing", (), ()) for device, gpu in (("CPU", 0), ("CPU, label 5", 5))
    ]
    assert [card.device for card in cards(of_cpu)] == ["CPU"]
    of_gpus = [replace(one, device=f"GPU {one.gpu}") for one in of_cpu]
    assert [card.device for card in cards(of_gpus)] == ["GPUs 0, 5"]
    named = {"device_names": {"0": "X", "5": "X"}, "fingerprint": {"cpu": "X"}, "host": {"name": "h"}}
    assert host_facts(named | {"device": "cpu"}) == ["h", "X"]
    assert host_facts(named | {"device": "cuda"}) == ["h", "2 × X", "X"]


def test_the_answer_names_the_near_node_and_the_losses(numa_results):
    found = answers(numa_results)
    assert [(answer.gpu, answer.node) for answer in found] == [(0, 0), (1, 0), (2, 2), (3, 2)]
    assert re.search(r"On node 2 vit0x0x0 loses (29\.\d|30) % ± [\d.]+ %;", found[0].sentence)
    assert "vit16x8x768 and vit16x12x1024 lose nothing above" in found[0].sentence


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"penalty": 0.229, "interval": [0.208, 0.25], "verdict": "SLOWER"}, "loses 23 % ± 2 %"),
        ({"penalty": -0.1, "interval": [-0.12, -0.08], "verdict": "FASTER"}, "gains 10 % ± 2 %"),
        ({"penalty": 0.002, "interval": [-0.011, 0.0151], "verdict": "SAME"}, "loses nothing above 1.6 %"),
        ({"penalty": 0.05, "interval": [-0.1, 0.2], "verdict": "UNDECIDED"}, "is too noisy to tell"),
        (
            {"penalty": 0.05, "interval": [0.01, 0.09], "verdict": "SLOWER", "headline": False},
            "probably loses 5 % ± 4 %",
        ),
        ({"penalty": 0.3, "interval": None, "verdict": "UNDECIDED"}, "loses 30 %. 1 run: no uncertainty known."),
    ],
)
def test_each_verdict_has_its_words(numa_results, changes, said):
    assert said in answers(entry(numa_results, **{"headline": True} | changes))[0].sentence


def test_where_no_node_is_known_to_be_near_none_is_recommended(numa_results):
    answer = answers(entry(numa_results, local_source="reference"))[0]
    assert answer.node is None
    assert answer.lead == "Compared with node 0:"


def test_a_faster_far_node_wins_over_the_reported_one(numa_results):
    changes = {"penalty": -0.1, "interval": [-0.12, -0.08], "verdict": "FASTER", "headline": True}
    answer = answers(entry(numa_results, **changes))[0]
    assert answer.node == 2
    assert "faster than node 0" in answer.lead


def test_a_node_that_is_faster_for_one_model_and_slower_for_another_does_not_win():
    assert best_node(0, [loss("FASTER"), loss("SLOWER")]) == 0
    assert best_node(0, [loss("FASTER"), loss("SAME")]) == 2
    assert best_node(0, [loss("FASTER", node=1), loss("SLOWER", node=2)]) == 1


def test_a_single_node_is_not_compared(quick_run, results_of):
    (answer,) = answers(results_of(quick_run))
    assert (answer.device, answer.node, answer.losses) == ("CPU", None, ())
    assert answer.lead == "One NUMA node: nothing to choose."


def test_without_any_result_it_points_at_the_failures(quick_run, results_of):
    for file in (quick_run / "runs").iterdir():
        file.unlink()
    assert "failures" in answers(results_of(quick_run))[0].sentence


def test_whole_nodes_are_told_before_split_placements(placed_results):
    first, *split, _ = answers(placed_results)[0].lines
    assert first.startswith("On node 1 ")
    assert [line.split(" vit")[0] for line in split] == ["On CPU 0, memory 1", "On CPU 1, memory 0"]


@pytest.mark.parametrize(("interaction", "said"), [
    ({"verdict": "SAME", "penalty": 0.01, "headline": False}, "elsewhere add up for vit0x0x0."),
    ({"verdict": "SLOWER", "penalty": 0.1, "headline": True}, "together make more than their sum for vit0x0x0."),
    ({"verdict": "FASTER", "penalty": -0.1, "headline": True}, "together make less than their sum for vit0x0x0."),
    ({"verdict": "SLOWER", "penalty": 0.1, "headline": False}, "cannot be told to add up for vit0x0x0."),
    ({"verdict": "UNDECIDED", "penalty": 0.1, "headline": False}, "cannot be told to add up for vit0x0x0."),
])  # fmt: skip
def test_whether_the_parts_of_a_2x2_add_up_is_said(placed_results, interaction, said):
    design = next(entry for entry in placed_results["penalties"] if entry.get("effects"))
    changed = design | {"effects": {"interaction": interaction}}
    (answer,) = answers(placed_results | {"penalties": [changed]})
    assert answer.lines[-1].startswith("The costs of CPUs and of memory ") and answer.lines[-1].endswith(said)


def test_advice_against_the_reported_node_rests_on_what_is_sure():
    """Of many models some come out faster elsewhere by chance."""
    assert best_node(0, [loss("FASTER", sure=False), loss("SAME")]) == 0
    assert best_node(0, [loss("FASTER"), loss("SLOWER", sure=False)]) == 0


def test_a_split_placement_is_no_node_to_run_on():
    assert best_node(0, [replace(loss("FASTER"), split=True)]) == 0
    assert best_node(0, [loss("FASTER"), replace(loss("SLOWER"), split=True)]) == 2


def test_an_interval_that_tells_nothing_is_not_put_behind_a_loss():
    assert loss(share=-0.9, interval=(-2033.2, 0.998)).figure == "90 %"
