"""The verdicts of the probe. The GPU's answers are stand-ins (named so); small_copy itself needs a GPU."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.host.probe import (
    ProbeError,
    chosen_cpus,
    probe,
    probe_command,
    probe_cpu,
    run_child,
    run_small_copy,
    still_holds,
)
from bench.host.topology import Topology, read_topology
from tests.host.conftest import HOSTS


class StandInGpus:
    """Answers requests as GPUs would whose latency is given by CPU; `moving` shuffles it between scans."""

    def __init__(self, latency_us: dict[int, float], moving: bool = False, follows_context: bool = False) -> None:
        self.latency_us, self.moving, self.follows_context = latency_us, moving, follows_context
        self.random = np.random.default_rng(0)
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        scans = []
        low, high = min(self.latency_us.values()), max(self.latency_us.values())
        turned = self.follows_context and self.latency_us[request["context_cpu"]] > (low + high) / 2
        for number in range(request["scans"]):
            values = {cpu: low + high - us if turned else us for cpu, us in self.latency_us.items()}
            if self.moving and number:
                values = dict(zip(values, self.random.permutation(list(values.values())), strict=True))
            scan = {str(cpu): values[cpu] * float(np.exp(self.random.normal(0, 0.01))) for cpu in request["cpus"]}
            scans.append(dict.fromkeys(request["bus_ids"], scan))
        return {"scans": scans, "tick_us": 0.02}


def host(name: str) -> Topology:
    return read_topology(HOSTS / name)


def test_nodes_are_measured_and_compared_with_the_reported() -> None:
    near_node_0 = {cpu: 9.1 if cpu < 32 else 11.2 for cpu in range(64)}
    found = probe(host("two_sockets"), measure=StandInGpus(near_node_0))
    assert [gpu["measured_node"] for gpu in found["gpus"]] == [0, 0, 0, 0]
    assert [gpu["agreement"] for gpu in found["gpus"]] == ["agreed", "agreed", "disagreed", "disagreed"]
    assert "node 0 by measurement, node 1 as reported: disagreed" in found["gpus"][2]["text"]


def test_no_node_is_named_nearest_by_chance() -> None:
    found = probe(host("two_sockets"), measure=StandInGpus(dict.fromkeys(range(64), 9.1)))
    assert {gpu["measured_node"] for gpu in found["gpus"]} == {None}


def test_some_cpus_of_every_node_are_asked() -> None:
    cpus = chosen_cpus(list(host("dgx_a100").nodes))
    assert len(cpus) == 64 and all(sum(cpu in node.cpus for cpu in cpus) == 8 for node in host("dgx_a100").nodes)


def hidden() -> dict[int, float]:
    return {cpu: 9.1 if cpu % 2 else 11.2 for cpu in range(64)}


def test_a_hidden_topology_that_holds() -> None:
    found = probe(host("virtual_machine"), measure=StandInGpus(hidden()))
    gpu = found["gpus"][0]
    assert found["can_hold"] is True and gpu["hidden_groups"]["centres_us"] == pytest.approx([9.1, 11.2], rel=0.02)
    assert gpu["seen"] == "distance to the GPU" and "two are seen" in gpu["text"]


def test_virtual_cpus_that_move_cannot_be_held() -> None:
    found = probe(host("virtual_machine"), measure=StandInGpus(hidden(), moving=True))
    assert found["can_hold"] is False and "placement cannot be held on this machine" in found["gpus"][0]["text"]


def test_latency_that_follows_the_drivers_memory() -> None:
    found = probe(host("virtual_machine"), measure=StandInGpus(hidden(), follows_context=True))
    assert found["gpus"][0]["seen"] == "distance to the driver's memory"


def test_a_plain_virtual_machine_has_no_groups_and_asks_once() -> None:
    gpus = StandInGpus(dict.fromkeys(range(64), 9.1))
    found = probe(host("virtual_machine"), measure=gpus)
    assert len(gpus.requests) == 1 and "no hidden nodes seen" in found["gpus"][0]["text"]
    request = gpus.requests[0]
    assert request["per_cpu_s"] * len(request["cpus"]) * len(request["bus_ids"]) * request["scans"] <= 6.0


def test_the_end_of_a_study_is_compared_with_its_start() -> None:
    start = probe(host("virtual_machine"), measure=StandInGpus(hidden()))
    same = probe(host("virtual_machine"), measure=StandInGpus(hidden()))
    other = {cpu: 9.1 if cpu < 32 else 11.2 for cpu in range(64)}
    moved = probe(host("virtual_machine"), measure=StandInGpus(other))
    assert still_holds(start, same) == []
    assert "GPU 0: CPUs changed groups during the study" in still_holds(start, moved)[0]


def test_a_gpu_that_left_during_the_study_is_named() -> None:
    start = probe(host("two_sockets"), measure=StandInGpus(dict.fromkeys(range(64), 9.1)))
    lost, *left = start["gpus"]
    # The others are numbered anew then.
    end = {"gpus": [gpu | {"index": index} for index, gpu in enumerate(left)]}
    assert still_holds(start, end) == [f"GPU 0 ({lost['pci_bus_id']}) was there at the start only"]
    assert still_holds(end, start) == [f"the GPU at {lost['pci_bus_id']} was there at the end only"]


def test_a_host_without_a_gpu_says_so() -> None:
    bare = replace(host("two_sockets"), gpus=(), nvml_error="Driver Not Loaded")
    with pytest.raises(ProbeError, match="no GPU to probe: Driver Not Loaded"):
        probe(bare)


def test_a_gpu_that_is_not_there_fails_by_name() -> None:
    request = {"bus_ids": ["0000:ff:1f.7"], "cpus": [0], "per_cpu_s": 0.001, "scans": 1, "context_cpu": 0, "seed": 0}
    with pytest.raises(ProbeError, match="the probe failed: small_copy: "):
        run_small_copy(request)


def test_a_child_that_cannot_start_or_speaks_otherwise_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProbeError, match="did not start: No such file"):
        run_child(["/no/such/program"])
    monkeypatch.setattr("bench.host.probe.run_child", lambda command: "a driver's warning")
    with pytest.raises(ProbeError, match="a driver's warning"):
        run_small_copy({})


def test_the_cpu_device_measures_its_nodes() -> None:
    topology = read_topology(nvml={"gpus": []})
    found = probe_cpu(topology)
    speeds = [speed for row in found["copy_gb_s"].values() for speed in row.values() if speed is not None]
    assert speeds and min(speeds) > 0
    assert "GB/s" in probe_command(as_json=False, device="cpu")
