"""What topology, preflight and certificate cost. Limits of the project: 1 s without torch; 50 ms for 512 MiB."""

import ctypes
import mmap
import subprocess
import sys
import time
from typing import Any

from bench.host.certificate import Certifier
from bench.host.latency_groups import compare_scans
from bench.host.topology import read_topology

POOL_BYTES = 512 << 20


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
    cell = {"binding": "none", "cpu_node": 0, "mem_node": 0}

    def certify() -> dict[str, Any]:
        certifier = Certifier(cell, {"pool": (address, POOL_BYTES)})
        certifier.start()
        certifier.see_cpu()
        return certifier.finish()

    certificate = benchmark.pedantic(certify, rounds=7, warmup_rounds=1)
    began = time.perf_counter()
    Certifier(cell, {"pool": (address, POOL_BYTES)})._queries["pool"].count()
    benchmark.extra_info["one_look_ms"] = round((time.perf_counter() - began) * 1e3, 1)
    benchmark.extra_info["cost_ms"] = certificate["cost_ms"]
    # Other work on the machine only adds to it.
    assert benchmark.stats["min"] <= 0.050


def test_seeing_the_cpu_once(benchmark: Any) -> None:
    certifier = Certifier({"binding": "none", "cpu_node": 0, "mem_node": 0}, {})
    benchmark(certifier.see_cpu)
    assert benchmark.stats["median"] <= 1e-6


def test_two_scans_of_64_cpus_are_judged(benchmark: Any) -> None:
    scans = [{cpu: 9.1 + 2.1 * (cpu % 2) + 0.01 * (cpu * 7 % 13) for cpu in range(64)} for _ in range(2)]
    benchmark(compare_scans, *scans)
