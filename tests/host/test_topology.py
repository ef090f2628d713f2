import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.host.topology import core_kinds, describe_answers, free_bytes, judge_nearest, meminfo, read_topology
from bench.records.base import decode
from bench.records.host import (
    Agreement,
    AnswerState,
    LocalityAnswer,
    LocalitySource,
    Nvml,
    NvmlGpu,
    Topology,
    format_cpulist,
    parse_cpulist,
)
from tests.host.made_hosts import HOSTS, host_topology, write_host

SYSFS, MEMORY = LocalitySource.SYSFS, LocalitySource.NVML_MEMORY
NO_GPU = Nvml(error="not asked")


def answer(*nodes: int) -> LocalityAnswer:
    return LocalityAnswer(state=AnswerState.COUNTS if nodes else AnswerState.NONE, nodes=nodes)


@pytest.mark.parametrize("name", HOSTS)
def test_topology_survives_json(name: str) -> None:
    topology = host_topology(name)
    assert decode(msgspec.json.encode(topology), Topology) == topology


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
        ("one_node", [0]),
        ("memory_only_answer", [0]),
        ("offline_answer", [None]),
        ("job_in_virtual_machine", [None, None]),
        ("cpuset_of_a_slice", [0, 0, 1, 1]),
        ("old_kernel", [0, 0, 1, 1]),
    ],
)
def test_nearest_node_of_each_gpu_is_found(name: str, near: list[int | None]) -> None:
    topology = host_topology(name)
    assert [topology.local_node(gpu.index) for gpu in topology.gpus] == near


def test_node_is_unknown_when_no_source_answers() -> None:
    gpu = host_topology("virtual_machine").gpus[0]
    assert gpu.agreement is Agreement.UNKNOWN
    assert describe_answers(gpu.answers) == (
        "NVML memory affinity and NVML CPU affinity report 0, which is every node that this process may use; "
        "no answer from sysfs numa_node"
    )


def test_own_memory_node_of_a_gpu_is_not_near_it() -> None:
    topology = host_topology("grace_hopper")
    assert topology.node(1).kind == "memory only" and topology.node(2).kind == "empty"
    assert topology.gpus[0].answers[SYSFS] == answer(0)
    assert topology.gpus[0].node == 0


def test_kinds_and_distances_when_ids_have_gaps() -> None:
    topology = host_topology("sparse_ids")
    kinds = {node.id: node.kind for node in topology.nodes}
    assert kinds == {0: "cpu+memory", 4: "cpu only", 8: "cpu+memory", 255: "memory only"}
    assert topology.node(0).distances == {0: 10, 4: 20, 8: 40, 255: 80}
    assert topology.node(1) is None


def test_cpuset_narrows_cpus_and_memory() -> None:
    nodes = {node.id: node for node in host_topology("container_cpuset").nodes}
    assert nodes[0].allowed_cpus == "" and not nodes[0].memory_allowed
    assert nodes[1].allowed_cpus == "32-43" and nodes[1].memory_allowed


def test_live_host_is_read() -> None:
    topology = read_topology(nvml=NO_GPU)
    cpus = {cpu for node in topology.nodes for cpu in node.allowed_cpu_ids}
    assert os.sched_getaffinity(0) <= cpus
    assert sum(node.memory_bytes for node in topology.nodes) > 0


def test_one_node_is_assumed_when_the_kernel_reports_none(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1024 kB\n")
    (tmp_path / "sys/devices/system/cpu").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-3\n")
    topology = read_topology(tmp_path, NO_GPU)
    assert not topology.numa
    assert [(node.id, node.cpus, node.memory_bytes) for node in topology.nodes] == [(0, "0-3", 1 << 20)]


@pytest.mark.parametrize(
    ("answers", "node", "agreement"),
    [
        ({SYSFS: answer(2), MEMORY: answer(2)}, 2, "agreed"),
        ({SYSFS: answer(2), MEMORY: answer()}, 2, "reported"),
        ({SYSFS: answer(2), MEMORY: answer(2, 3)}, 2, "agreed"),
        ({SYSFS: answer(), MEMORY: answer(2, 3)}, None, "unknown"),
        ({SYSFS: answer(0), MEMORY: answer(2)}, None, "disagreed"),
        ({SYSFS: answer(), MEMORY: answer()}, None, "unknown"),
    ],
)
def test_nearest_node_is_what_all_answers_share(
    answers: dict[LocalitySource, LocalityAnswer], node: int | None, agreement: str
) -> None:
    assert judge_nearest(answers, host_topology("dgx_a100").nodes, virtual=False) == (node, agreement)


def test_only_node_is_nearest_unless_the_machine_is_virtual() -> None:
    nodes = host_topology("one_node").nodes
    assert judge_nearest({SYSFS: answer()}, nodes, virtual=False) == (0, Agreement.ONLY_NODE)
    assert judge_nearest({SYSFS: answer()}, nodes, virtual=True) == (None, Agreement.UNKNOWN)


@pytest.mark.parametrize(
    ("name", "source", "state"),
    [
        ("memory_only_answer", SYSFS, AnswerState.NO_CPUS),
        ("offline_answer", SYSFS, AnswerState.OFFLINE),
        ("job_in_virtual_machine", LocalitySource.NVML_CPU, AnswerState.EVERY_NODE),
        ("job_in_virtual_machine", SYSFS, AnswerState.NONE),
        ("two_sockets", SYSFS, AnswerState.COUNTS),
    ],
)
def test_answers_count_only_when_they_distinguish_nodes(name: str, source: LocalitySource, state: AnswerState) -> None:
    assert host_topology(name).gpus[0].answers[source].state is state


def test_answers_are_described_with_their_sources() -> None:
    answers = {SYSFS: answer(0), MEMORY: answer(2)}
    assert describe_answers(answers) == "sysfs numa_node reports 0; NVML memory affinity reports 2"
    offline = host_topology("offline_answer").gpus[0].answers
    assert describe_answers(offline).startswith("sysfs numa_node reports 0, which is not online; no answer from")


def test_cpuset_of_an_ancestor_limits_its_groups() -> None:
    nodes = host_topology("cpuset_of_a_slice").nodes
    allowed = [(node.allowed_cpus, node.memory_allowed) for node in nodes]
    assert allowed == [("0-7", True), ("", False)]


def test_memory_of_gpus_is_labelled() -> None:
    owners = {node.id: node.gpu_memory for node in host_topology("two_graces").nodes}
    assert owners == {0: (), 1: (), 2: (0,), 3: (0,), 4: (1,), 5: (1,)}
    assert [node.gpu_memory for node in host_topology("cxl_memory").nodes] == [(), (), ()]


def test_memory_of_a_gpu_is_read_from_the_driver(tmp_path: Path) -> None:
    status = "proc/driver/nvidia/gpus/0000:17:00.0/numa_status"
    root = write_host(tmp_path, HOSTS["cxl_memory"] | {status: "Node:\t\t2\nStatus: online\n"})
    assert [node.gpu_memory for node in read_topology(root).nodes] == [(), (), (0,)]


def test_kinds_of_cores_are_separated_by_speed(tmp_path: Path) -> None:
    assert host_topology("two_kinds_of_cores").core_kinds == ("5-9,15-19", "0-4,10-14")
    assert host_topology("two_sockets").core_kinds == ()
    hybrid = {"sys/devices/cpu_core/cpus": "0-7", "sys/devices/cpu_atom/cpus": "8-15"}
    assert core_kinds(write_host(tmp_path / "hybrid", hybrid)) == ("0-7", "8-15")
    favoured = {f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq": str(5200 - 50 * cpu) for cpu in range(8)}
    one_kind = write_host(tmp_path / "one_kind", favoured | {"sys/devices/system/cpu/online": "0-7"})
    assert core_kinds(one_kind) == ()


def test_gpus_outside_cuda_visible_devices_are_not_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpus = tuple(NvmlGpu(pci_bus_id=f"0000:0{n}:00.0") for n in (1, 2))
    topology = read_topology(nvml=Nvml(gpus=gpus))
    assert [gpu.index for gpu in topology.gpus] == [0, 1] and [gpu.index for gpu in topology.visible_gpus] == [1]
    # A recorded host has nothing to do with this process.
    assert len(host_topology("two_sockets").visible_gpus) == 4


def test_kernel_without_lists_is_read(tmp_path: Path) -> None:
    nodes = "sys/devices/system/node"
    files = {f"{nodes}/node0/cpumap": "00000000,0000000f", f"{nodes}/node2/cpumap": "00000001,00000000"}
    files |= {f"{nodes}/node{node}/meminfo": f"Node {node} MemTotal: 1 kB" for node in (0, 2)}
    topology = read_topology(write_host(tmp_path, files), NO_GPU)
    assert [(node.id, node.cpus) for node in topology.nodes] == [(0, "0-3"), (2, "32")]


def test_offline_cpus_are_not_listed() -> None:
    assert [node.cpus for node in host_topology("old_kernel").nodes] == ["0-31", "32-47"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3,8", (0, 1, 2, 3, 8)), ("", ()), ("none", ()), ("5\n", (5,)), ("0,2-3,128-129", (0, 2, 3, 128, 129))],
)
def test_kernel_lists_are_read(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_cpulist(text) == numbers


def test_other_text_is_no_kernel_list() -> None:
    with pytest.raises(ValueError):
        parse_cpulist("node0")


@given(st.sets(st.integers(0, 300)))
def test_kernel_list_reads_back_as_written(numbers: set[int]) -> None:
    assert set(parse_cpulist(format_cpulist(numbers))) == numbers


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(text)


def test_meminfo_of_a_node_and_of_the_machine_are_read(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal:        4 kB\nActive(file):  2 kB\nHugePages_Total:  7\n")
    write(tmp_path / "sys/devices/system/node/node2/meminfo", "Node 2 MemTotal:   3 kB\nNode 2 Active(file): 1 kB\n")
    assert meminfo(tmp_path, 2) == {"MemTotal": 3072, "Active(file)": 1024}
    assert meminfo(tmp_path, 0) == {"MemTotal": 4096, "Active(file)": 2048}
    assert free_bytes(tmp_path, 0) == 2048


def test_meminfo_is_empty_when_a_node_has_none(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 4 kB\n")
    (tmp_path / "sys/devices/system/node/node1").mkdir(parents=True)
    assert meminfo(tmp_path, 1) == {}
    assert meminfo(tmp_path / "elsewhere", 0) == {}


def test_offline_cpu_is_left_out_when_no_list_names_the_online_ones(tmp_path: Path) -> None:
    """As in hwloc's 16em64t-4s2c2t-offlines: only a file of each CPU says that it is offline."""
    files = {f"sys/devices/system/cpu/cpu{cpu}/online": str(int(cpu != 2)) for cpu in range(1, 4)}
    root = write_host(tmp_path, files | {"sys/devices/system/cpu/cpu0/topology/core_id": "0"})
    assert [node.cpus for node in read_topology(root, Nvml()).nodes] == ["0-1,3"]
