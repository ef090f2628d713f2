import platform
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.host.environment import container, hypervisor
from bench.host.fingerprint import (
    cpu_model,
    cpu_part,
    describe_change,
    find_importer,
    find_nsys,
    fingerprint,
    fingerprint_changes,
    hugepages,
    kernel_parameters,
    nsys_version,
)
from bench.records.host import Fingerprint
from tests.host.made_hosts import host_root, host_topology


def test_fingerprint_of_a_recorded_host() -> None:
    found = fingerprint(host_topology("dgx_a100"), host_root("dgx_a100"))
    assert found.cpu == "A CPU of a made-up host"
    assert found.driver == "580.95.05" and found.cuda_driver == "13.0"
    assert found.gpu_clocks == "application clock 1095 of 1410 MHz, power limit 400 W, persistence on"
    assert found.gpus.count("NVIDIA A100-SXM4-40GB GPU-") == 8
    assert found.nodes.startswith("0: CPUs 0-15,128-143; 1: CPUs 16-31,144-159")
    assert found.hugepages == "thp madvise, shmem unknown, reserved 0"
    tools = found.host, found.machine, found.python, found.torch, found.nsys, found.constraints
    assert not any(tools) and fingerprint(host_topology("dgx_a100")).torch


def test_nothing_changes_when_the_host_is_the_same() -> None:
    root, topology = host_root("two_sockets"), host_topology("two_sockets")
    assert fingerprint_changes(fingerprint(topology, root), fingerprint(topology, root)) == ()


def test_changes_are_named_without_the_host_name() -> None:
    old = Fingerprint(host="a", kernel="6.1.0", torch="2.11", driver="580")
    new = Fingerprint(host="b", kernel="6.8.0", driver="580", nsys="2025.3.2")
    assert list(map(describe_change, fingerprint_changes(old, new))) == [
        "the kernel was 6.1.0, is 6.8.0",
        "torch was 2.11, is not recorded",
        "Nsight Systems was not recorded, is 2025.3.2",
    ]


def test_cpu_model_is_read_on_x86_and_arm() -> None:
    assert cpu_model("processor: 0\nmodel name\t: AMD EPYC 7742\n") == "AMD EPYC 7742"
    assert cpu_model("CPU implementer\t: 0x41\n") == f"{platform.machine()} CPU implementer 0x41"
    assert cpu_model("") == "unknown"


def test_cpu_part_is_read_on_arm_and_power() -> None:
    big_little = "CPU implementer\t: 0x41\nCPU part\t: 0xd87\n\nCPU implementer\t: 0x41\nCPU part\t: 0xd85\n"
    assert cpu_part(big_little) == "implementer 0x41, part 0xd85, 0xd87"
    assert cpu_part("processor\t: 0\ncpu\t\t: POWER9, altivec supported\n") == "POWER9, altivec supported"
    assert cpu_part("model name\t: AMD EPYC 7742\ncpu MHz\t: 2000\n") == ""


def test_kernel_parameters_leave_out_disks_and_secrets() -> None:
    line = "BOOT_IMAGE=/vmlinuz-6.8 root=UUID=1234 isolcpus=8-31 rd.luks.key=secret amd_iommu=on quiet nosmt"
    assert kernel_parameters(line) == "amd_iommu=on isolcpus=8-31 nosmt"
    assert kernel_parameters("quiet") == "none" and kernel_parameters("") == ""


def test_later_facts_are_compared_only_where_both_sides_have_them() -> None:
    old, new = Fingerprint(kernel="6.1.0"), Fingerprint(kernel="6.1.0", kernel_parameters="nosmt", cpu_part="part 1")
    assert fingerprint_changes(old, new) == fingerprint_changes(new, old) == ()
    (change,) = fingerprint_changes(new, replace(new, kernel_parameters="none"))
    assert describe_change(change) == "the kernel's boot parameters were nosmt, are none"


def test_hypervisor_and_container_are_read_from_files(tmp_path: Path) -> None:
    assert hypervisor(host_root("two_sockets")) == "none"
    assert hypervisor(host_root("virtual_machine")) == "unnamed"
    assert container(host_root("two_sockets")) == "none"
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/cgroup").write_text("0::/kubepods/besteffort/pod1\n")
    assert container(tmp_path) == "kubepods"
    assert hugepages(tmp_path) == "thp unknown, shmem unknown, reserved 0"


def test_importer_is_searched_where_nsys_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.host.fingerprint.IMPORTERS", ())
    target, beside = tmp_path / "target-linux-x64", tmp_path / "host-linux-x64"
    target.mkdir()
    beside.mkdir()
    (target / "nsys").touch()
    (tmp_path / "bin").symlink_to(target)
    assert find_importer(tmp_path / "bin" / "nsys") is None
    (beside / "QdstrmImporter").touch()
    assert find_importer(tmp_path / "bin" / "nsys") == beside / "QdstrmImporter"


def test_newest_nsys_of_the_usual_places_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2024.9.1", "2024.10.2"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "nsys").touch()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bench.host.fingerprint.INSTALLATIONS", (f"{tmp_path}/*/bin/nsys",))
    assert find_nsys() == tmp_path / "2024.10.2" / "bin" / "nsys"
    assert nsys_version() == "2024.10.2"


def test_nsys_version_is_none_when_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bench.host.fingerprint.INSTALLATIONS", ())
    assert find_nsys() is None and nsys_version() == "none"


def test_nsys_version_is_read(real_nsys: None) -> None:
    assert nsys_version()[:2] == "20"
