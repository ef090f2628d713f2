import json
import os
from pathlib import Path

import pytest

from bench.host.topology import Topology, judge_nearest, read_topology
from tests.host.conftest import HOSTS

FOUND = sorted(path.name for path in HOSTS.iterdir() if (path / "sys").is_dir())

RECORDED = [
    *("container_cpuset", "cxl_memory", "dgx_a100", "grace_hopper"),
    *("sparse_ids", "two_sockets", "virtual_machine"),
]


def test_the_seven_recorded_hosts_are_there() -> None:
    assert FOUND == RECORDED


@pytest.mark.parametrize("name", RECORDED)
def test_a_topology_survives_json(name: str) -> None:
    topology = read_topology(HOSTS / name)
    assert Topology.from_json(json.loads(json.dumps(topology.to_json()))) == topology


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("two_sockets", [0, 0, 1, 1]),
        ("dgx_a100", [3, 3, 1, 1, 7, 7, 5, 5]),
        ("virtual_machine", [None, None, None, None]),
        ("grace_hopper", [0]),
        ("cxl_memory", [0, 0, 1, 1]),
        ("sparse_ids", [0, 8]),
        ("container_cpuset", [1, 1]),
    ],
)
def test_nearest_node_of_each_gpu(name: str, near: list[int | None]) -> None:
    topology = read_topology(HOSTS / name)
    assert [topology.local_node(gpu.index) for gpu in topology.gpus] == near


def test_a_silent_host_is_unknown_and_says_who_was_silent() -> None:
    gpu = read_topology(HOSTS / "virtual_machine").gpus[0]
    assert gpu.verdict == "unknown"
    assert gpu.explanation == "no answer from sysfs numa_node, NVML memory affinity, NVML CPU affinity"


def test_a_gpus_own_memory_node_is_not_near_it() -> None:
    topology = read_topology(HOSTS / "grace_hopper")
    assert topology.node(1).kind == "memory only" and topology.node(2).kind == "empty"
    assert topology.gpus[0].answers["sysfs numa_node"] == (0,)
    assert topology.gpus[0].node == 0


def test_classes_and_distances_with_gaps_in_the_ids() -> None:
    topology = read_topology(HOSTS / "sparse_ids")
    kinds = {node.id: node.kind for node in topology.nodes}
    assert kinds == {0: "cpu+memory", 4: "cpu only", 8: "cpu+memory", 255: "memory only"}
    assert topology.node(0).distances == {0: 10, 4: 20, 8: 40, 255: 80}
    assert topology.node(1) is None


def test_a_cpuset_narrows_cpus_and_memory() -> None:
    nodes = {node.id: node for node in read_topology(HOSTS / "container_cpuset").nodes}
    assert nodes[0].allowed_cpus == () and not nodes[0].memory_allowed
    assert nodes[1].allowed_cpus == tuple(range(32, 44)) and nodes[1].memory_allowed


def test_the_live_host_by_the_same_code() -> None:
    topology = read_topology(nvml={"error": "not asked", "gpus": []})
    cpus = {cpu for node in topology.nodes for cpu in node.allowed_cpus}
    assert os.sched_getaffinity(0) <= cpus
    assert sum(node.memory_bytes for node in topology.nodes) > 0


def test_a_kernel_without_nodes_counts_as_one(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1024 kB\n")
    (tmp_path / "sys/devices/system/cpu").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-3\n")
    topology = read_topology(tmp_path, {"error": "none", "gpus": []})
    assert not topology.numa
    assert [(node.id, node.cpus, node.memory_bytes) for node in topology.nodes] == [(0, (0, 1, 2, 3), 1 << 20)]


@pytest.mark.parametrize(
    ("said", "node", "verdict"),
    [
        ({"a": (2,), "b": (2,)}, 2, "agreed"),
        ({"a": (2,), "b": ()}, 2, "agreed"),
        ({"a": (2,), "b": (2, 3)}, 2, "agreed"),
        ({"a": (), "b": (2, 3)}, None, "unknown"),
        ({"a": (0,), "b": (2,)}, None, "disagreed"),
        ({"a": (), "b": ()}, None, "unknown"),
    ],
)
def test_judging_who_says_what(said: dict[str, tuple[int, ...]], node: int | None, verdict: str) -> None:
    assert judge_nearest(said)[:2] == (node, verdict)


def test_a_disagreement_names_both() -> None:
    assert judge_nearest({"a": (0,), "b": (2,)})[2] == "a says 0; b says 2"
