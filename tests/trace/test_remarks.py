from bench.trace.reader import read_trace
from bench.trace.remarks import remarks
from tests.trace.trace_builder import Launch, pipeline, write


def said(tmp_path, *launches):
    return remarks(read_trace(write(tmp_path / "x.sqlite", pipeline().with_launches(*launches))))


def test_a_tidy_trace_needs_no_remark(tmp_path, real_export):
    assert said(tmp_path) == []
    assert remarks(read_trace(real_export)) == []


def test_pageable_copies_are_named(tmp_path):
    [remark] = said(tmp_path, Launch(1005, 1006, 1010, 1020, "h2d", 5, host_memory=0))
    assert remark.startswith("1 of 4 H2D copies use pageable host memory")


def test_copies_on_the_default_stream_are_named(tmp_path):
    [remark] = said(tmp_path, Launch(1005, 1006, 1010, 1020, "d2h", 5, stream=7))
    assert remark.startswith("1 of 4 D2H copies run on the default stream")


def test_several_gpus_are_named(tmp_path):
    [remark] = said(tmp_path, Launch(1005, 1006, 1010, 1020, "kernel", device=2))
    assert remark == "2 GPUs were used in one window: 0, 2"
