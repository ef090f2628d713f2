"""Wait until no process computes on a GPU: a context that is being torn down, or another job, would slow a run down."""

import importlib
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from bench.records.run import Disturbance, DisturbanceKind
from bench.run.progress import Progress, Report, RunState

# How long a run waits for its GPU, and how often it looks.
FREE_LIMIT_S = 20.0
FREE_INTERVAL_S = 0.2

# Processes that did not leave the GPU in that time: one that stays costs a study FREE_LIMIT_S once, not once a run.
_staying: set[int] = set()


def wait_until_free(
    gpu_uuids: Iterable[str | None], report: Report, limit_s: float = FREE_LIMIT_S, nvml: Any = None
) -> list[Disturbance]:
    """Wait until no process computes on these GPUs, for limit_s at most. To be called while none of this study does.

    Returns who remains; [] where NVML does not report it. nvml: a stand-in for pynvml in tests.
    """
    wanted = [uuid for uuid in gpu_uuids if uuid]
    if not wanted:
        return []
    deadline = time.monotonic() + limit_s
    while True:
        users = {uuid: compute_processes(uuid, nvml) for uuid in wanted}
        new = {pid for pids in users.values() for pid in pids} - _staying
        if not new or time.monotonic() > deadline:
            break
        waiting_for = f"the GPU to be free of {', '.join(map(_process_text, sorted(new)))}"
        report(Progress(RunState.WAITING, waiting_for=waiting_for))
        time.sleep(FREE_INTERVAL_S)
    _staying.update(new)
    return [
        Disturbance(
            kind=DisturbanceKind.GPU_NOT_FREE,
            text=f"the GPU was not free: {', '.join(map(_process_text, pids))} on {uuid}",
        )
        for uuid, pids in users.items()
        if pids
    ]


def compute_processes(gpu_uuid: str, nvml: Any = None) -> list[int]:
    """Ids of the processes with a compute context on the GPU; in a container they may be those of the host."""
    try:
        if nvml is None:
            nvml = importlib.import_module("pynvml")
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


def _process_text(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm", errors="backslashreplace") as file:
        return f"process {pid} ({file.read().strip()})"
    return f"process {pid}"
