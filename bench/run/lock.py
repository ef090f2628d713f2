"""One measurement on a host at a time: a flock that a study holds from its first run to its last.

The lock is on a directory that every user can open: /run/lock, whatever the user and TMPDIR. So there is no lock file
that another user could plant, fill or remove, and the kernel reports who holds it. Each user has two files there with
the same content: one of mode 0600, by which a study ends what an earlier one of the same user left behind, and one that
other users can read, which is only ever shown.
"""

import errno
import fcntl
import os
import pwd
import stat
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from bench.errors import StudyError
from bench.host.processes import end_processes, end_session, flock_taker, lock_heirs, session_members
from bench.records.base import AtLeastOne, DamagedRecord, Record, decode
from bench.run.progress import Progress, Report, RunState
from bench.storage import boot_id, start_ticks

LOCK_DIR_VARIABLE = "NUMASTUDY_LOCK_DIR"
SHARED = ("/run/lock", "/run", "/")
LARGEST_BYTES = 65536
LARGEST_TEXT = 200


class Child(Record, frozen=True, kw_only=True):
    """A measured process, which leads a session."""

    pid: AtLeastOne
    start_ticks: AtLeastOne

    @property
    def is_alive(self) -> bool:
        return start_ticks(self.pid) == self.start_ticks


class Holder(Record, frozen=True, kw_only=True):
    """The study that a user's process has taken the lock for. since: local time, for people."""

    uid: int
    pid: AtLeastOne
    start_ticks: AtLeastOne
    boot: str
    study: str = ""
    since: str = ""
    children: tuple[Child, ...] = ()

    @property
    def is_dead(self) -> bool:
        return self.boot != boot_id() or start_ticks(self.pid) != self.start_ticks


class HostLock:
    """The lock of this host, to be opened before any fork, so that forked workers share it: a flock belongs to the open
    file, not to the process. Its descriptor is passed to the child as well: while an orphan runs, the host is busy.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or lock_folder()
        self._descriptor = _open_folder(self.folder)
        self._private, self._public = _own_files(self.folder)
        # Forked workers come and go; a study lives as long as the process that opened the lock.
        pid = os.getpid()
        self._me = Holder(uid=os.geteuid(), pid=pid, start_ticks=start_ticks(pid) or 1, boot=boot_id())
        # Where a user's files cannot be written, only this process knows its children.
        self._remembered: Holder | None = None
        # Children of one run are started in threads of their own.
        self._writing = threading.Lock()

    def fileno(self) -> int:
        return self._descriptor

    def acquire(self, study: str, report: Report, interval_s: float = 1.0) -> None:
        """Block until the host is free, reporting who holds it. Orphans of a dead study of this user are ended."""
        while not self._try():
            self._end_orphans()
            if self._try():
                break
            report(Progress(RunState.WAITING, waiting_for=self._who()))
            time.sleep(interval_s)
        # What a killed study left behind need not hold the lock.
        self._end_orphans()
        before = self.holder()
        # Taken again for each run: a study holds the host since its first.
        again = before is not None and self._is_mine(before) and before.study == study
        since = before.since if before and again else time.strftime("%Y-%m-%d %H:%M:%S")
        self._write(msgspec.structs.replace(self._me, study=study, since=since))

    def record_child(self, pid: int) -> None:
        """Remember the child's session beside those that live: a later study can end it if this one is killed."""
        with self._writing:
            holder, ticks = self.holder(), start_ticks(pid)
            mine = holder if holder and self._is_mine(holder) else self._me
            new = (Child(pid=pid, start_ticks=ticks),) if ticks else ()
            living = tuple(child for child in mine.children if child.is_alive and child.pid != pid)
            self._write(msgspec.structs.replace(mine, children=(*living, *new)))

    def sessions(self) -> list[int]:
        """The sessions that were recorded and whose leaders live: the measured process and its peers."""
        holder = self.holder()
        return [child.pid for child in holder.children if child.is_alive] if holder else []

    def measuring(self) -> bool:
        """Whether a run of this study is going on: not while it waits for the host, nor between two runs."""
        holder = self.holder()
        return holder is not None and self._is_mine(holder) and bool(self.sessions())

    def release(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def holder(self) -> Holder | None:
        """What the last process of this user that took the lock recorded; None if none did."""
        if self._private is None:
            return self._remembered
        return _read(os.pread(self._private, LARGEST_BYTES, 0), self._me.uid)

    def _is_mine(self, holder: Holder) -> bool:
        return (holder.pid, holder.start_ticks, holder.boot) == (self._me.pid, self._me.start_ticks, self._me.boot)

    def _end_orphans(self) -> None:
        """End what a dead study of this user left behind: the sessions of its children, and the processes that still
        hold the lock through the file that it opened."""
        holder = self.holder()
        if holder is None or not holder.is_dead or holder.boot != boot_id():
            return
        for child in holder.children:
            end_session(child.pid, child.start_ticks)
        end_processes([pid for pid in lock_heirs(self.folder) if _user_of(pid) == self._me.uid])

    def _who(self) -> str:
        """Who holds the lock, as the kernel reports it, described by its user's file."""
        taker = flock_taker(self.folder)
        for holder in holders(self.folder):
            busy = not holder.is_dead or any(child.is_alive for child in holder.children)
            if taker == holder.pid or (taker is None and busy):
                return describe(holder)
        if taker is not None and start_ticks(taker) is not None:
            return f"process {taker} of user {_user_name(_user_of(taker))}"
        return "another measurement on this host"

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise StudyError(
                f"cannot lock this host: {error.strerror}",
                str(self.folder),
                f"set {LOCK_DIR_VARIABLE} to a folder on a local file system",
            ) from None
        return True

    def _write(self, holder: Holder) -> None:
        # In one call; what remains of a longer text after this line is not read.
        self._remembered = holder
        for descriptor in (self._private, self._public):
            if descriptor is not None:
                os.pwrite(descriptor, msgspec.json.encode(holder) + b"\n", 0)


def holders(folder: Path) -> Iterable[Holder]:
    """What each user's last process that took the lock recorded for others to read."""
    for path in sorted(folder.glob("numastudy-*.holder")):
        descriptor = _open_regular(path, os.O_RDONLY)
        if descriptor is not None:
            with os.fdopen(descriptor, "rb") as file:
                uid = os.fstat(file.fileno()).st_uid
                if holder := _read(file.read(LARGEST_BYTES), uid):
                    yield holder


def lock_folder() -> Path:
    """The same for every user of the host; NUMASTUDY_LOCK_DIR moves it (in tests, or for hosts in one image)."""
    folder = os.environ.get(LOCK_DIR_VARIABLE)
    return Path(folder) if folder else next(Path(path) for path in SHARED if os.path.isdir(path))


def describe(holder: Holder) -> str:
    """For people: names come from another user's file, so nothing in them reaches a terminal as it is."""
    study = "".join(letter if letter.isprintable() else "?" for letter in holder.study[:LARGEST_TEXT])
    since = "".join(letter if letter.isprintable() else "?" for letter in holder.since[:LARGEST_TEXT])
    if not holder.is_dead:
        return f"{study} (pid {holder.pid}, since {since})"
    living = [pid for child in holder.children for pid in session_members(child.pid, child.start_ticks)]
    processes = f"process {', '.join(map(str, living))}" if living else "the processes"
    user = _user_name(holder.uid)
    return f"what {study} left behind when it was killed: ask for the end of {processes} of user {user}"


def _open_folder(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StudyError(
            f"cannot open the folder that is the lock of this host: {error.strerror}",
            str(folder),
            f"set {LOCK_DIR_VARIABLE} to a folder that all users of the host can read",
        ) from None


def _own_files(folder: Path) -> tuple[int | None, int | None]:
    """Descriptors of this user's private and public file; None for one that cannot be written."""
    uid = os.geteuid()
    places = (folder, Path(f"/run/user/{uid}"))
    place = next((place for place in places if os.access(place, os.W_OK)), None)
    if place is None:
        return None, None
    files = (place / f"numastudy-{uid}.children", 0o600), (folder / f"numastudy-{uid}.holder", 0o644)
    private, public = (_open_own(path, mode) for path, mode in files)
    return private, public


def _open_own(path: Path, mode: int) -> int | None:
    """None for a file that is not this user's alone: one that another user may have planted."""
    descriptor = _open_regular(path, os.O_RDWR | os.O_CREAT, mode)
    if descriptor is None:
        return None
    with suppress(OSError):
        if os.fstat(descriptor).st_uid == os.geteuid():
            os.fchmod(descriptor, mode)
            return descriptor
    os.close(descriptor)
    return None


def _open_regular(path: Path, flags: int, mode: int = 0) -> int | None:
    """None for what is not a regular file of one name, or cannot be opened. Neither a link nor a FIFO is followed."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    return None


def _read(text: bytes, uid: int) -> Holder | None:
    """The record in a file of this user; None if it has none, or one about another user."""
    try:
        holder = decode(text.partition(b"\n")[0], Holder)
    except DamagedRecord:
        return None
    return holder if holder.uid == uid else None


def _user_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _user_name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid).pw_name if uid is not None else "unknown"
    except KeyError:
        return str(uid)
