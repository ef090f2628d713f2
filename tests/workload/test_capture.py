import gzip
import json
import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from bench.storage import remove_stale
from bench.workload.failures import RunFailure
from bench.workload.profiling import RecordFunctionRanges, make_capture, named

from .cells import small_cell


def test_torch_trace_holds_what_ran_inside_and_only_that(tmp_path):
    trace = tmp_path / "new" / "trace.json.gz"
    ranges = RecordFunctionRanges()
    torch.zeros(3).abs()
    with make_capture(small_cell(), trace), named(ranges, "test_double_buffer"):
        torch.zeros(3).copy_(torch.ones(3))
    names = [event["name"] for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
    assert names.count("aten::copy_") == 1
    assert "test_double_buffer" in names
    assert "aten::abs" not in names
    assert list(trace.parent.iterdir()) == [trace]


def test_failed_pass_leaves_no_trace(tmp_path):
    trace = tmp_path / "trace.json.gz"
    with pytest.raises(ZeroDivisionError), make_capture(small_cell(), trace):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from torch.profiler import profile
from bench.workload.profiling import make_capture
from tests.workload.cells import small_cell

def export(self, path):
    Path(path).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

profile.export_chrome_trace = export
with make_capture(small_cell(), Path(sys.argv[1])):
    pass
"""


def test_trace_of_a_killed_process_is_removed(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "trace.json.gz")])
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "trace.json.gz").exists() and list(tmp_path.iterdir())
    remove_stale(tmp_path, "**/.*.part")
    assert list(tmp_path.iterdir()) == []


def test_torch_profiler_needs_a_trace_file():
    with pytest.raises(RunFailure, match="given no --trace"):
        make_capture(small_cell(), None)


def test_nsys_records_the_cpu_device_from_outside():
    assert isinstance(make_capture(small_cell(profiler="nsys"), None), nullcontext)
