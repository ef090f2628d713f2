"""A recorded host is a folder that somebody else may have made: it is checked before anything of it is read."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.records.base import DamagedRecord

LIVE = Path("/")
MOST_FILES = 500_000


@contextmanager
def checked(root: Path) -> Iterator[None]:
    """While the host is read. Raise DamagedRecord for a recorded one with links that lead out of it, with what is
    neither a file nor a folder, or with values that no kernel writes."""
    if root == LIVE:
        yield
        return
    _check_files(root)
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise DamagedRecord(f"a value that no kernel writes: {error}") from None


def _check_files(root: Path) -> None:
    inside = root.resolve()
    seen = 0
    for folder, folders, files in os.walk(root):
        seen += len(files) + len(folders)
        if seen > MOST_FILES:
            raise DamagedRecord(f"more than {MOST_FILES} files")
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                if not path.resolve().is_relative_to(inside):
                    raise DamagedRecord(f"{path} is a link that leads out of the recorded host")
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise DamagedRecord(f"{path} is neither a file nor a folder")
