"""The kernel's page cache as other tools see it: files that were written, evicted and read again."""

import os
from pathlib import Path

import pytest

from bench.host import page_cache
from bench.host.page_cache import cached_by_node

SIZE = 8 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """On a disk, not cached."""
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SIZE))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    # No page is read before it is asked for.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    os.close(descriptor)
    if (cached_by_node(path) or (1, {}))[0]:
        pytest.skip("this file system keeps its files in memory")
    return path


def test_pages_count_once_they_are_read(file):
    descriptor = os.open(file, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(descriptor, SIZE // 4, 0)
    os.close(descriptor)
    found, by_node = cached_by_node(file)
    assert found == SIZE // 4
    assert sum(by_node.values()) in (0, found)


def test_asking_reads_nothing(file):
    assert [cached_by_node(file) for _ in range(3)] == [(0, {})] * 3


def test_sample_is_spread_over_the_file(file, monkeypatch):
    monkeypatch.setattr(page_cache, "SAMPLE_PAGES", 64)
    file.read_bytes()
    assert cached_by_node(file)[0] == SIZE


def test_what_the_kernel_hides_is_unknown(file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cached_by_node(file) is None


def test_file_without_pages_and_other_files(tmp_path):
    (tmp_path / "empty").touch()
    assert cached_by_node(tmp_path / "empty") is None
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none"):
        with pytest.raises(OSError):
            cached_by_node(tmp_path / name)
