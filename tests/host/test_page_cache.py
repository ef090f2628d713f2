"""The kernel's page cache as other tools see it: files that were written, evicted and read again."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.host import page_cache
from bench.host.page_cache import cached_by_node

SIZE = 8 << 20


@dataclass(frozen=True)
class File:
    """SIZE bytes, not cached. in_memory: on tmpfs, whose files are in the page cache as far as they were written."""

    path: Path
    in_memory: bool

    def load(self, nbytes: int) -> None:
        """Bring its first bytes into the page cache, and no others."""
        descriptor = os.open(self.path, os.O_RDWR)
        # No page is read before it is asked for.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        if self.in_memory:
            os.pwrite(descriptor, bytes(nbytes), 0)
        else:
            os.pread(descriptor, nbytes, 0)
        os.close(descriptor)


def evicted(path: Path) -> bool:
    """Whether the page cache gave up this file; not at once while the disk is busy with it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        for _ in range(20):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if cached_by_node(path) == (0, {}):
                return True
            time.sleep(0.05)
        return False
    finally:
        os.close(descriptor)


@pytest.fixture
def file(tmp_path: Path) -> File:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SIZE))
    if evicted(path):
        return File(path, in_memory=False)
    with path.open("wb") as holes:
        holes.truncate(SIZE)
    return File(path, in_memory=True)


def test_pages_count_once_they_are_read(file):
    file.load(SIZE // 4)
    found, by_node = cached_by_node(file.path)
    assert found == SIZE // 4
    assert sum(by_node.values()) in (0, found)


def test_asking_reads_nothing(file):
    assert [cached_by_node(file.path) for _ in range(3)] == [(0, {})] * 3


def test_sample_is_spread_over_the_file(file, monkeypatch):
    monkeypatch.setattr(page_cache, "SAMPLE_PAGES", 64)
    file.load(SIZE)
    assert cached_by_node(file.path)[0] == SIZE


def test_what_the_kernel_hides_is_unknown(file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cached_by_node(file.path) is None


def test_file_without_pages_and_other_files(tmp_path):
    (tmp_path / "empty").touch()
    assert cached_by_node(tmp_path / "empty") is None
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none"):
        with pytest.raises(OSError):
            cached_by_node(tmp_path / name)
