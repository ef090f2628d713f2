import pytest

from bench.records.base import convert
from bench.records.host import FingerprintChange, LocalityChange, Probe, Probed
from bench.report.text.host import copy_texts, fingerprint_change_text, locality_change_text, probe_text, probed_text

GROUPS = {"fast": "0-3", "slow": "4-9", "centres_us": [5.2, 6.4], "rand_index": 0.98, "holds": True, "distance": "gpu"}
NODES = {"hidden_nodes": "several_reported", "latency_us_by_node": {"0": 5.21, "1": 6.4}}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_nodes": "not_probed"}, "split by MIG, not probed"),
        (NODES, "no node is nearer by measurement (node 0 5.21 µs, node 1 6.40 µs)"),
        (NODES | {"near_nodes": [1, 0], "reported_node": 0, "agreement": "agreed"},
         "nodes 0 and 1 are near by measurement, none of them nearer than the others, node 0 as reported: agreed ("),
        (NODES | {"measured_node": 0}, "node 0 is nearest by measurement ("),
        (NODES | {"measured_node": 0, "reported_node": 1, "agreement": "disagreed"},
         "node 0 by measurement, node 1 as reported: disagreed ("),
        ({"hidden_nodes": "too_few_cpus", "evidence": {"cpus": 3}}, "3 CPUs are too few to distinguish groups"),
        ({"hidden_nodes": "one_group", "evidence": {"p_value": 0.7}}, 
         "one group; CPUs without groups look at least as split in 70 % of cases (dip test of two scans)"),
        ({"hidden_nodes": "small_group", "evidence": {"scan": 1, "smaller_share": 0.06}},
         "in scan 1 the smaller group has 6.0 % of the CPUs"),
        ({"hidden_nodes": "close_groups", "evidence": {"scan": 2, "gap": 0.01, "gap_needed": 0.05}},
         "in scan 2 the groups are 1.0 % apart, less than 5.0 %"),
        ({"hidden_nodes": "unstable_latencies", "evidence": {"shift": 0.2}}, "latencies moved by 20 % between"),
        ({"hidden_nodes": "found", "hidden_groups": GROUPS}, "4 CPUs at 5.20 µs, 6 at 6.40 µs; they hold"),
        ({"hidden_nodes": "found", "hidden_groups": GROUPS | {"holds": False}}, "placement cannot be held"),
    ],
)  # fmt: skip
def test_each_probe_result_has_its_sentence(changes, text):
    assert text in probed_text(convert({"index": 0} | changes, Probed))


def test_a_probe_has_a_line_for_each_gpu_and_its_duration():
    probe = convert({"gpus": [{"index": 3, "hidden_nodes": "not_probed"}], "duration_s": 12.4}, Probe)
    assert probe_text(probe) == "GPU 3: split by MIG, not probed\nprobed in 12 s"


def test_the_cpu_device_has_a_line_for_each_node():
    probe = convert({"device": "cpu", "copy_gb_s": {"0": {"0": 12.5, "1": None}}}, Probe)
    assert copy_texts(probe) == ["CPUs of node 0, copies within the memory of (GB/s): node 0 12.5, node 1 refused"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "gpu_gone", "gpu": 1, "pci_bus_id": "0000:11"}, "GPU 1 (0000:11) was present at the start only"),
        ({"kind": "gpu_new", "pci_bus_id": "0000:11"}, "the GPU at 0000:11 was present at the end only"),
        ({"kind": "nearest_node", "gpu": 1, "nodes": [0, None]}, "GPU 1: nearest node by measurement 0, then none"),
        ({"kind": "groups_appeared", "gpu": 1}, "GPU 1: hidden groups were seen at the end only"),
        ({"kind": "groups_vanished", "gpu": 1}, "GPU 1: hidden groups were seen at the start only"),
        ({"kind": "cpus_changed_groups", "gpu": 1, "rand_index": 0.5}, "CPUs changed groups during the study (adjust"),
    ],
)
def test_each_change_of_locality_has_its_sentence(change, text):
    assert text in locality_change_text(convert(change, LocalityChange))


def test_a_foreign_fingerprint_names_both_values():
    change = convert({"fact": "cuda_driver", "before": "", "after": "13.0"}, FingerprintChange)
    assert fingerprint_change_text(change) == "cuda driver: 13.0, in the study: not recorded"
