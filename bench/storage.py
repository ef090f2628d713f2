"""Files that appear whole or not at all, their temporaries, and SQLite files on network file systems."""

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from bench.errors import StudyError

# Of the name of a file, the part that its temporary file's name repeats: that one has more parts.
MOST_NAME = 150
LARGEST_JSON_BYTES = 256 << 20
# SQLite's names for a write that the file system refuses; it reports a full disk as SQLITE_FULL.
_REFUSALS = tuple("SQLITE_" + name for name in ("CANTOPEN", "READONLY", "IOERR_WRITE", "IOERR_FSYNC", "IOERR_SHM"))
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "9p", "fuse", "glusterfs", "afs")


def utc_now() -> str:
    """The present time as records store it: "2026-03-01T14:05:09Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# A temporary file is named after the process that writes it: by process id, start time and boot. Clocks may be set,
# so none is read.


def start_ticks(pid: int) -> int | None:
    """Clock ticks from boot to the start of the process (/proc/<pid>/stat, field 22); None if it does not exist."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields and fields[0] != "Z" else None


@cache
def boot_id() -> str:
    """Identifies one boot of the host: start times of another boot do not apply to its processes."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def process_identity() -> str:
    """This process, for the name of a file: boot, PID namespace, PID, start time."""
    return f"{_namespace()}-{os.getpid()}-{start_ticks(os.getpid())}"


def has_ended(identity: str) -> bool:
    """Whether the process of this process_identity() has ended. False for one of another PID namespace: unknown."""
    *space, pid, ticks = identity.split("-")
    if space[0] != boot_id()[:8]:
        return True
    return "-".join(space) == _namespace() and str(start_ticks(int(pid))) != ticks


def stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the third (state) on; the second may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _namespace() -> str:
    try:
        return f"{boot_id()[:8]}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{boot_id()[:8]}-0"


# Files.


def open_regular(path: Path | str) -> BinaryIO:
    """A file to read that others may have put there: a FIFO would never end, and neither would /dev/zero.

    Raise OSError, also for what is not a regular file.
    """
    # A FIFO opens at once, and whatever it is, nothing of it has been read.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code, text = (errno.EISDIR, "a folder") if stat.S_ISDIR(mode) else (errno.EINVAL, "not a regular file")
        raise OSError(code, text, str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path | str, most_bytes: int) -> bytes:
    """The content. Raise OSError as open_regular, and for a file with more bytes."""
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes} bytes", str(path))
    return content


def why_untrusted(path: Path) -> str:
    """Why a file or folder may hold what another user wrote; "" if only this user and root can write it."""
    try:
        status = path.stat()
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    except ValueError as error:  # a null byte, or half of a surrogate pair
        return f"{str(path)!r} is no path: {error}"
    if status.st_uid not in (0, os.getuid()):
        return f"{path} belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be written by other users (chmod go-w)"
    return ""


@contextmanager
def working_folder() -> Iterator[Path]:
    """A folder on the local disk for large files in use. What killed processes left behind is removed first."""
    place = Path(tempfile.gettempdir())
    remove_stale(place, "numastudy.*.files")
    prefix = f"numastudy.{process_identity()}."
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=".files", dir=place) as folder:
        yield Path(folder)


def remove_unfinished(path: Path) -> None:
    """Remove what processes that were killed have written of this file."""
    remove_stale(path.parent, f".{escape(path.name[:MOST_NAME])}.*.part")


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is fsynced and takes the name `path`.

    Its folder is created, those above it are not: a run directory that was removed must not come back as a stub.
    Raise StudyError, and leave `path` as it was, if the file system refuses (full, read-only, no permission), also by
    an error of SQLite.
    """
    path = Path(path)
    with _refusals_named(path), _renamed_on_success(path) as temporary:
        yield temporary


@contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if not (reason := refusal(error)):
            raise
        advice = "make room or fix the permissions, then start again"
        raise StudyError(f"cannot write: {reason}", str(path), advice) from None


def refusal(error: Exception) -> str:
    """Why the file system refused a write; "" for any other error, as of SQLite about the database itself."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = getattr(error, "sqlite_errorname", "")
    if code == "SQLITE_FULL":
        return os.strerror(errno.ENOSPC)
    return str(error) if code.startswith(_REFUSALS) else ""


@contextmanager
def _renamed_on_success(path: Path) -> Iterator[Path]:
    path.parent.mkdir(exist_ok=True)
    prefix = f".{path.name[:MOST_NAME]}.{process_identity()}."
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        # mkstemp makes 0600; a report is for others to read.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write strict JSON: NaN and infinities are refused (ValueError), since other programs cannot read them."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def remove_stale(folder: Path, pattern: str) -> None:
    """Remove temporary files of processes that have ended.

    Of the parts of such a name between dots, the last but two is the process_identity() of its writer.
    """
    for path in folder.glob(pattern):
        with suppress(OSError, ValueError, IndexError):
            if has_ended(path.name.split(".")[-3]):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync_folders(path: Path, levels: int) -> None:
    """Let a new folder, and the names of the `levels` folders above it, survive a power loss."""
    for folder in (path, *path.parents[:levels]):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# SQLite files, where SQLite can lock and write them: for a network file system, in a copy on the local disk.


@contextmanager
def whole_database(path: Path) -> Iterator[Path]:
    """Yield where to build a database that appears as `path`, whole or not at all. Raise StudyError as whole_file."""
    if not on_network(path):
        with whole_file(path) as temporary:
            yield temporary
        return
    with _refusals_named(path), working_folder() as folder:
        local = folder / path.name
        local.touch()
        yield local
        _copy_back(local, path)


@contextmanager
def local_copy(path: Path, wait_s: float) -> Iterator[Path]:
    """Yield a copy of the database on the local disk; a changed copy replaces the original at the end, whole.

    Programs that do so exclude each other. Raise TimeoutError after wait_s, OSError, or StudyError.
    """
    with working_folder() as folder, _exclusive(path, wait_s):
        local = folder / path.name
        if path.exists():
            shutil.copyfile(path, local)
        before = _version(local)
        yield local
        if _version(local) != before:
            _copy_back(local, path)


def real(path: Path) -> Path:
    """The path without links. A loop of links stays one: Path.resolve raises RuntimeError there before Python 3.13."""
    return Path(os.path.realpath(path))


def on_network(path: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether the file is on a file system that other hosts may share."""
    folder = path.resolve().parent
    found, kind = Path("/"), ""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    for line in lines:
        point, name = line.split()[1:3]
        place = Path(point.replace("\\040", " "))
        if folder.is_relative_to(place) and len(place.parts) >= len(found.parts):
            found, kind = place, name
    return kind.startswith(_NETWORK)


def _copy_back(local: Path, path: Path) -> None:
    with whole_file(path) as temporary:
        shutil.copyfile(local, temporary)


@contextmanager
def _exclusive(path: Path, wait_s: float) -> Iterator[None]:
    deadline = time.monotonic() + wait_s
    lock = os.open(path.parent / f".{path.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(0.05)
            except OSError:
                # A file system without locks: the last writer wins.
                break
        yield
    finally:
        with suppress(OSError):
            os.close(lock)


def _version(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None
