import pytest
from msgspec.structs import replace

from bench.host.peers import NoPeers, PeerPlacement, choose_peers, why_no_peers
from bench.records.host import Topology
from tests.host.made_hosts import host_topology


@pytest.fixture
def two_sockets() -> Topology:
    """Four GPUs: 0 and 1 on node 0, 2 and 3 on node 1."""
    return host_topology("two_sockets")


def placed(peers: tuple[PeerPlacement, ...]) -> list[tuple[int, int | None]]:
    return [(peer.gpu, peer.node) for peer in peers]


def without_reports(topology: Topology) -> Topology:
    return replace(topology, gpus=tuple(replace(gpu, node=None) for gpu in topology.gpus))


def test_next_gpus_in_pci_order_come_first(two_sockets: Topology) -> None:
    peers = choose_peers(two_sockets, 2, 3, "local", "cuda", {})
    nodes = {gpu.index: gpu.node for gpu in two_sockets.gpus}
    assert placed(peers) == [(3, nodes[3]), (0, nodes[0]), (1, nodes[1])]
    assert [peer.gpu_uuid for peer in peers] == [two_sockets.gpu(index).uuid for index in (3, 0, 1)]


def test_remote_is_another_node_and_found_is_not_bound(two_sockets: Topology) -> None:
    nodes = {gpu.index: gpu.node for gpu in two_sockets.gpus}
    remote = choose_peers(two_sockets, 0, 3, "remote", "cuda", {})
    assert placed(remote) == [(index, 1 - nodes[index]) for index in (1, 2, 3)]
    assert placed(choose_peers(two_sockets, 0, 2, "found", "cuda", {})) == [(1, None), (2, None)]


def test_too_few_gpus_are_refused(two_sockets: Topology) -> None:
    with pytest.raises(NoPeers, match="4 other GPUs are to be busy, and 3 are available"):
        choose_peers(two_sockets, 0, 4, "local", "cuda", {})
    assert why_no_peers(two_sockets, 0, 4, "local", "cuda").startswith("4 other GPUs")
    assert why_no_peers(two_sockets, 0, 3, "local", "cuda") is None


def test_split_gpu_is_not_a_peer(two_sockets: Topology) -> None:
    gpus = tuple(replace(gpu, mig=gpu.index == 1) for gpu in two_sockets.gpus)
    split = replace(two_sockets, gpus=gpus)
    assert [peer.gpu for peer in choose_peers(split, 0, 2, "found", "cuda", {})] == [2, 3]
    assert "and 2 are available" in why_no_peers(split, 0, 3, "found", "cuda")


def test_gpu_of_another_user_is_not_a_peer(two_sockets: Topology) -> None:
    gpus = tuple(replace(gpu, visible=gpu.index != 1) for gpu in two_sockets.gpus)
    shared = replace(two_sockets, gpus=gpus)
    assert [peer.gpu for peer in choose_peers(shared, 0, 2, "found", "cuda", {})] == [2, 3]


def test_probed_node_is_used_when_none_is_reported(two_sockets: Topology) -> None:
    silent = without_reports(two_sockets)
    assert placed(choose_peers(silent, 0, 2, "local", "cuda", {1: 1, 2: 0})) == [(1, 1), (2, 0)]
    assert placed(choose_peers(silent, 0, 2, "remote", "cuda", {1: 1, 2: 0})) == [(1, 0), (2, 1)]
    # Before the probe nothing is certain; after it the cell cannot be run.
    assert why_no_peers(silent, 0, 2, "local", "cuda") is None
    for placement in ("local", "remote"):
        with pytest.raises(NoPeers, match="no node is known to be near GPU 2"):
            choose_peers(silent, 0, 2, placement, "cuda", {1: 1, 2: None})
    assert placed(choose_peers(silent, 0, 1, "found", "cuda", {})) == [(1, None)]


def test_only_node_is_near_to_all_gpus(two_sockets: Topology) -> None:
    one = replace(without_reports(two_sockets), nodes=two_sockets.nodes[:1])
    assert placed(choose_peers(one, 0, 2, "local", "cuda", {})) == [(1, 0), (2, 0)]
    assert why_no_peers(one, 0, 2, "remote", "cuda") == (
        "concurrent_placement remote needs another node than 0, and this host has none"
    )


def test_node_outside_the_cpuset_is_refused(two_sockets: Topology) -> None:
    third = replace(two_sockets.nodes[0], id=7)
    shut = replace(two_sockets.nodes[0], allowed_cpus="")
    host = replace(two_sockets, nodes=(shut, two_sockets.nodes[1], third))
    (near_node_0,) = [gpu.index for gpu in host.gpus if gpu.node == 0][-1:]
    reason = why_no_peers(host, near_node_0 - 1, 1, "local", "cuda")
    assert reason == f"node 0 is near GPU {near_node_0}, and its CPUs or memory are not for this process"


def test_gpu_is_only_a_label_on_the_cpu_device(two_sockets: Topology) -> None:
    assert placed(choose_peers(two_sockets, 0, 2, "found", "cpu", {})) == [(1, None), (2, None)]
    assert "the cpu device has no GPU to be near to" in why_no_peers(two_sockets, 0, 1, "local", "cpu")
    one = replace(two_sockets, nodes=two_sockets.nodes[:1], gpus=())
    assert placed(choose_peers(one, 0, 9, "local", "cpu", {})) == [(1 + step, 0) for step in range(9)]
    assert why_no_peers(one, 0, 0, "local", "cpu") is None
