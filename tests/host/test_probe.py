"""The verdicts of the probe. The GPU's answers are stand-ins; timed_copies itself needs a GPU."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from bench.host.probe import (
    ProbeError,
    chosen_cpus,
    locality_changes,
    measure_small_copies,
    measured_locality,
    probe,
    probe_cpu,
    run_child,
)
from bench.host.timed_copies import SmallCopies, SmallCopyRequest
from bench.host.topology import read_topology
from bench.records.base import decode
from bench.records.host import (
    Agreement,
    Distance,
    HiddenNodes,
    LocalityChangeKind,
    Nvml,
    Probe,
)
from tests.host.made_hosts import host_topology


class StandInGpus:
    """Answers requests as GPUs would whose latency is given by CPU; `moving` shuffles it between scans."""

    def __init__(
        self,
        latency_us: dict[int, float],
        moving: bool = False,
        follows_context: bool = False,
        context: Callable[[int, int], float] = lambda cpu, context_cpu: 1.0,
    ) -> None:
        self.latency_us, self.moving, self.follows_context = latency_us, moving, follows_context
        self.context = context
        self.random = np.random.default_rng(0)
        self.requests: list[SmallCopyRequest] = []

    def __call__(self, request: SmallCopyRequest) -> SmallCopies:
        self.requests.append(request)
        scans = []
        low, high = min(self.latency_us.values()), max(self.latency_us.values())
        turned = self.follows_context and self.latency_us[request.context_cpu] > (low + high) / 2
        for number in range(request.scans):
            values = {cpu: low + high - us if turned else us for cpu, us in self.latency_us.items()}
            if self.moving and number:
                values = dict(zip(values, self.random.permutation(list(values.values())), strict=True))
            scan = {
                cpu: values[cpu] * self.context(cpu, request.context_cpu) * float(np.exp(self.random.normal(0, 0.01)))
                for cpu in request.cpus
            }
            scans.append(dict.fromkeys(request.bus_ids, scan))
        return SmallCopies(scans=tuple(scans), tick_us=0.02)


def test_measured_nodes_are_compared_with_the_reported() -> None:
    near_node_0 = {cpu: 9.1 if cpu < 32 else 11.2 for cpu in range(64)}
    gpus = probe(host_topology("two_sockets"), measure=StandInGpus(near_node_0)).gpus
    assert [gpu.measured_node for gpu in gpus] == [0, 0, 0, 0]
    assert [gpu.reported_node for gpu in gpus] == [0, 0, 1, 1]
    assert [gpu.agreement for gpu in gpus] == [Agreement.AGREED] * 2 + [Agreement.DISAGREED] * 2
    assert gpus[0].latency_us_by_node == pytest.approx({0: 9.1, 1: 11.2}, rel=0.02)


def test_a_context_is_created_on_each_node() -> None:
    gpus = StandInGpus(dict.fromkeys(range(64), 9.1))
    assert len(probe(host_topology("two_sockets"), measure=gpus).gpus[0].scans_us) == 8
    assert [request.context_cpu // 32 for request in gpus.requests] == [0, 1]
    assert {request.scans for request in gpus.requests} == {4}


def test_a_node_is_not_near_because_the_context_lies_there() -> None:
    """Its memory 10 % nearer, the GPU 5 % nearer to node 1: from each birth another node is faster."""

    def context(cpu: int, context_cpu: int) -> float:
        return 1.0 if cpu // 32 == context_cpu // 32 else 1.1

    near_node_1 = {cpu: 9.1 * (1.0 if cpu < 32 else 0.95) for cpu in range(64)}
    gpus = probe(host_topology("two_sockets"), measure=StandInGpus(near_node_1, context=context)).gpus
    assert {gpu.near_nodes for gpu in gpus} == {()}


def test_equally_near_nodes_are_a_set() -> None:
    """Node 3 of the DGX and its neighbour, all others farther."""
    topology = host_topology("dgx_a100")
    near = [set(node.cpu_ids) for node in topology.nodes[2:4]]
    latency = {cpu: 9.1 if any(cpu in own for own in near) else 10.0 for node in topology.nodes for cpu in node.cpu_ids}
    gpu = probe(topology, measure=StandInGpus(latency)).gpus[0]
    assert (set(gpu.near_nodes), gpu.measured_node) == ({2, 3}, None)


def test_no_node_is_nearest_by_chance() -> None:
    gpus = probe(host_topology("two_sockets"), measure=StandInGpus(dict.fromkeys(range(64), 9.1))).gpus
    assert {gpu.measured_node for gpu in gpus} == {None}
    assert {gpu.hidden_nodes for gpu in gpus} == {HiddenNodes.SEVERAL_REPORTED}


def test_some_cpus_of_every_node_are_probed() -> None:
    nodes = host_topology("dgx_a100").nodes
    cpus = chosen_cpus(nodes)
    assert len(cpus) == 128 and all(sum(cpu in node.cpu_ids for cpu in cpus) == 16 for node in nodes)


def hidden() -> dict[int, float]:
    return {cpu: 9.1 if cpu % 2 else 11.2 for cpu in range(64)}


def test_hidden_nodes_are_found_when_they_hold() -> None:
    found = probe(host_topology("virtual_machine"), measure=StandInGpus(hidden()))
    gpu = found.gpus[0]
    assert found.can_hold is True and gpu.hidden_nodes is HiddenNodes.FOUND
    assert gpu.hidden_groups.centres_us == pytest.approx((9.1, 11.2), rel=0.02) and gpu.hidden_groups.holds
    assert gpu.hidden_groups.distance is Distance.GPU


def test_placement_cannot_be_held_when_virtual_cpus_move() -> None:
    found = probe(host_topology("virtual_machine"), measure=StandInGpus(hidden(), moving=True))
    assert found.can_hold is False and not found.gpus[0].hidden_groups.holds


def test_recognises_latency_that_follows_the_drivers_memory() -> None:
    found = probe(host_topology("virtual_machine"), measure=StandInGpus(hidden(), follows_context=True))
    assert found.gpus[0].hidden_groups.distance is Distance.DRIVER_MEMORY


def test_one_request_is_enough_when_there_are_no_groups() -> None:
    gpus = StandInGpus(dict.fromkeys(range(64), 9.1))
    found = probe(host_topology("virtual_machine"), measure=gpus)
    assert len(gpus.requests) == 1 and found.gpus[0].hidden_nodes is HiddenNodes.ONE_GROUP
    assert found.gpus[0].latency_us == pytest.approx(9.1, rel=0.02) and found.gpus[0].evidence.p_value > 0.005
    request = gpus.requests[0]
    assert request.per_cpu_s * len(request.cpus) * len(request.bus_ids) * request.scans <= 6.0


def test_slow_cores_are_not_a_hidden_node() -> None:
    gpus = StandInGpus({cpu: 9.1 if cpu % 10 >= 5 else 10.2 for cpu in range(20)})
    found = probe(host_topology("two_kinds_of_cores"), measure=gpus)
    assert gpus.requests[0].cpus == (*range(5, 10), *range(15, 20))
    assert found.gpus[0].hidden_nodes is HiddenNodes.ONE_GROUP


def test_gpus_of_other_users_are_not_probed() -> None:
    topology = host_topology("two_sockets")
    shared = replace(topology, gpus=tuple(replace(gpu, visible=gpu.index == 2) for gpu in topology.gpus))
    gpus = StandInGpus(dict.fromkeys(range(64), 9.1))
    assert [gpu.index for gpu in probe(shared, measure=gpus).gpus] == [2]
    assert gpus.requests[0].bus_ids == (topology.gpus[2].pci_bus_id,)
    hidden = replace(topology, gpus=tuple(replace(gpu, visible=False) for gpu in topology.gpus))
    with pytest.raises(ProbeError, match="CUDA_VISIBLE_DEVICES excludes all GPUs"):
        probe(hidden)


def test_probe_survives_json() -> None:
    found = probe(host_topology("virtual_machine"), measure=StandInGpus(hidden()))
    assert decode(msgspec.json.encode(found), Probe) == found


def test_end_of_a_study_is_compared_with_its_start() -> None:
    start = probe(host_topology("virtual_machine"), measure=StandInGpus(hidden()))
    same = probe(host_topology("virtual_machine"), measure=StandInGpus(hidden()))
    other = {cpu: 9.1 if cpu < 32 else 11.2 for cpu in range(64)}
    moved = probe(host_topology("virtual_machine"), measure=StandInGpus(other))
    assert locality_changes(start, same) == ()
    change = locality_changes(start, moved)[0]
    assert (change.kind, change.gpu) == (LocalityChangeKind.CPUS_CHANGED_GROUPS, 0) and change.rand_index < 0.9


def test_groups_that_appear_or_vanish_are_named() -> None:
    groups = probe(host_topology("virtual_machine"), measure=StandInGpus(hidden()))
    none = probe(host_topology("virtual_machine"), measure=StandInGpus(dict.fromkeys(range(64), 9.1)))
    assert {change.kind for change in locality_changes(groups, none)} == {LocalityChangeKind.GROUPS_VANISHED}
    assert {change.kind for change in locality_changes(none, groups)} == {LocalityChangeKind.GROUPS_APPEARED}


def test_nearest_node_that_changed_is_named() -> None:
    start = probe(host_topology("two_sockets"), measure=StandInGpus({cpu: 9.1 + (cpu > 31) for cpu in range(64)}))
    end = probe(host_topology("two_sockets"), measure=StandInGpus({cpu: 9.1 + (cpu < 32) for cpu in range(64)}))
    change = locality_changes(start, end)[0]
    assert change.kind is LocalityChangeKind.NEAREST_NODE and change.nodes == (0, 1)


def test_gpu_that_disappeared_during_the_study_is_named() -> None:
    start = probe(host_topology("two_sockets"), measure=StandInGpus(dict.fromkeys(range(64), 9.1)))
    lost, *others = start.gpus
    # The others have new numbers then.
    end = replace(start, gpus=tuple(replace(gpu, index=index) for index, gpu in enumerate(others)))
    (gone,) = locality_changes(start, end)
    assert (gone.kind, gone.gpu, gone.pci_bus_id) == (LocalityChangeKind.GPU_GONE, 0, lost.pci_bus_id)
    (new,) = locality_changes(end, start)
    assert (new.kind, new.pci_bus_id) == (LocalityChangeKind.GPU_NEW, lost.pci_bus_id)


def test_probe_is_refused_without_a_gpu() -> None:
    bare = replace(host_topology("two_sockets"), gpus=(), nvml_error="Driver Not Loaded")
    with pytest.raises(ProbeError, match="no GPU to probe: Driver Not Loaded"):
        probe(bare)


def test_split_gpu_is_not_probed() -> None:
    topology = host_topology("two_sockets")
    split = replace(topology, gpus=tuple(replace(gpu, mig=gpu.index == 0) for gpu in topology.gpus))
    gpus = StandInGpus(dict.fromkeys(range(64), 9.1))
    assert probe(split, measure=gpus).gpus[0].hidden_nodes is HiddenNodes.NOT_PROBED
    assert topology.gpus[0].pci_bus_id not in gpus.requests[0].bus_ids


def request(bus_id: str = "0000:ff:1f.7") -> SmallCopyRequest:
    return SmallCopyRequest(bus_ids=(bus_id,), cpus=(0,), per_cpu_s=0.001, scans=1, context_cpu=0, seed=0)


def test_missing_gpu_fails_by_name() -> None:
    with pytest.raises(ProbeError, match="the probe failed: timed_copies: "):
        measure_small_copies(request())


def test_failing_child_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProbeError, match="did not start: No such file"):
        run_child(["/no/such/program"])
    monkeypatch.setattr("bench.host.probe.run_child", lambda command: "a driver's warning")
    with pytest.raises(ProbeError, match="a driver's warning"):
        measure_small_copies(request())


def test_cpu_device_has_no_locality() -> None:
    assert measured_locality("cpu") == Probe(device="cpu")


def test_copies_between_nodes_are_measured_on_the_cpu_device() -> None:
    rates = probe_cpu(read_topology(nvml=Nvml())).copy_gb_s
    speeds = [rate for row in rates.values() for rate in row.values() if rate is not None]
    assert speeds and min(speeds) > 0
