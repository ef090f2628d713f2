"""Files that appear whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.owners import is_gone, owner

# Of the name of a file in that of its temporary one, which has more parts.
MOST_NAME = 150


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is fsynced and takes the name `path`.

    Raise StudyError, and leave `path` as it was, if the file system refuses (full, read-only, no permission).
    """
    path = Path(path)
    try:
        with _renamed_at_the_end(path) as temporary:
            yield temporary
    except OSError as error:
        raise StudyError(
            f"cannot write: {error.strerror or error}", str(path), "make room or mend the permissions, then start again"
        ) from None


@contextmanager
def _renamed_at_the_end(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:MOST_NAME]}.{owner()}."
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


def read_json(path: Path | str) -> Any:
    """Raise StudyError if the file is there but is not JSON; OSError if it cannot be read."""
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise StudyError(
            f"not valid JSON: {error}", str(path), "delete the file; the next call writes it again"
        ) from None


def sweep(folder: Path, pattern: str) -> None:
    """Remove what processes that have ended left half done. The last-but-one part of its name, between dots, is
    owner() of who made it."""
    for path in folder.glob(pattern):
        with suppress(OSError, ValueError, IndexError):
            if is_gone(path.name.split(".")[-3]):
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
