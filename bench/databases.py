"""SQLite files where SQLite can lock and write them: on a network file system a copy on the local disk is used."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.files import whole_file

_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "9p", "fuse", "glusterfs", "afs")


@contextmanager
def whole_database(path: Path) -> Iterator[Path]:
    """Yield where to build a database that appears as `path`, whole or not at all. Raises StudyError as whole_file."""
    if not on_network(path):
        with whole_file(path) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="numastudy-") as folder:
        local = Path(folder, path.name)
        local.touch()
        yield local
        _copy_back(local, path)


@contextmanager
def local_copy(path: Path, wait_s: float) -> Iterator[Path]:
    """Yield a copy of the database on the local disk; what was changed there takes its place at the end, whole.

    Programs that do so take turns. Raise TimeoutError after wait_s, OSError, or StudyError.
    """
    with tempfile.TemporaryDirectory(prefix="numastudy-") as folder, _turn(path, wait_s):
        local = Path(folder, path.name)
        if path.exists():
            shutil.copyfile(path, local)
        before = _state(local)
        yield local
        if _state(local) != before:
            _copy_back(local, path)


def on_network(path: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether the file lies on a file system that other hosts may share."""
    folder = path.resolve().parent
    found, kind = Path("/"), ""
    try:
        lines = mounts.read_text().splitlines()
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
def _turn(path: Path, wait_s: float) -> Iterator[None]:
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
                # Mounted without locks: the last one to finish has its say.
                break
        yield
    finally:
        with suppress(OSError):
            os.close(lock)


def _state(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None
