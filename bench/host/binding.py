"""Binding a process from outside with numactl, and what a refused bind means."""

import os
import re
import shutil
import signal
import subprocess

from bench.errors import StudyError
from bench.host.topology import Topology

BINDINGS = ("auto", "numactl", "none")
# Exit codes of what SIGKILL ended: of subprocess, and as a shell or nsys passes it on.
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
INSTALL = "install numactl (Debian: apt-get install numactl), or measure unbound with binding none"

Failure = tuple[str, str, str]
"""(outcome, reason, advice)"""

_PERMISSION = (
    "the system refuses to bind CPUs or memory (Operation not permitted)",
    "run the container with --cap-add SYS_NICE (or a seccomp profile that allows set_mempolicy, mbind and "
    "move_pages), or measure unbound with binding none",
)


class BindingError(StudyError):
    """A binding was asked for that this host cannot give."""


def bind_prefix(binding: str, cpu_node: int, mem_node: int, program: str = "numactl") -> list[str]:
    """Return the words before a command that bind it; none for binding "none"."""
    return [] if binding == "none" else [program, f"--cpunodebind={cpu_node}", f"--membind={mem_node}"]


def choose_binding(asked: str, topology: Topology) -> tuple[str, str]:
    """Return ("numactl"|"none", reason).

    auto takes numactl if a trial bind to some node with CPUs and memory works. Raise BindingError if
    numactl was asked for by name and does not work.
    """
    if asked not in BINDINGS:
        raise BindingError(f"unknown binding {asked!r}", "binding", f"one of {', '.join(BINDINGS)}")
    if asked == "none":
        return "none", "binding none was asked for: nothing is bound"
    node, failure = bindable_node(topology)
    if failure is None:
        return "numactl", f"numactl binds here (tried on node {node})"
    _, reason, advice = failure
    if asked == "numactl":
        raise BindingError(f"cannot bind with numactl: {reason}", "binding numactl", advice)
    return "none", f"nothing is bound: {reason}"


def bindable_node(topology: Topology) -> tuple[int | None, Failure | None]:
    """(the first node to which a trial bind works, None), or (None, why the last one was refused)."""
    failure: Failure | None = ("bind_failed", "no node has both CPUs and memory for this process", "")
    for node in (node.id for node in topology.nodes if node.usable):
        failure = trial_bind(node, node)
        if failure is None:
            return node, None
    return None, failure


def trial_bind(cpu_node: int, mem_node: int) -> Failure | None:
    """Bind a process that does nothing. Return None if it works."""
    program = shutil.which("numactl")
    if program is None:
        return "bind_failed", "numactl is not installed", INSTALL
    prefix = bind_prefix("numactl", cpu_node, mem_node, program=program)
    try:
        trial = subprocess.run(
            [*prefix, program, "--show"],
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "bind_failed", f"numactl does not run: {error}", INSTALL
    if trial.returncode == 0:
        return None
    explained = explain_bind_failure(trial.returncode, trial.stderr)
    last = trial.stderr.strip().splitlines()[-1:] or ["no message"]
    reason, advice = explained or (f"numactl failed with exit code {trial.returncode}: {last[0]}", INSTALL)
    return "bind_failed", reason, advice


def explain_bind_failure(exit_code: int, stderr_text: str) -> tuple[str, str] | None:
    """Return (reason, advice) if a command behind bind_prefix() ended because numactl was refused, else None.

    numactl (2.0.16) leaves with 1 and these texts before it starts the program.
    """
    if exit_code != 1:
        return None
    if match := re.search(r"libnuma: Warning: node argument (\S+) is out of range", stderr_text):
        return (
            f"node {match[1]} does not exist here, or this process may not use it",
            "`numactl --hardware` lists the nodes, `numactl --show` those allowed to this process",
        )
    if "No NUMA support available on this system" in stderr_text:
        return "the kernel has no NUMA support", "measure unbound with binding none"
    if re.search(r"sched_setaffinity: Invalid argument", stderr_text):
        return (
            "the CPU node has no CPUs that this process may use (sched_setaffinity: Invalid argument)",
            "choose another cpu_node; a node without CPUs can only hold memory",
        )
    if re.search(r"^(sched_setaffinity|set_mempolicy|mbind|setting membind)\S*: Operation not permitted",
                 stderr_text, re.MULTILINE):  # fmt: skip
        return _PERMISSION
    if re.search(r"^(set_mempolicy|mbind|setting membind)\S*: Invalid argument", stderr_text, re.MULTILINE):
        return "the memory node has no memory that this process may use", "choose another mem_node"
    if match := re.search(r"^<(\S+)> is invalid$", stderr_text, re.MULTILINE):
        return f"numactl does not know node {match[1]}", "`numactl --hardware` lists the nodes"
    return None


def explain_kill(exit_code: int, mem_node: int) -> Failure | None:
    """The failure of a bound process that SIGKILL ended.

    With --membind the kernel kills when that node is full, however much memory other nodes have.
    """
    if exit_code not in KILLED:
        return None
    return (
        "oom",
        f"killed (SIGKILL), as the kernel does when memory node {mem_node} cannot hold what is bound to it",
        f"reduce memory_size_mb, or free memory on node {mem_node} (numactl --hardware shows it)",
    )
