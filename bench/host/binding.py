"""Binding a process from outside with numactl, and what a refused bind means."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Literal

from bench.errors import StudyError
from bench.host.memory_calls import PAGE_BYTES, PageQuery
from bench.host.topology import allows_memory, cpus_to_bind
from bench.records.host import Topology
from bench.records.run import Failure, Outcome
from bench.records.study import Binding

# Exit codes of what SIGKILL ended: of subprocess, and as a shell or nsys passes it on.
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
INSTALL = "install numactl (Debian: apt-get install numactl), or measure unbound with binding none"
_NEXT = "run the container with --cap-add SYS_NICE (or a seccomp profile that allows"
_MEMORY = "(set_mempolicy|mbind|setting membind)"


class BindingError(StudyError):
    """A binding was asked for that this host cannot give."""


def bind_prefix(
    binding: str, cpu_node: int, mem_node: int, cpus: str = "", program: str = "numactl", root: Path = Path("/")
) -> list[str]:
    """The arguments to put before a command to bind it; none for "none", and for "self": it binds itself.

    cpus: in place of those of cpu_node.
    """
    if binding in ("none", "self"):
        return []
    cpus = cpus or cpus_to_bind(root, cpu_node)
    memory = {"cpus": [], "preferred": [f"--preferred={mem_node}"], "interleave": ["--interleave=all"]}.get(
        binding, [f"--membind={mem_node}"]
    )
    return [program, f"--physcpubind={cpus}" if cpus else f"--cpunodebind={cpu_node}", *memory]


def choose_binding(asked: Binding | Literal["auto"], topology: Topology, root: Path = Path("/")) -> tuple[Binding, str]:
    """The binding that this host gives, and why.

    auto takes numactl if a trial bind to some node with CPUs and memory works, and binds CPUs only if the system
    refuses nothing but the memory policy. On a recorded host (another root) nothing is tried. Raise BindingError if a
    binding was asked for by name and does not work.
    """
    if asked == "none":
        return "none", "binding none was asked for: nothing is bound"
    if asked == "self":
        return "self", "the command binds itself"
    if root != Path("/"):
        return "numactl" if asked == "auto" else asked, "not tried on a recorded host"
    node, failure = bindable_node(topology, "cpus" if asked == "cpus" else "numactl")
    if failure is None:
        if asked == "cpus":
            return "cpus", f"numactl binds CPUs, as asked (tried on node {node})"
        return "numactl" if asked == "auto" else asked, f"numactl binds here (tried on node {node})"
    if asked != "auto":
        raise BindingError(f"cannot bind with numactl: {failure.reason}", f"binding {asked}", failure.advice)
    node, _ = bindable_node(topology, "cpus")
    if node is not None:
        return "cpus", f"only CPUs are bound (tried on node {node}), memory is proved by its pages: {failure.reason}"
    return "none", f"nothing is bound: {failure.reason}"


def bindable_node(topology: Topology, binding: Binding = "numactl") -> tuple[int | None, Failure | None]:
    """(the first node to which a trial bind works, None), or (None, the failure of the last one)."""
    failure = _bind_failed("no node has both CPUs and memory for this process", "")
    for node in topology.nodes:
        if node.usable:
            refused = trial_bind(node.id, node.id, binding)
            if refused is None:
                return node.id, None
            failure = refused
    return None, failure


def trial_bind(cpu_node: int, mem_node: int, binding: Binding = "numactl", cpus: str = "") -> Failure | None:
    """Bind a process that does nothing, as bind_prefix(). Return None if it works."""
    program = shutil.which("numactl")
    if program is None:
        return _bind_failed("numactl is not installed", INSTALL)
    prefix = bind_prefix(binding, cpu_node, mem_node, cpus, program)
    try:
        trial = subprocess.run(
            [*prefix, program, "--show"],
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _bind_failed(f"numactl does not run: {error}", INSTALL)
    if trial.returncode == 0:
        return None
    if explained := explain_bind_failure(trial.returncode, trial.stderr, mem_node):
        return explained
    last = trial.stderr.strip().splitlines()[-1:] or ["no message"]
    return _bind_failed(f"numactl failed with exit code {trial.returncode}: {last[0]}", INSTALL)


def pages_refused() -> str:
    """Why the kernel does not report where pages are (move_pages, which proves a placement); "" if it does."""
    memory = bytearray(PAGE_BYTES)
    buffer = (ctypes.c_char * PAGE_BYTES).from_buffer(memory)
    try:
        PageQuery(ctypes.addressof(buffer), PAGE_BYTES).count()
    except OSError as error:
        return str(error)
    return ""


def explain_bind_failure(
    exit_code: int, stderr_text: str, mem_node: int | None = None, root: Path = Path("/")
) -> Failure | None:
    """The failure of a command behind bind_prefix() that ended because numactl was refused, else None.

    numactl (2.0.16) exits with 1 and these texts before it starts the program. mem_node: that was bound to; the same
    message means something else on a node that has memory for this process.
    """
    has_memory = mem_node is not None and allows_memory(root, mem_node)
    explained = _explain(stderr_text, has_memory) if exit_code == 1 else None
    return _bind_failed(*explained) if explained else None


def _bind_failed(reason: str, advice: str) -> Failure:
    return Failure(status=Outcome.BIND_FAILED, reason=reason, advice=advice)


def _explain(stderr_text: str, has_memory: bool) -> tuple[str, str] | None:
    """(reason, advice)"""
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
    if re.search(r"^sched_setaffinity\S*: Operation not permitted", stderr_text, re.MULTILINE):
        return (
            "the system refuses to bind CPUs (sched_setaffinity: Operation not permitted)",
            f"{_NEXT} sched_setaffinity), or measure unbound with binding none",
        )
    if re.search(rf"^{_MEMORY}\S*: Operation not permitted", stderr_text, re.MULTILINE):
        return (
            "the system refuses a memory policy (set_mempolicy: Operation not permitted)",
            f"{_NEXT} set_mempolicy, mbind and move_pages), or bind CPUs only with binding cpus",
        )
    if re.search(rf"^{_MEMORY}\S*: Invalid argument", stderr_text, re.MULTILINE):
        if has_memory:
            return (
                "a memory policy is refused (Invalid argument) on a node that has memory: by the container, or by "
                "numactl 2.0.17 or 2.0.18 on an older kernel",
                "use numactl 2.0.16 or 2.0.19, allow set_mempolicy in the container, or bind CPUs only with binding "
                "cpus",
            )
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
    return Failure(
        status=Outcome.OOM,
        reason=f"killed (SIGKILL), as the kernel does when memory node {mem_node} cannot hold what is bound to it",
        advice=f"reduce memory_size_mb, or free memory on node {mem_node} (numactl --hardware shows it)",
    )
