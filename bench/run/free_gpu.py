"""A GPU is seen free before a run starts on it: a context that is being torn down, or a neighbour, would slow it."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

LIMIT_S = 20.0
INTERVAL_S = 0.2

# Processes that were waited for in vain: a neighbour that stays costs a study LIMIT_S once, not once a run.
_stayed: set[int] = set()


def wait_until_free(
    gpu_uuids: Iterable[str | None],
    on_wait: Callable[[str], None],
    limit_s: float = LIMIT_S,
    nvml: Any = None,
) -> list[str]:
    """Wait until no process computes on these GPUs, for limit_s at most. To be called while none of one's own does.

    Returns in words who is still there; [] where NVML cannot tell. nvml: a stand-in for pynvml in tests.
    """
    wanted = [uuid for uuid in gpu_uuids if uuid]
    if not wanted:
        return []
    deadline = time.monotonic() + limit_s
    while True:
        found = {uuid: compute_processes(uuid, nvml) for uuid in wanted}
        new = {pid for pids in found.values() for pid in pids} - _stayed
        if not new or time.monotonic() > deadline:
            break
        on_wait(f"waiting for the GPU to be free of {', '.join(map(_words, sorted(new)))}")
        time.sleep(INTERVAL_S)
    _stayed.update(new)
    return [f"{', '.join(map(_words, pids))} on {uuid}" for uuid, pids in found.items() if pids]


def compute_processes(gpu_uuid: str, nvml: Any = None) -> list[int]:
    """Ids of the processes with a compute context on the GPU; in a container they may be those of the host."""
    try:
        if nvml is None:
            import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # no library, no driver
        return []
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(gpu_uuid)
        return sorted(int(process.pid) for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except Exception:  # NVML refuses, or has no such GPU
        return []
    finally:
        with suppress(Exception):
            nvml.nvmlShutdown()


def _words(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm") as file:
        return f"process {pid} ({file.read().strip()})"
    return f"process {pid}"
