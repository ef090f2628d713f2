"""Whose a temporary file is, in its name: by process id, start time and boot. No clock is asked; clocks step."""

import os
from functools import cache


def start_ticks(pid: int) -> int | None:
    """Clock ticks from boot to the start of the process (/proc/<pid>/stat, field 22); None if there is none."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields and fields[0] != "Z" else None


@cache
def boot_id() -> str:
    """Names one boot of the host: start times of another boot say nothing of this one's processes."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def owner() -> str:
    """This process, for the name of a file: boot, space of process ids, id, start time."""
    return f"{_space()}-{os.getpid()}-{start_ticks(os.getpid())}"


def is_gone(owned_by: str) -> bool:
    """Whether the process that called owner() has ended. Of one in another container nothing is known: False."""
    *space, pid, ticks = owned_by.split("-")
    if space[0] != boot_id()[:8]:
        return True
    return "-".join(space) == _space() and str(start_ticks(int(pid))) != ticks


def stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the third (state) on; the second may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _space() -> str:
    try:
        return f"{boot_id()[:8]}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{boot_id()[:8]}-0"
