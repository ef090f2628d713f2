"""A GPU for which no two nodes could be compared."""

import pytest

from bench.report.text.answer import ONE_NODE, answers
from bench.report.view import View
from tests.report.made import cell, results


def answer(nodes=(0,), measured=(0,), near=None, hypervisor="none", device="cuda", rate=1.0, probed=()):
    cells = tuple(cell(f"on{node}", node=node, throughput_samples_s=rate) for node in measured)
    topology = {"nodes": [{"id": node} for node in nodes], "gpus": [{"index": 0, "node": near}]}
    made = results(cells, device=device, topology=topology, locality={"gpus": probed},
                   fingerprint={"hypervisor": hypervisor})  # fmt: skip
    (found,) = answers(View(made))
    return found.lead, found.lines


def test_one_node_is_no_choice_and_no_recommendation():
    lead, lines = answer()
    text = " ".join(lines)
    assert lead == ONE_NODE
    assert "no penalty can be measured" in text and "No source reports which node is nearest to GPU 0" in text
    assert "no recommendation" in text
    assert "virtual machine" not in text and "Small copies" not in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"near": 0}, "It is also the node that the system reports as nearest to GPU 0."),
        ({"hypervisor": "unnamed"}, "This is a virtual machine"),
        (
            {"probed": [{"index": 0, "hidden_nodes": "too_few_cpus", "latency_us": 6.51, "evidence": {"cpus": 2}}]},
            "Small copies from each CPU, before the study: 6.51 µs, no hidden nodes seen: 2 CPUs are too few",
        ),
    ],
)
def test_further_facts_are_shown(changes, text):
    assert text in " ".join(answer(**changes)[1])


def test_the_cpu_device_has_no_gpu():
    assert "GPU" not in " ".join(answer(device="cpu")[1])


def test_nodes_that_were_not_measured_are_named():
    lead, lines = answer(nodes=(0, 1, 3), measured=(1,))
    assert lead.startswith("Measured on node 1 only") and lines == ("Not measured: node 0, 3.",)


def test_points_at_the_failures_when_nothing_is_comparable():
    assert answer(rate=None)[0].startswith("Nothing was measured")
    assert answer(nodes=(0, 1), measured=(0, 1))[0].startswith("No two runs to compare")
