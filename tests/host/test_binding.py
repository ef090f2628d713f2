import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.host.binding import BindingError, bind_prefix, choose_binding, explain_bind_failure, explain_kill, trial_bind
from bench.host.doctor import try_live
from bench.host.locked_memory import LockedLimit
from bench.host.topology import read_topology
from bench.records.host import Nvml
from bench.records.run import Outcome
from tests.host.made_hosts import host_root, host_topology
from tests.needs import needs

FORBID = str(Path(__file__).with_name("forbid.py"))


def test_bind_prefix_names_both_nodes() -> None:
    assert bind_prefix("numactl", 0, 2) == ["numactl", "--cpunodebind=0", "--membind=2"]
    assert bind_prefix("none", 0, 2) == []


def test_bind_prefix_names_the_cpus_of_a_node_without_memory() -> None:
    root = host_root("nodes_without_memory")
    assert bind_prefix("numactl", 0, 1, root=root) == ["numactl", "--physcpubind=0-5", "--membind=1"]
    assert bind_prefix("numactl", 1, 1, root=root) == ["numactl", "--cpunodebind=1", "--membind=1"]


def test_bind_prefix_names_the_cpus_of_the_fastest_kind() -> None:
    prefix = bind_prefix("numactl", 0, 0, root=host_root("two_kinds_of_cores"))
    assert prefix == ["numactl", "--physcpubind=5-9,15-19", "--membind=0"]


# What numactl 2.0.16 writes, usage texts left out.
@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("libnuma: Warning: node argument 4 is out of range\n\nusage: ...\n<4> is invalid\n", "node 4 does not exist"),
        ("sched_setaffinity: Invalid argument\n", "no CPUs that this process may use"),
        ("sched_setaffinity: Operation not permitted\n", "the system refuses to bind CPUs"),
        ("set_mempolicy: Operation not permitted\nsetting membind: ...\n", "the system refuses a memory policy"),
        ("set_mempolicy: Invalid argument\n", "no memory that this process may use"),
        ("No NUMA support available on this system.\n", "the kernel has no NUMA support"),
    ],
)
def test_refusals_are_explained(stderr: str, reason: str) -> None:
    found = explain_bind_failure(1, stderr)
    assert found is not None and reason in found.reason and found.advice


def test_failing_program_is_not_a_refused_bind() -> None:
    assert explain_bind_failure(1, "Traceback (most recent call last):\nValueError: out of range\n") is None
    assert explain_bind_failure(0, "libnuma: Warning: node argument 4 is out of range") is None


def test_sigkill_of_a_bound_process_is_out_of_memory() -> None:
    assert explain_kill(137, 3) == explain_kill(-9, 3)
    assert explain_kill(-9, 3).status is Outcome.OOM
    assert explain_kill(-11, 3) is None


@needs("numactl")
def test_bind_to_a_missing_node_is_refused() -> None:
    missing = max(node.id for node in read_topology(nvml=Nvml()).nodes) + 1
    failure = trial_bind(missing, missing)
    assert failure.status is Outcome.BIND_FAILED and f"node {missing} does not exist" in failure.reason
    assert "numactl --hardware" in failure.advice


def test_nothing_is_bound_when_numactl_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    topology = host_topology("two_sockets")
    assert trial_bind(0, 0).reason == "numactl is not installed"
    assert choose_binding("auto", topology) == ("none", "nothing is bound: numactl is not installed")
    with pytest.raises(BindingError, match="numactl is not installed"):
        choose_binding("numactl", topology)


def test_trial_bind_skips_nodes_without_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for numactl: this machine need not have the nodes of the recorded one."""
    numactl = tmp_path / "numactl"
    numactl.write_text(
        '#!/bin/sh\ncase "$*" in *--membind=1*) exit 0;; esac\necho "mbind: Invalid argument" >&2\nexit 1\n'
    )
    numactl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    topology = host_topology("two_sockets")
    first, second = topology.nodes
    cpus_only = replace(topology, nodes=(replace(first, memory_bytes=0), second))
    assert choose_binding("auto", cpus_only) == ("numactl", "numactl binds here (tried on node 1)")
    assert try_live(cpus_only, tmp_path, 0, LockedLimit(None, None)).bind_failure is None
    no_memory = replace(topology, nodes=(replace(first, memory_allowed=False), replace(second, allowed_cpus="")))
    assert (
        try_live(no_memory, tmp_path, 0, LockedLimit(None, None)).bind_failure.reason
        == "no node has both CPUs and memory for this process"
    )


@needs("numactl")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter knows the call numbers of x86-64")
@pytest.mark.parametrize(
    ("call", "binding", "fact"),
    [
        ("set_mempolicy", "cpus", "memory cannot be bound, CPUs can: the system refuses a memory policy"),
        ("sched_setaffinity", "none", "CPUs and memory cannot be bound: the system refuses to bind CPUs"),
        ("move_pages", "numactl", "pages cannot be queried, so no placement is proved: [Errno 1] move_pages"),
    ],
)
def test_refusals_of_a_container_are_distinguished(call: str, binding: str, fact: str) -> None:
    """A real seccomp filter refuses one of: CPUs, memory policy, query of pages."""
    code = (
        "from bench.host.binding import choose_binding; from bench.host.checks import binding;"
        "from bench.host.doctor import gather;"
        "facts = gather(); print(choose_binding('auto', facts.topology)[0]); print(binding(facts).fact)"
    )
    command = [sys.executable, FORBID, call, sys.executable, "-c", code]
    root = str(Path(__file__).parents[2])
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root})
    assert ran.stdout.splitlines()[0] == binding, ran.stderr
    assert ran.stdout.splitlines()[1].startswith(fact), ran.stderr


def test_refused_policy_of_a_node_with_memory_is_explained() -> None:
    """numactl 2.0.17 writes only this, as numactl in some containers does."""
    root = host_root("container_cpuset")
    refused = explain_bind_failure(1, "setting membind: Invalid argument\n", 1, root)
    assert refused is not None and "2.0.17" in refused.reason and "binding cpus" in refused.advice
    outside = explain_bind_failure(1, "setting membind: Invalid argument\n", 0, root)
    assert outside is not None and outside.reason == "the memory node has no memory that this process may use"


def test_cpus_are_bound_when_only_the_memory_policy_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for numactl 2.0.17 on an older kernel."""
    numactl = tmp_path / "numactl"
    numactl.write_text(
        '#!/bin/sh\ncase "$*" in *--membind*) echo "setting membind: Invalid argument" >&2; exit 1;; esac\n'
    )
    numactl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    topology = host_topology("two_sockets")
    assert choose_binding("auto", topology)[0] == choose_binding("cpus", topology)[0] == "cpus"
    assert bind_prefix("cpus", 0, 0, root=host_root("two_sockets")) == ["numactl", "--cpunodebind=0"]
    with pytest.raises(BindingError, match="cannot bind with numactl"):
        choose_binding("numactl", topology)


@pytest.mark.parametrize(
    ("binding", "memory"),
    [
        ("numactl", ["--membind=1"]),
        ("preferred", ["--preferred=1"]),
        ("interleave", ["--interleave=all"]),
        ("cpus", []),
    ],
)
def test_prefix_places_memory_as_the_binding_says(binding, memory):
    assert bind_prefix(binding, 0, 1)[2:] == memory
    assert bind_prefix("self", 0, 1) == bind_prefix("none", 0, 1) == []


@pytest.mark.needs("numactl")
@pytest.mark.parametrize("binding", ["preferred", "interleave"])
def test_binding_of_a_command_is_tried_and_given(binding):
    assert choose_binding(binding, read_topology())[0] == binding
    assert trial_bind(0, 0, binding) is None
