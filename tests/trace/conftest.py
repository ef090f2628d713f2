import shutil
import stat
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

FIXTURES = HERE.parent / "fixtures" / "traces"


@pytest.fixture(params=["h100_vit32x2x128_cuda_graph", "h200_vit32x6x512_eager"])
def real_export(request):
    return FIXTURES / f"{request.param}.sqlite.gz"


@pytest.fixture
def graph_export():
    return FIXTURES / "h100_vit32x2x128_cuda_graph.sqlite.gz"


@pytest.fixture
def eager_export():
    return FIXTURES / "h200_vit32x6x512_eager.sqlite.gz"


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
