"""Folders for tests with several users."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_for_everybody() -> Iterator[Path]:
    """A folder that every user may enter and read.

    Those of pytest are for one user only, and become so again whenever another pytest begins on the machine.
    """
    with tempfile.TemporaryDirectory(prefix="numastudy-test-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder
