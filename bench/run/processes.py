"""Processes by id and start time: ids are used again, an id with its start time is not."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable

from bench.storage import boot_id, start_ticks, stat_fields

__all__ = [
    "adopt_orphans",
    "boot_id",
    "die_with",
    "end_adopted",
    "end_processes",
    "end_session",
    "lock_heirs",
    "session_members",
    "start_ticks",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def session_members(session: int, since_ticks: int) -> list[int]:
    """Living processes of the session that a child led, none of them older than the child was.

    since_ticks: when the child started; 0 if it has ended, and was not waited for yet.
    """
    return [*_members(session, since_ticks)]


def end_session(session: int, since_ticks: int | None, grace_s: float = 3.0) -> None:
    """SIGTERM to every process of the session, SIGKILL to what is left after grace_s."""
    if since_ticks is None:
        return
    _signal_all([*_members(session, since_ticks)], signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (left := _members(session, since_ticks)) and time.monotonic() < deadline:
        time.sleep(0.02)
    # Whole groups: a process that forks on and on is another one by the time that a signal to it is sent.
    for _ in range(50):
        if not left:
            return
        _kill_groups(left.values())
        time.sleep(0.02)
        left = _members(session, since_ticks)


def adopt_orphans() -> None:
    """From now on what a descendant leaves behind becomes a child of this process, whatever session it made for
    itself (nsys gives the measured process one of its own). Not inherited by a fork."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_adopted(since_ticks: int, grace_s: float = 0.0) -> None:
    """End the children of this process that lead a life outside its session and are no older than since_ticks, and what
    they leave behind in turn. grace_s: for those that are about to end by themselves."""
    deadline = time.monotonic() + grace_s
    for _ in range(250):
        adopted = _adopted(since_ticks)
        if not adopted:
            return
        if time.monotonic() >= deadline:
            _kill_groups(adopted.values())
        for pid in adopted:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def die_with(parent: int) -> None:
    """Let the kernel end this process when `parent`, which forked it, ends in whatever way."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before it could be asked for.
        os._exit(128 + signal.SIGKILL)


def lock_heirs(path: os.PathLike[str]) -> list[int]:
    """Processes that hold a flock on `path` through the open file of another one, which took it and is gone."""
    wanted = os.stat(path)
    takers: dict[int, int] = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    seen = os.stat(f"/proc/{pid}/fd/{descriptor}")
                    same = (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino)
                    if same and (taker := _lock_taker(pid, descriptor)) is not None:
                        takers[pid] = taker
    return [] if any(pid == taker for pid, taker in takers.items()) else [*takers]


def end_processes(pids: list[int], wait_s: float = 2.0) -> None:
    """SIGKILL; return when they are gone, or after wait_s."""
    started = {pid: start_ticks(pid) for pid in pids}
    _signal_all(pids, signal.SIGKILL)
    deadline = time.monotonic() + wait_s
    while any(start_ticks(pid) == ticks is not None for pid, ticks in started.items()):
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _members(session: int, since_ticks: int) -> dict[int, int]:
    """session_members(), each with its process group."""
    leader = stat_fields(session)
    if leader and since_ticks and int(leader[19]) != since_ticks:
        # The id is another process's now: the kernel gives it away only when nothing of the session is left.
        return {}
    members = {}
    for pid in _pids():
        fields = stat_fields(pid)
        if fields and fields[0] != "Z" and int(fields[3]) == session and int(fields[19]) >= since_ticks:
            members[pid] = int(fields[2])
    return members


def _adopted(since_ticks: int) -> dict[int, int]:
    """Each with its process group. The ended ones too: of one that forks on and on no other is ever seen."""
    own, session, adopted = os.getpid(), os.getsid(0), {}
    for pid in _pids():
        fields = stat_fields(pid)
        if fields and int(fields[1]) == own and int(fields[3]) != session and int(fields[19]) >= since_ticks:
            adopted[pid] = int(fields[2])
    return adopted


def _lock_taker(pid: int, descriptor: str) -> int | None:
    """Who took the flock that this open file holds, as the kernel keeps it (/proc/<pid>/fdinfo); None if it holds none.

    0: a process that ended, seen from inside a container.
    """
    try:
        with open(f"/proc/{pid}/fdinfo/{descriptor}") as file:
            words = next((line.split() for line in file if line.startswith("lock:") and "FLOCK" in line), None)
    except OSError:
        return None
    # lock: 1: FLOCK  ADVISORY  WRITE 14548 fe:00:2335372 0 EOF
    return int(words[5]) if words else None


def _signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _kill_groups(groups: Iterable[int]) -> None:
    for group in {*groups} - {os.getpgrp()}:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
