"""Processes by id and start time: ids are used again, an id with its start time is not."""

import contextlib
import os
import signal
import time


def start_ticks(pid: int) -> int | None:
    """Clock ticks from boot to the start of the process (/proc/<pid>/stat, field 22); None if there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] != "Z" else None


def session_members(session: int, since_ticks: int) -> list[int]:
    """Living processes of the session that a child led, none of them older than the child was."""
    members = []
    for entry in os.listdir("/proc"):
        fields = _stat(int(entry)) if entry.isdigit() else None
        if fields and fields[0] != "Z" and int(fields[3]) == session and int(fields[19]) >= since_ticks:
            members.append(int(entry))
    return members


def end_session(session: int, since_ticks: int | None, grace_s: float = 3.0) -> None:
    """SIGTERM to every process of the session, SIGKILL to what is left after grace_s."""
    if since_ticks is None:
        return
    _signal_all(session_members(session, since_ticks), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (left := session_members(session, since_ticks)) and time.monotonic() < deadline:
        time.sleep(0.02)
    # A process may fork between the listing and the signal: repeat until none is seen.
    for _ in range(50):
        if not left:
            return
        _signal_all(left, signal.SIGKILL)
        time.sleep(0.02)
        left = session_members(session, since_ticks)


def _signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _stat(pid: int) -> list[str] | None:
    """Fields from the third (state) on; the second may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
