"""Processes, their sessions, and how they end. An id is reused, an id with its start time is not."""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable

from bench.storage import start_ticks, stat_fields

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this interpreter. -P: nothing is imported from the current directory."""
    return [sys.executable, "-P", "-m", module, *arguments]


def without_relative_paths(environment: dict[str, str]) -> dict[str, str]:
    """The environment without the entries of PYTHONPATH that mean the current directory, or depend on it."""
    kept = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]
    rest = {key: value for key, value in environment.items() if key != "PYTHONPATH"}
    return rest | {"PYTHONPATH": os.pathsep.join(kept)} if kept else rest


def session_members(session: int, since_ticks: int) -> list[int]:
    """Living processes of the session that a child led, none of them older than the child.

    since_ticks: start of the child; 0 if it has ended and was not waited for yet.
    """
    return [*_members(session, since_ticks)]


def end_session(session: int, since_ticks: int | None, grace_s: float = 3.0) -> None:
    """SIGTERM to every process of the session, SIGKILL to those that remain after grace_s."""
    if since_ticks is None:
        return
    _signal_all([*_members(session, since_ticks)], signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (remaining := _members(session, since_ticks)) and time.monotonic() < deadline:
        time.sleep(0.02)
    # Whole groups: one that keeps forking has another id by the time that a signal is sent.
    for _ in range(50):
        if not remaining:
            return
        _kill_groups(remaining.values())
        time.sleep(0.02)
        remaining = _members(session, since_ticks)


def adopt_orphans() -> None:
    """Become the parent of whatever a descendant leaves behind, whatever its session: nsys starts the measured process
    in a new one. Not inherited by a fork."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_adopted(since_ticks: int, grace_s: float = 0.0) -> None:
    """End the children of this process outside its session that are no older than since_ticks, and what they leave
    behind in turn. grace_s: for those that are about to end by themselves."""
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


def die_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel signal this process when `parent`, which forked it, ends in whatever way."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        # It ended before the request.
        os._exit(128 + number)


def lock_heirs(path: os.PathLike[str]) -> list[int]:
    """Processes that hold a flock on `path` through the open file of another one, which took it and has ended.

    Empty while the one that took it may be alive.
    """
    wanted = os.stat(path)
    takers: dict[int, int] = {}
    hidden: set[int] = set()
    for pid in _pids():
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            hidden.add(pid)
            continue
        except OSError:
            continue
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                seen = os.stat(f"/proc/{pid}/fd/{descriptor}")
                same = (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino)
                if same and (taker := _lock_taker(pid, descriptor)) is not None:
                    takers[pid] = taker
    alive = any(taker == pid or taker in hidden for pid, taker in takers.items()) or takers.keys() & {*takers.values()}
    return [] if alive else [*takers]


def flock_taker(path: os.PathLike[str]) -> int | None:
    """The process that took the flock on `path`, as /proc/locks lists it, even if it has ended; None if unknown."""
    status = os.stat(path)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/locks") as file:
        for words in map(str.split, file):
            # 1: FLOCK  ADVISORY  WRITE 14548 fe:00:2335372 0 EOF
            if words[1] == "FLOCK" and words[5] == device:
                return int(words[4]) or None
    return None


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
    """The members of the session, each with its process group."""
    leader = stat_fields(session)
    if leader and since_ticks and int(leader[19]) != since_ticks:
        # The id is another process's now: the kernel reuses it only when the session is empty.
        return {}
    members = {}
    for pid in _pids():
        fields = stat_fields(pid)
        if fields and fields[0] != "Z" and int(fields[3]) == session and int(fields[19]) >= since_ticks:
            members[pid] = int(fields[2])
    return members


def _adopted(since_ticks: int) -> dict[int, int]:
    """Each with its process group, the ended ones too: of one that keeps forking no others are ever visible."""
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
