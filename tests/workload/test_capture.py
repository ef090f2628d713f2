import gzip
import json
from contextlib import nullcontext

import pytest
import torch

from bench.workload.capture import make_capture
from bench.workload.failures import RunFailure
from bench.workload.ranges import RecordFunctionRanges, named

from .cells import small_cell


def test_the_torch_trace_holds_what_ran_inside_and_only_that(tmp_path):
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


def test_no_trace_is_left_by_a_pass_that_failed(tmp_path):
    trace = tmp_path / "trace.json.gz"
    with pytest.raises(ZeroDivisionError), make_capture(small_cell(), trace):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_torch_needs_a_place_for_its_trace():
    with pytest.raises(RunFailure, match="given no --trace"):
        make_capture(small_cell(), None)


def test_nsys_records_the_cpu_device_from_outside():
    assert isinstance(make_capture(small_cell(profiler="nsys"), None), nullcontext)
