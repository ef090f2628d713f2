"""The real Certifier in real processes; what needs a second node is in tests/guest."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.host.certificate import code_pages
from bench.host.topology import read_topology

ROOT = Path(__file__).parents[2]
NODE = next(node.id for node in read_topology(nvml={"gpus": []}).nodes if node.allowed_cpus and node.memory_bytes)
BOUND = ["numactl", f"--cpunodebind={NODE}", f"--membind={NODE}"]
STANDIN = [sys.executable, str(ROOT / "tests/guest/standin.py")]

pytestmark = pytest.mark.skipif(
    shutil.which("numactl") is None or platform.machine() != "x86_64", reason="needs numactl, on x86-64"
)


def certificate(prefix: list[str], **cell: Any) -> dict[str, Any]:
    text = json.dumps({"binding": "numactl", "cpu_node": NODE, "mem_node": NODE} | cell)
    ran = subprocess.run(
        [*prefix, *STANDIN, text], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_an_honest_run_is_proved_with_every_page_counted() -> None:
    found = certificate(BOUND)
    assert (found["verdict"], found["reasons"]) == ("proved", [])
    assert found["share_on_node"] == {"private": 1.0, "shared": 1.0}
    assert found["buffers"]["shared"]["end"] == {str(NODE): found["buffers"]["shared"]["pages"]}
    assert found["policy"]["end"] == {"mode": "bind", "nodes": [NODE]}
    assert sum(found["cpus_seen"].values()) == 20
    assert found["not_covered"] and found["cost_ms"] > 0


def test_preferred_is_not_bind_though_every_page_lies_right() -> None:
    found = certificate(["numactl", f"--cpunodebind={NODE}", f"--preferred={NODE}"])
    assert found["verdict"] == "misplaced" and found["share_on_node"] == {"private": 1.0, "shared": 1.0}
    assert f"the memory policy is preferred to node {NODE}" in found["reasons"][0]


def test_an_unbound_run_claims_nothing() -> None:
    found = certificate([], binding="none")
    assert found["verdict"] == "not_bound"


def test_an_unbound_run_that_says_it_is_bound_is_caught() -> None:
    assert certificate([])["verdict"] == "misplaced"


def test_a_cpu_node_that_is_not_there_is_unproved() -> None:
    found = certificate(BOUND, cpu_node=999)
    assert found["verdict"] == "unproved" and "CPUs of the node" in found["reasons"][0]


@pytest.mark.parametrize(("call", "told"), [("move_pages", "pages of"), ("get_mempolicy", "memory policy")])
def test_where_the_kernel_may_not_be_asked_nothing_is_proved(call: str, told: str) -> None:
    forbid = [sys.executable, str(Path(__file__).with_name("forbid.py")), call]
    found = certificate([*BOUND, *forbid])
    assert found["verdict"] == "unproved"
    assert any(reason.startswith(told) and "Operation not permitted" in reason for reason in found["reasons"])


def test_code_pages_of_libraries_by_node(tmp_path: Path) -> None:
    lines = (
        "7f01 bind:0 file=/usr/lib/libtorch_cpu.so mapped=20 N0=15 N1=5 kernelpagesize_kB=4",
        "7f02 bind:0 file=/usr/lib/libtorch_cpu.so anon=2 N1=2 kernelpagesize_kB=4",
        "7f03 bind:0 file=/usr/lib/libm.so.6 mapped=9 N0=9 kernelpagesize_kB=4",
        "7f04 bind:0 anon=3 dirty=3 N0=3 kernelpagesize_kB=4",
    )
    (tmp_path / "numa_maps").write_text("\n".join(lines) + "\n")
    assert code_pages(tmp_path / "numa_maps") == {"libtorch_cpu.so": {"0": 15, "1": 7}}
