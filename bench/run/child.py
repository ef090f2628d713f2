"""Start one measured process in a session of its own, watch it, and leave nothing of it behind."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.run.processes import end_session, start_ticks

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

# What a measured process may see of the caller's environment. The rest stays out of its memory and of its trace.
ALLOWED_VARIABLES = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "CUDA_HOME",
        "CUDA_PATH",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "CC",
        "CXX",
    }
)


@dataclass(frozen=True)
class ChildEnd:
    """exit_code: as of subprocess, negative for a signal. oom_kills: of the kernel while the child ran."""

    exit_code: int
    timed_out: bool
    wall_s: float
    oom_kills: int


def child_environment(environment: dict[str, str]) -> dict[str, str]:
    """The allow-listed part of `environment`, and GPUs numbered as nvidia-smi and sysfs number them."""
    kept = {key: value for key, value in environment.items() if key in ALLOWED_VARIABLES}
    return kept | {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # Threads that spin at a barrier lose three quarters of the cpu device's throughput to any other process.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
    }


def run_child(
    argv: list[str],
    environment: dict[str, str],
    logs: tuple[Path, Path],
    timeout_s: float,
    on_start: Callable[[int], None],
    on_poll: Callable[[], None],
    keep_descriptors: tuple[int, ...] = (),
    append_logs: bool = False,
    poll_s: float = 0.2,
    cpus: set[int] | None = None,
) -> ChildEnd:
    """Run argv to its end, its timeout or an exception in here; in each case its whole session is gone after.

    logs: files for stdout and stderr. on_poll is called every poll_s. cpus: what the child may use, if not what this
    process may use now. Raise OSError if argv[0] cannot be started.
    """
    cpus = cpus or os.sched_getaffinity(0)
    oom_before = _oom_kills()
    begin = time.monotonic()
    mode = "ab" if append_logs else "wb"
    with logs[0].open(mode) as stdout, logs[1].open(mode) as stderr:
        child = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=keep_descriptors,
            preexec_fn=lambda: _prepare(cpus),
        )
        since = start_ticks(child.pid) or 0
        timed_out = False
        try:
            on_start(child.pid)
            while child.poll() is None:
                timed_out = time.monotonic() - begin > timeout_s
                if timed_out:
                    break
                on_poll()
                try:
                    child.wait(poll_s)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            # The child, and whatever it started and left behind.
            end_session(child.pid, since)
            child.wait()
    return ChildEnd(child.returncode, timed_out, time.monotonic() - begin, _oom_kills() - oom_before)


def _prepare(cpus: set[int]) -> None:
    # If the parent is killed with SIGKILL nobody is left to end the child: let the kernel do it.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # numactl binds only to CPUs the process may use already; the parent may have moved aside.
    os.sched_setaffinity(0, cpus)


def _oom_kills() -> int:
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
