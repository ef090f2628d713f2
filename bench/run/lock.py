"""One measurement on a host at a time: a flock that a study holds from its first run to its last."""

import errno
import fcntl
import json
import os
import pwd
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.host.processes import end_processes, end_session, lock_heirs, session_members
from bench.run.progress import Progress, Report, RunState
from bench.storage import boot_id, start_ticks

LOCK_DIR_VARIABLE = "NUMASTUDY_LOCK_DIR"
MOST_BYTES = 65536


class HostLock:
    """The lock of this host. Opened before any fork, so that forked workers share it: a flock belongs to the open
    file, not to the process. Its descriptor is passed to the child as well: while an orphan runs, the host is busy.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or lock_path()
        self._descriptor = _open(self.path)
        # Forked workers come and go; a study lives as long as the process that opened the lock.
        self._owner = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "boot": boot_id()}
        # Children of one run are started in threads of their own.
        self._writing = threading.Lock()

    def fileno(self) -> int:
        return self._descriptor

    def acquire(self, study: str, report: Report, interval_s: float = 1.0) -> None:
        """Block until the host is free, reporting who holds it. Orphans of a dead holder are ended."""
        while not self._try():
            holder = self.holder()
            left = self._end_orphans(holder)
            if is_dead(holder) and not left and self._try():
                break
            waiting_for = _waiting_for(left, holder) if is_dead(holder) else describe(holder)
            report(Progress(RunState.WAITING, waiting_for=waiting_for))
            time.sleep(interval_s)
        # What a killed study left behind need not hold the lock.
        self._end_orphans(self.holder())
        mine, before = {"study": study, **self._owner}, self.holder()
        # Taken again for each run: a study holds the host since its first.
        since = before.get("since") if mine.items() <= before.items() else None
        self._write(mine | {"since": since or time.strftime("%Y-%m-%d %H:%M:%S")})

    def record_child(self, pid: int) -> None:
        """Remember the child's session beside those that live, so that a later study can end it if this one is
        killed."""
        with self._writing:
            holder = self.holder()
            living = [[child, ticks] for child, ticks in _children(holder) if start_ticks(child) == ticks]
            ticks = start_ticks(pid)
            # Versions that knew of one child only read the last two keys.
            newest = {"children": [*living, [pid, ticks]], "child": pid, "child_start_ticks": ticks}
            self._write(holder | newest)

    def sessions(self) -> list[int]:
        """The sessions that were recorded and whose leaders live: the measured process and its peers."""
        return [child for child, ticks in _children(self.holder()) if start_ticks(child) == ticks]

    def measuring(self) -> bool:
        """Whether a run of this study goes on: not while it waits for the host, nor between two runs."""
        return self._owner.items() <= self.holder().items() and bool(self.sessions())

    def release(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def holder(self) -> dict[str, Any]:
        """What the last one to take the lock wrote; {} if that cannot be read."""
        try:
            found = json.loads(os.pread(self._descriptor, MOST_BYTES, 0).partition(b"\n")[0] or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _end_orphans(self, holder: dict[str, Any]) -> list[int]:
        """End what a dead holder left behind: the sessions of its children, and whoever still holds the lock through
        the file that it opened. Returns those that this user may not end."""
        if not is_dead(holder) or holder.get("boot", boot_id()) != boot_id():
            return []
        left = []
        for child, ticks in _children(holder):
            end_session(child, ticks)
            left += session_members(child, ticks or 0)
        end_processes(orphans := lock_heirs(self.path))
        return left + [pid for pid in orphans if start_ticks(pid) is not None and pid not in left]

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def _write(self, holder: dict[str, Any]) -> None:
        # Only who holds the lock writes, in one call; what a longer text leaves after this line is not read.
        os.pwrite(self._descriptor, json.dumps(holder).encode() + b"\n", 0)


def lock_path() -> Path:
    """The same file for every user of the host; NUMASTUDY_LOCK_DIR moves it (to test, or for hosts in one image)."""
    folder = os.environ.get(LOCK_DIR_VARIABLE)
    if folder:
        return Path(folder) / "numastudy.lock"
    shared = Path("/run/lock")
    return (shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())) / "numastudy.lock"


def _waiting_for(left: Sequence[int], holder: dict[str, Any]) -> str:
    """What a killed study of another user left behind: only he, or root, may end it."""
    processes = f"process {', '.join(map(str, left))} of user {_user(left[0])}" if left else "another user's processes"
    return f"what {holder['study']} left behind when it was killed: ask for the end of {processes}"


def describe(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another measurement on this host"
    return f"{holder['study']} (pid {holder['pid']}, since {holder['since']})"


def _open(path: Path) -> int:
    # O_CREAT on another user's file in a sticky folder is refused by fs.protected_regular, so try without.
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDWR):
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):
            continue
        except OSError as error:
            raise StudyError(
                f"cannot open the lock of this host: {error.strerror}",
                str(path),
                f"make it writable for all users of the host, or set {LOCK_DIR_VARIABLE}",
            ) from None
        if flags & os.O_EXCL:
            os.fchmod(descriptor, 0o666)
        return descriptor
    raise StudyError(
        "cannot make the lock of this host: its folder is missing",
        str(path),
        f"set {LOCK_DIR_VARIABLE} to a folder that is there",
    )


def is_dead(holder: dict[str, Any]) -> bool:
    """Whether the study that wrote this has ended."""
    other_boot = holder.get("boot", boot_id()) != boot_id()
    return "pid" in holder and (other_boot or start_ticks(holder["pid"]) != holder.get("start_ticks"))


def _children(holder: dict[str, Any]) -> list[tuple[int, int | None]]:
    """Sessions and their leaders' start times. A holder of an earlier version names one."""
    if "children" in holder:
        return [(child, ticks) for child, ticks in holder["children"]]
    return [(holder["child"], holder["child_start_ticks"])] if "child" in holder else []


def _user(pid: int) -> str:
    try:
        return pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name
    except (OSError, KeyError):
        return "unknown"
