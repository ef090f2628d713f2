import sys

import pytest
import torch

from bench.workload.devices import CpuDevice
from bench.workload.failures import RunFailure
from bench.workload.pipeline import no_beat
from bench.workload.profiling import NvtxRanges, RecordFunctionRanges, annotated_step, make_ranges, named
from bench.workload.progress import PhaseTimes
from bench.workload.run import build_pipeline

from .cells import NO_COMPUTE, small_cell


class Written:
    """Ranges written down as a tree of names."""

    def __init__(self) -> None:
        self.tree: list = []
        self._open = [self.tree]

    def push(self, name: str) -> None:
        children: list = []
        self._open[-1].append((name, children))
        self._open.append(children)

    def pop(self) -> None:
        self._open.pop()


def batch(prefix: str, index: int) -> tuple:
    stages = [(f"{prefix}{stage}_batch_{index}", []) for stage in ("h2d", "compute", "d2h")]
    return (f"{prefix}batch_{index}", stages)


def test_names_and_nesting_are_those_of_the_contract():
    written = Written()
    with torch.inference_mode():
        pipeline = build_pipeline(small_cell(), CpuDevice(), PhaseTimes())
        pipeline.run(3, no_beat)
        with named(written, "test_double_buffer"):
            pipeline.run(2, no_beat, annotated_step(pipeline, written, "test_", 2))
    assert written.tree == [("test_double_buffer", [batch("test_", 0), batch("test_", 1)])]


def test_pass_with_ranges_moves_the_same_batches():
    with torch.inference_mode():
        pipeline = build_pipeline(small_cell(model=NO_COMPUTE), CpuDevice(), PhaseTimes())
        pipeline.run(2, no_beat)
        pipeline.run(3, no_beat, annotated_step(pipeline, Written(), "warmup_", 3))
        for index in range(5):
            assert torch.equal(pipeline.output_of(index), pipeline.rings.inputs[0][index])
        assert pipeline.output_of(5).isnan().all()


def test_range_closes_when_its_stage_fails():
    written = Written()
    with pytest.raises(ZeroDivisionError), named(written, "a"):
        raise ZeroDivisionError
    written.push("b")
    assert [name for name, _ in written.tree] == ["a", "b"]


def test_each_profiler_has_its_ranges():
    assert isinstance(make_ranges(small_cell(profiler="torch")), RecordFunctionRanges)
    assert isinstance(make_ranges(small_cell(profiler="nsys")), NvtxRanges)


def test_nvtx_ranges_nest():
    ranges = NvtxRanges()
    ranges.push("a")
    ranges.push("b")
    ranges.pop()
    ranges.pop()


def test_no_nvtx_is_named(monkeypatch):
    if hasattr(torch._C, "_nvtx"):
        pytest.skip("this torch has NVTX of its own")
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(RunFailure, match="needs the Python package nvtx") as raised:
        NvtxRanges()
    assert raised.value.status == "not_runnable"
