"""The real Certifier in real processes; what needs a second node is in tests/guest."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.host.certificate import code_pages
from bench.host.topology import read_topology
from bench.records.base import decode
from bench.records.host import Nvml
from bench.records.run import Certificate, DoubtKind, PlacementVerdict, Policy
from tests.needs import needs

ROOT = Path(__file__).parents[2]
NODE = next(node.id for node in read_topology(nvml=Nvml()).nodes if node.usable)
BOUND = ["numactl", f"--cpunodebind={NODE}", f"--membind={NODE}"]
STANDIN = [sys.executable, str(ROOT / "tests/guest/standin.py")]

pytestmark = [needs("numactl"), pytest.mark.skipif(platform.machine() != "x86_64", reason="needs x86-64")]


def certificate(prefix: list[str], **cell: Any) -> Certificate:
    text = json.dumps({"binding": "numactl", "cpu_node": NODE, "mem_node": NODE} | cell)
    ran = subprocess.run(
        [*prefix, *STANDIN, text], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert ran.returncode == 0, ran.stderr
    return decode(ran.stdout.encode(), Certificate)


def test_bound_process_is_proved_with_every_page_counted() -> None:
    found = certificate(BOUND)
    assert (found.verdict, found.reasons) == (PlacementVerdict.PROVED, [])
    assert found.share_on_node == {"private": 1.0, "shared": 1.0}
    assert found.buffers["shared"].end == {str(NODE): found.buffers["shared"].pages}
    assert found.policy.end == Policy(mode="bind", nodes=[NODE])
    assert sum(found.cpus_seen.values()) == 20
    assert found.not_covered and found.cost_ms > 0


def test_preferred_policy_is_misplaced_though_every_page_fits() -> None:
    found = certificate(["numactl", f"--cpunodebind={NODE}", f"--preferred={NODE}"])
    assert found.verdict == "misplaced" and found.share_on_node == {"private": 1.0, "shared": 1.0}
    assert f"the memory policy is preferred to node {NODE}" in found.reasons[0].text


def test_unbound_process_proves_nothing() -> None:
    found = certificate([], binding="none")
    assert found.verdict == "not_bound"


def test_unbound_process_of_a_bound_cell_is_misplaced() -> None:
    assert certificate([]).verdict == "misplaced"


def test_missing_cpu_node_is_unproved() -> None:
    found = certificate(BOUND, cpu_node=999)
    assert found.verdict == "unproved" and "CPUs of the node" in found.reasons[0].text


@pytest.mark.parametrize(("call", "what"), [("move_pages", "pages of"), ("get_mempolicy", "memory policy")])
def test_nothing_is_proved_when_the_kernel_refuses_to_answer(call: str, what: str) -> None:
    forbid = [sys.executable, str(Path(__file__).with_name("forbid.py")), call]
    found = certificate([*BOUND, *forbid])
    assert found.verdict == "unproved"
    assert all(doubt.kind is DoubtKind.NOT_OBSERVED for doubt in found.reasons)
    assert any(doubt.text.startswith(what) and "Operation not permitted" in doubt.text for doubt in found.reasons)


def test_code_pages_of_libraries_are_counted_by_node(tmp_path: Path) -> None:
    lines = (
        "7f01 bind:0 file=/usr/lib/libtorch_cpu.so mapped=20 N0=15 N1=5 kernelpagesize_kB=4",
        "7f02 bind:0 file=/usr/lib/libtorch_cpu.so anon=2 N1=2 kernelpagesize_kB=4",
        "7f03 bind:0 file=/usr/lib/libm.so.6 mapped=9 N0=9 kernelpagesize_kB=4",
        "7f04 bind:0 anon=3 dirty=3 N0=3 kernelpagesize_kB=4",
    )
    (tmp_path / "numa_maps").write_text("\n".join(lines) + "\n")
    assert code_pages(tmp_path / "numa_maps") == {"libtorch_cpu.so": {"0": 15, "1": 7}}
