from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.host.topology import read_topology
from bench.records.host import Nvml
from bench.records.study import Settings
from bench.study.constraints import why_not_here
from tests.host.made_hosts import TRAPS, host_root, host_topology, write_host

CUDA = Settings(device="cuda")


@pytest.mark.parametrize(
    ("host", "gpu", "cpu_node", "mem_node", "reason"),
    [
        ("two_sockets", 0, 0, 1, ""),
        ("two_sockets", 0, 2, 0, "no such NUMA node: 2 (this host has 0-1)"),
        ("two_sockets", 0, 0, 2, "no such NUMA node: 2 (this host has 0-1)"),
        ("two_sockets", 4, 0, 0, "no such GPU: 4 (this host has 0-3)"),
        ("cxl_memory", 0, 2, 0, "node 2 has no CPUs: it can only be a memory node"),
        ("cxl_memory", 0, 0, 2, ""),
        ("sparse_ids", 0, 4, 0, ""),
        ("sparse_ids", 0, 0, 4, "node 4 has no memory: it can only be a CPU node"),
        ("sparse_ids", 0, 1, 1, "no such NUMA node: 1 (this host has 0,4,8,255)"),
        ("container_cpuset", 0, 0, 1, "the CPUs of node 0 (0-31) are outside this process's cpuset"),
        ("container_cpuset", 0, 1, 0, "the memory of node 0 is outside this process's cpuset (Mems_allowed)"),
        ("container_cpuset", 0, 1, 1, ""),
    ],
)
def test_placements_are_checked_against_hosts(host: str, gpu: int, cpu_node: int, mem_node: int, reason: str) -> None:
    assert why_not_here(host_topology(host), gpu, (cpu_node, mem_node), CUDA) == reason


def test_split_gpu_is_not_runnable(tmp_path: Path) -> None:
    topology = read_topology(write_host(tmp_path, TRAPS["mig"].files))
    reason = why_not_here(topology, 1, (0, 0), CUDA)
    assert reason == "GPU 1 (0000:65:00.0) is split by MIG: its instances are not measured"


def test_gpu_is_only_a_label_on_the_cpu_device() -> None:
    topology = read_topology(host_root("two_sockets"), Nvml(error="Driver Not Loaded"))
    assert why_not_here(topology, 0, (0, 1), Settings(device="cpu")) == ""
    assert why_not_here(topology, 0, (0, 1), CUDA) == "no such GPU: 0 (NVML: Driver Not Loaded)"


def test_gpu_of_another_user_is_not_runnable() -> None:
    topology = host_topology("two_sockets")
    shared = replace(topology, gpus=tuple(replace(gpu, visible=gpu.index == 0) for gpu in topology.gpus))
    assert why_not_here(shared, 0, (0, 0), CUDA) == ""
    assert why_not_here(shared, 1, (0, 0), CUDA) == "GPU 1 is not in CUDA_VISIBLE_DEVICES: it is not for this user"


def test_memory_is_not_placed_elsewhere_when_only_cpus_are_bound() -> None:
    cpus = Settings(device="cuda", binding="cpus")
    assert why_not_here(host_topology("two_sockets"), 0, (1, 1), cpus) == ""
    reason = "memory cannot be placed on node 1 from node 0 with binding cpus"
    assert why_not_here(host_topology("two_sockets"), 0, (0, 1), cpus) == reason
