"""Files that a command reads, of which the largest are kept open until they are looked at."""

import os
import resource
from pathlib import Path

import pytest

from bench.command import files
from bench.command.files import Files
from bench.records.command import Command


def test_largest_files_are_found_among_more_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LEAST_BYTES", 1)
    monkeypatch.setattr(files, "MOST", 3)
    for size in range(1, 61):
        (tmp_path / str(size)).write_bytes(bytes(size))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {*map(int, os.listdir("/proc/self/fd"))}
    unused = [number for number in range(len(used) + 10) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused[9], hard))
    try:
        found = Files(Command(run=("true",), cwd=str(tmp_path), evict=("*",))).cached()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [one.bytes for one in found] == [60, 59, 58]
