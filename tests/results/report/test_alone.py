import pytest

from bench.report.text import ONE_NODE, nothing_compared


def results(nodes=(0,), measured=(0,), near=None, hypervisor="none", device="cuda", rate=1.0, text=""):
    return {
        "device": device,
        "cells": [{"gpu": 0, "mem_node": node, "throughput_samples_s": rate} for node in measured],
        "topology": {
            "nodes": [{"id": node} for node in nodes],
            "gpus": [{"index": 0, "node": near}],
        },
        "locality": {"gpus": [{"index": 0, "text": text}]} if text else {},
        "fingerprint": {"hypervisor": hypervisor},
    }


def test_one_node_is_nothing_to_choose_and_no_advice():
    lead, lines = nothing_compared(results(), 0)
    said = " ".join(lines)
    assert lead == ONE_NODE
    assert (
        "no penalty can be measured" in said
        and "Nothing reports which node is nearest to GPU 0" in said
        and "no advice" in said
    )
    assert "virtual machine" not in said and "Small copies" not in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"near": 0}, "It is also the node that the system reports as nearest to GPU 0."),
        ({"hypervisor": "unnamed"}, "This is a virtual machine"),
        (
            {"text": "GPU 0: 6.51 us, no hidden nodes seen"},
            "Small copies from each CPU, before the study: 6.51 µs, no hidden nodes seen.",
        ),
    ],
)
def test_what_is_known_besides_is_said(changes, said):
    assert said in " ".join(nothing_compared(results(**changes), 0)[1])


def test_the_cpu_device_speaks_of_no_gpu():
    assert "GPU" not in " ".join(nothing_compared(results(device="cpu"), 0)[1])


def test_a_host_with_more_nodes_than_were_measured_names_them():
    lead, lines = nothing_compared(results(nodes=(0, 1, 3), measured=(1,)), 0)
    assert lead.startswith("Measured on node 1 only") and lines == ("Not measured: node 0, 3.",)


def test_nothing_measured_and_nothing_comparable_point_at_the_failures():
    assert nothing_compared(results(rate=None), 0)[0].startswith("Nothing was measured")
    assert nothing_compared(results(nodes=(0, 1), measured=(0, 1)), 0)[0].startswith("No two runs to compare")
