import shutil
import stat

import pytest

PROGRAM = """
import sys, nvtx
def batch(prefix, i):
    nvtx.push_range(f"{prefix}_batch_{i}")
    for stage in ("h2d", "compute", "d2h"):
        nvtx.push_range(f"{prefix}_{stage}_batch_{i}")
        nvtx.pop_range()
    nvtx.pop_range()
for i in range(2):
    batch("warmup", i)
batch("test", 0)
nvtx.push_range("test_double_buffer")
for i in range(5):
    batch("test", i)
nvtx.pop_range()
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def nvtx_program():
    return PROGRAM


@pytest.fixture
def script(tmp_path):
    """Makes an executable shell script: a stand-in for a tool that fails in a way the real one cannot be made to."""

    def make(name, body):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


@pytest.fixture
def only_on_path(monkeypatch):
    def put(path):
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
        assert shutil.which(path.name) == str(path)

    return put
