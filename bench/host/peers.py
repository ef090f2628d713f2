"""The GPUs that are busy beside a measured one, and the nodes where their processes belong."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import StudyError
from bench.records.host import Topology
from bench.records.study import ConcurrentPlacement


@dataclass(frozen=True)
class PeerPlacement:
    """A GPU to keep busy beside the measured one. node: of its process, CPUs and memory; None if it is not bound."""

    gpu: int
    gpu_uuid: str | None
    node: int | None


class NoPeers(StudyError):
    """This host has fewer GPUs than a cell keeps busy, or the nodes of their processes are not known."""


def choose_peers(
    topology: Topology,
    gpu: int,
    count: int,
    placement: ConcurrentPlacement,
    device: str,
    probed: Mapping[int, int | None],
) -> tuple[PeerPlacement, ...]:
    """`count` other GPUs in PCI order, the one after `gpu` first. Raise NoPeers.

    placement: local is the node nearest to each peer, as reported, else as probed, else the only one; remote the
        first other node. probed: the nearest node by measurement, by GPU. device: on "cpu" a GPU is only a label.
    """
    if device == "cpu":
        others: list[tuple[int, str | None]] = [(gpu + step, None) for step in range(1, count + 1)]
    else:
        usable = [other for other in topology.gpus if other.visible and not other.mig and other.index != gpu]
        usable.sort(key=lambda other: (other.index < gpu, other.index))
        if len(usable) < count:
            raise NoPeers(f"{count} other GPUs are to be busy, and {len(usable)} are available")
        others = [(other.index, other.uuid) for other in usable[:count]]
    return tuple(
        PeerPlacement(index, uuid, _node(topology, index, placement, device, probed)) for index, uuid in others
    )


def why_no_peers(topology: Topology, gpu: int, count: int, placement: ConcurrentPlacement, device: str) -> str | None:
    """What is certain before anything was probed: why a cell cannot have its peers here, or None."""
    if count == 0:
        return None
    # A node that a probe may still find is assumed to be found.
    hoped = next((node.id for node in topology.nodes if node.usable), None)
    try:
        choose_peers(topology, gpu, count, placement, device, {other.index: hoped for other in topology.gpus})
    except NoPeers as error:
        return error.what
    return None


def _node(
    topology: Topology, gpu: int, placement: ConcurrentPlacement, device: str, probed: Mapping[int, int | None]
) -> int | None:
    if placement == "found":
        return None
    nodes = [node.id for node in topology.nodes if node.usable]
    if not nodes:
        raise NoPeers("no node has both CPUs and memory that this process may use")
    nearest = nodes[0] if len(nodes) == 1 else None
    if nearest is None and device != "cpu":
        nearest = topology.local_node(gpu)
        nearest = probed.get(gpu) if nearest is None else nearest
    if nearest is None:
        unknown = (
            "the cpu device has no GPU to be near to" if device == "cpu" else f"no node is known to be near GPU {gpu}"
        )
        raise NoPeers(f"{unknown}: concurrent_placement {placement} has no meaning, found has")
    if placement == "local":
        if nearest not in nodes:
            raise NoPeers(f"node {nearest} is near GPU {gpu}, and its CPUs or memory are not for this process")
        return nearest
    others = [node for node in nodes if node != nearest]
    if not others:
        raise NoPeers(f"concurrent_placement remote needs another node than {nearest}, and this host has none")
    return others[0]
