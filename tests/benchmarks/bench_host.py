"""What topology, preflight, certificate and probe cost.

Limits of the project: 1 s without torch; 50 ms for 512 MiB; 10 s for 64 CPUs x 4 GPUs.
"""

import ctypes
import mmap
import subprocess
import sys
import time
from itertools import cycle, islice
from typing import Any

import pytest
from msgspec.structs import replace

from bench.host.certificate import Certifier
from bench.host.latency_groups import compare_scans
from bench.host.probe import measure_small_copies, probe
from bench.host.timed_copies import SmallCopies, SmallCopyRequest
from bench.host.topology import read_topology
from bench.records.run import Certificate
from bench.records.study import NO_COMPUTE, Cell

POOL_BYTES = 512 << 20
CELL = Cell(name="c", gpu=0, cpu_node=0, mem_node=0, model=NO_COMPUTE, device="cpu", profiler="torch", binding="none")


def test_topology_and_doctor_in_a_fresh_process(benchmark: Any) -> None:
    code = "from bench.host.doctor import doctor_command; doctor_command(True, False)"

    def start_and_check() -> None:
        subprocess.run([sys.executable, "-c", code], check=True)

    benchmark.pedantic(start_and_check, rounds=5)
    assert benchmark.stats["median"] <= 1.0
    modules = (
        "import sys; from bench.host.doctor import doctor_command; doctor_command(True, False); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True).stdout
    assert "torch" not in loaded.split()


def test_topology_alone(benchmark: Any) -> None:
    benchmark(read_topology)


def test_certificate_of_a_512_mib_pool(benchmark: Any) -> None:
    """The kernel's part of it, one page look per 4 KiB, is measured beside it as the baseline."""
    memory = mmap.mmap(-1, POOL_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.memset(address, 1, POOL_BYTES)

    def certify() -> Certificate:
        certifier = Certifier(CELL, {"pool": (address, POOL_BYTES)})
        certifier.start()
        certifier.see_cpu()
        return certifier.finish()

    certificate = benchmark.pedantic(certify, rounds=7, warmup_rounds=1)
    began = time.perf_counter()
    Certifier(CELL, {"pool": (address, POOL_BYTES)})._queries["pool"].count()
    benchmark.extra_info["one_look_ms"] = round((time.perf_counter() - began) * 1e3, 1)
    benchmark.extra_info["cost_ms"] = certificate.cost_ms
    # Other work on the machine only adds to it.
    assert benchmark.stats["min"] <= 0.050


def test_seeing_the_cpu_once(benchmark: Any) -> None:
    certifier = Certifier(CELL, {})
    benchmark(certifier.see_cpu)
    assert benchmark.stats["median"] <= 1e-6


def test_two_scans_of_64_cpus_are_judged(benchmark: Any) -> None:
    scans = [{cpu: 9.1 + 2.1 * (cpu % 2) + 0.01 * (cpu * 7 % 13) for cpu in range(64)} for _ in range(2)]
    benchmark(compare_scans, *scans)


def test_probe_of_64_cpus_and_4_gpus(benchmark: Any) -> None:
    """A host with fewer of them is visited as often: its CPUs and GPUs are listed again until there are as many.

    Both looks are taken, the second one too, which a host needs only where two groups are seen.
    """
    here = read_topology()
    if not here.gpus:
        pytest.skip("no GPU here")
    cpus = tuple(islice(cycle(cpu for node in here.nodes for cpu in node.allowed_cpu_ids), 64))
    # One GPU under several spellings of its address: each gets a context of its own.
    addresses = [spelled(gpu.pci_bus_id) for spelled in (str.lower, str.upper, _short, _long) for gpu in here.gpus]
    gpus = tuple(
        replace(gpu, index=index, pci_bus_id=address)
        for index, (gpu, address) in enumerate(zip(cycle(here.gpus), list(dict.fromkeys(addresses))[:4], strict=False))
    )
    host = replace(here, nodes=here.nodes[:1], gpus=gpus)
    looks: list[SmallCopyRequest] = []

    def measure(request: SmallCopyRequest) -> SmallCopies:
        looks.append(replace(request, cpus=cpus))
        return measure_small_copies(looks[-1])

    def probe_twice() -> None:
        looks.clear()
        probe(host, measure=measure)
        if len(looks) == 1:
            measure_small_copies(looks[0])

    benchmark.pedantic(probe_twice, rounds=2)
    benchmark.extra_info["visits"] = len(looks[0].cpus) * len(looks[0].bus_ids) * looks[0].scans
    benchmark.extra_info["gpus_here"] = len(here.gpus)
    assert benchmark.extra_info["visits"] == 64 * 4 * 2
    assert benchmark.stats["max"] <= 10.0


def _short(pci_bus_id: str) -> str:
    """Without the domain, which is 0 on most hosts."""
    return pci_bus_id.removeprefix("0000:")


def _long(pci_bus_id: str) -> str:
    """With a domain of eight digits, as NVML writes it."""
    return pci_bus_id.rjust(16, "0")
