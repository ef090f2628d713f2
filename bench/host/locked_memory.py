"""Whether the limit of locked memory (RLIMIT_MEMLOCK, `ulimit -l`) is one for what CUDA pins, and how to raise it.

NVIDIA's driver pins pages itself (get_user_pages) and does not count them as locked, so that the limit does not apply;
nothing here calls mlock, and policies and moves of pages need no locked memory. Another driver may count them: one
allocation beyond the limit shows it.

usage: python -m bench.host.locked_memory PCI_BUS_ID BYTES      prints why the driver refuses to pin so much, or nothing
"""

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.errors import StudyError
from bench.host.environment import container, read_text
from bench.host.processes import python_module
from bench.host.timed_copies import CudaError, call
from bench.records.host import Topology

# Pinned beyond the limit and, before, below any limit.
_STEP_BYTES = 1 << 20


@dataclass(frozen=True)
class LockedLimit:
    """In bytes; None: unlimited. hard: to which the user may raise it."""

    soft: int | None
    hard: int | None


def locked_limit(root: Path = Path("/")) -> LockedLimit:
    """Of this process. Unlimited where the kernel does not say."""
    for line in read_text(root / "proc/self/limits").splitlines():
        if line.startswith("Max locked memory"):
            soft, hard = (None if word == "unlimited" else int(word) for word in line.split()[3:5])
            return LockedLimit(soft, hard)
    return LockedLimit(None, None)


def how_to_raise(needed_bytes: int, limit: LockedLimit, root: Path = Path("/")) -> str:
    """The line that helps where this process was started: a Slurm step, a container, a systemd service, or a shell."""
    if root == Path("/") and "SLURM_JOB_ID" in os.environ:
        return (
            "in a Slurm step: LimitMEMLOCK=infinity for slurmd (systemctl edit slurmd), and in slurm.conf "
            "PropagateResourceLimitsExcept=MEMLOCK"
        )
    if container(root) != "none":
        return "start the container with --ulimit memlock=-1"
    group = read_text(root / "proc/self/cgroup").rpartition("/")[2]
    if group.endswith(".service") and not group.startswith("user@"):
        return f"systemctl edit {group}: [Service] LimitMEMLOCK=infinity; then restart it"
    if limit.hard is None:
        return "ulimit -l unlimited"
    if needed_bytes <= limit.hard:
        return f"ulimit -l {limit.hard >> 10}"
    return "as root: echo '* - memlock unlimited' > /etc/security/limits.d/memlock.conf; then log in again"


def pinning_refused(topology: Topology, locked_bytes: int, limit: LockedLimit) -> str:
    """Why the driver does not pin more than the limit, asked in a child process; "" if it does, or need not.

    Also where the driver cannot be asked, as by a GPU that fails: other checks are about that.
    """
    from bench.host.probe import run_child

    gpu = next(iter(topology.visible_gpus), None)
    if gpu is None or limit.soft is None or locked_bytes <= limit.soft:
        return ""
    try:
        return run_child(
            python_module("bench.host.locked_memory", gpu.pci_bus_id, str(limit.soft + _STEP_BYTES))
        ).strip()
    except StudyError:
        return ""


def pin(cuda: ctypes.CDLL, pci_bus_id: str, nbytes: int) -> str:
    """Why the driver does not pin so much; "" if it does. Raise CudaError where it pins nothing at all."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    call(cuda, "cuInit", 0)
    call(cuda, "cuDeviceGetByPCIBusId", ctypes.byref(device), pci_bus_id.encode())
    call(cuda, "cuCtxCreate_v2", ctypes.byref(context), 0, device)
    call(cuda, "cuMemHostAlloc", ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(_STEP_BYTES), 0)
    try:
        call(cuda, "cuMemHostAlloc", ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(nbytes), 0)
    except CudaError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    try:
        print(pin(ctypes.CDLL("libcuda.so.1"), sys.argv[1], int(sys.argv[2])))
    except (CudaError, OSError) as error:
        sys.exit(f"locked_memory: {error}")
