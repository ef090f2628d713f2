import platform
from pathlib import Path

from bench.host.fingerprint import container, cpu_model, fingerprint, fingerprint_changes, hugepages, hypervisor
from bench.host.topology import read_topology
from tests.host.conftest import HOSTS


def test_a_recorded_host() -> None:
    root = HOSTS / "dgx_a100"
    found = fingerprint(read_topology(root), root)
    assert found["cpu"] == "A CPU of a made-up host"
    assert found["driver"] == "580.95.05" and found["cuda_driver"] == "13.0"
    assert found["gpu_clocks"] == "application clock 1095 of 1410 MHz, power limit 400 W, persistence on"
    assert found["gpus"].count("NVIDIA A100-SXM4-40GB GPU-") == 8
    assert found["nodes"].startswith("0: CPUs 0-15,128-143; 1: CPUs 16-31,144-159")
    assert found["torch"] and found["hugepages"] == "thp madvise, shmem unknown, reserved 0"


def test_the_same_host_twice_has_no_changes() -> None:
    root = HOSTS / "two_sockets"
    topology = read_topology(root)
    assert fingerprint_changes(fingerprint(topology, root), fingerprint(topology, root)) == []


def test_changes_are_named_and_the_hosts_name_is_not_one() -> None:
    old = {"host": "a", "kernel": "6.1.0", "torch": "2.11", "driver": "580"}
    new = {"host": "b", "kernel": "6.8.0", "driver": "580", "nsys": "2025.3.2"}
    assert fingerprint_changes(old, new) == [
        "the kernel was 6.1.0, is 6.8.0",
        "torch was 2.11, is not recorded",
        "Nsight Systems was not recorded, is 2025.3.2",
    ]


def test_cpu_model_of_x86_and_arm() -> None:
    assert cpu_model("processor: 0\nmodel name\t: AMD EPYC 7742\n") == "AMD EPYC 7742"
    assert cpu_model("CPU implementer\t: 0x41\n") == f"{platform.machine()} CPU implementer 0x41"
    assert cpu_model("") == "unknown"


def test_hypervisor_and_container_from_files(tmp_path: Path) -> None:
    assert hypervisor(HOSTS / "two_sockets") == "none"
    assert hypervisor(HOSTS / "virtual_machine") == "unnamed"
    assert container(HOSTS / "two_sockets") == "none"
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/cgroup").write_text("0::/kubepods/besteffort/pod1\n")
    assert container(tmp_path) == "kubepods"
    assert hugepages(tmp_path) == "thp unknown, shmem unknown, reserved 0"
