from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.host.doctor import doctor_command
from bench.host.nccl_topology import DEFAULT, parse_nccl_topology, read_nccl_topology
from bench.host.topology import describe_answers, read_topology
from bench.records.host import Agreement, AnswerState, LocalitySource
from tests.host.made_hosts import HOSTS, Files, host_files, near, write_host

VIRTUAL = {"proc/cpuinfo": "model name\t: A CPU\nflags\t\t: fpu hypervisor sse2"}
# As clouds ship them: a bridge above each GPU, 32-bit words with the highest first, PCI domains of 8 digits.
FILE = """<system version="1">
  <cpu numaid="0" affinity="ffff" arch="x86_64">
    <pci busid="ffff:ff:01.0" class="0x060400"><pci busid="00000000:01:00.0" class="0x030200"/></pci>
  </cpu>
  <cpu numaid="1" affinity="00000000,ffff0000" arch="x86_64">
    <pci busid="ffff:ff:02.0"><pci busid="0000:02:00.0"><gpu dev="1"/></pci><pci busid="0000:03:00.0"/></pci>
  </cpu>
</system>
"""


def virtual_host(nodes: dict[int, tuple[str, int]], numa_node: int = -1) -> Files:
    everywhere = near(0, "0-31") | {"memory_affinity": ",".join(map(str, nodes))}
    gpus = [(f"0000:0{n}:00.0", numa_node, everywhere) for n in (1, 2)]
    return host_files(nodes, gpus, files=VIRTUAL | {str(DEFAULT): FILE})


def test_the_file_names_the_node_where_nothing_else_does(tmp_path: Path) -> None:
    topology = read_topology(write_host(tmp_path, virtual_host({0: ("0-15", 64), 1: ("16-31", 64)})))
    assert [(gpu.node, gpu.agreement) for gpu in topology.gpus] == [(0, Agreement.REPORTED), (1, Agreement.REPORTED)]
    assert "NCCL topology file reports 1 (CPUs 16-31)" in describe_answers(topology.gpus[1].answers)


def test_a_witness_that_contradicts_is_a_disagreement(tmp_path: Path) -> None:
    topology = read_topology(write_host(tmp_path, virtual_host({0: ("0-15", 64), 1: ("16-31", 64)}, numa_node=0)))
    assert [(gpu.node, gpu.agreement) for gpu in topology.gpus] == [(0, Agreement.AGREED), (None, Agreement.DISAGREED)]


def test_nodes_that_the_kernel_hides_are_named_and_not_taken(tmp_path: Path) -> None:
    root = write_host(tmp_path, virtual_host({0: ("0-31", 128)}))
    topology = read_topology(root)
    assert [gpu.node for gpu in topology.gpus] == [None, None]
    assert {gpu.answers[LocalitySource.NCCL].state for gpu in topology.gpus} == {AnswerState.HIDDEN_NODES}
    text, _ = doctor_command(as_json=False, strict=False, root=root)
    assert "NCCL topology file reports 1 (CPUs 16-31), of the physical host, whose nodes this kernel does not" in text


def test_a_host_without_the_file_has_no_such_witness(tmp_path: Path) -> None:
    topology = read_topology(write_host(tmp_path, HOSTS["two_sockets"]))
    assert all(LocalitySource.NCCL not in gpu.answers for gpu in topology.gpus)


def test_the_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "topology.xml").write_text(FILE)
    monkeypatch.setenv("NCCL_TOPO_FILE", str(tmp_path / "topology.xml"))
    found = read_nccl_topology()
    assert found and found.nodes == {0, 1} and found.places["0000:02:00.0"].cpus == "16-31"
    assert read_nccl_topology(tmp_path) is None


@pytest.mark.parametrize("content", ["", "<system>", "{}", '<!DOCTYPE a [<!ENTITY b "c">]><system/>', "x" * (2 << 20)])
def test_a_file_that_cannot_be_read_names_no_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "topology.xml").write_text(content)
    for file in ("topology.xml", "missing.xml"):
        monkeypatch.setenv("NCCL_TOPO_FILE", str(tmp_path / file))
        found = read_nccl_topology()
        assert found and not found.places


@given(st.data())
def test_a_damaged_file_is_refused_or_read(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FILE) - 1))
    damaged = FILE[:at] + data.draw(st.text(max_size=3)) + FILE[at + data.draw(st.integers(0, 40)) :]
    try:
        found = parse_nccl_topology(damaged.encode())
    except ValueError:
        return
    assert {place.node for place in found.places.values()} <= found.nodes
