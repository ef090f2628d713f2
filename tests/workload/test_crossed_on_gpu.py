"""Sides that compute differently, on a GPU. Skipped where there is none.

NUMASTUDY_GPU_TESTS=1 python -m pytest tests/workload/test_crossed_on_gpu.py
"""

import pytest
import torch
from msgspec.structs import replace

import bench.workload.crossed_work as works_module
from bench.records.run import Outcome, PlacementVerdict
from bench.workload.crossed_work import crossed_work
from bench.workload.crossing import _Crossing, cross
from bench.workload.devices import CudaDevice
from bench.workload.models import build_model
from bench.workload.pipeline import no_beat
from bench.workload.progress import PhaseTimes, Progress

from .cells import small_cell
from .test_crossing import CELL, GROUP, _back_where_it_was, group
from .test_on_gpu import LARGE

__all__ = ["_back_where_it_was"]
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SIDES = {
    "base": {},
    "graph": {"cuda_graph": True},
    "graph3": {"cuda_graph": True, "buffers": 3},
    "bf16": {"dtype": "bf16"},
    "bf16graph": {"dtype": "bf16", "cuda_graph": True},
    "buf1": {"buffers": 1},
    "bs1": {"batch_size": 1},
    "bs40graph": {"batch_size": 40, "cuda_graph": True},
}
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1}


def sides(names=tuple(SIDES)):
    return replace(group(), cells=[small_cell(name=f"{GROUP}_{name}", **CELL | LARGE | SIDES[name]) for name in names])


def test_every_side_is_measured_and_proved():
    asked = sides()
    facts, crossed = cross(asked, Progress(), PhaseTimes())
    for cell, one in zip(asked.cells, crossed, strict=True):
        assert one.failure is None, one.failure
        assert one.result.certificate.verdict is PlacementVerdict.PROVED
        assert len(one.result.windows) == 2 * facts.rounds
        assert one.result.bytes_in_per_batch == cell.input_bytes
        assert one.result.latency_us.p50


def test_every_batch_of_every_side_is_right_by_turns():
    """Each in turn, and once more: a graph reads its own slots, and no side has the outputs of another."""
    crossing = _Crossing(sides(), Progress(), PhaseTimes())

    def measure():
        device = crossing.pipeline.device.torch_device
        for side in [*crossing.sides, *crossing.sides]:
            model, tolerance = build_model(side.cell, device), TOLERANCE[side.cell.dtype]
            pipeline = crossing.pipeline
            pipeline.use(side.part)
            pipeline.run(20, no_beat)
            pipeline.drain()
            for index in range(pipeline.next_batch - len(pipeline.slots), pipeline.next_batch):
                source = pipeline.host_in[index % len(pipeline.host_in)].to(device)
                expected = model.forward_features(source)
                found = pipeline.output_of(index).to(device)
                torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        return None, []

    crossing._measure = measure
    with torch.inference_mode():
        crossing.run()


def test_graphs_and_eager_share_weights_and_slots():
    base, graph, graph3 = crossed_work(sides(("base", "graph", "graph3")).cells, CudaDevice(0), PhaseTimes())
    assert base.slots[0] is graph.slots[0] is graph3.slots[0]
    assert graph.forward is graph3.forward is not base.forward


def test_graph_that_cannot_be_captured_fails_alone(monkeypatch):
    """The call waits for the device, which a capture forbids; the eager side is measured after it."""
    real = works_module.build_subject

    def build(*parts):
        subject = real(*parts)
        call = subject.call

        def waiting(batch):
            output = call(batch)
            output.sum().item()
            return output

        return type(subject)(waiting, subject.inputs, subject.outputs, subject.example, subject.kernels, subject.facts)

    monkeypatch.setattr(works_module, "build_subject", build)
    _, crossed = cross(sides(("graph", "base", "buf1")), Progress(), PhaseTimes())
    failures = {one.cell.rsplit("_", 1)[1]: one.failure and one.failure.status for one in crossed}
    assert failures == {"graph": Outcome.CRASHED, "base": None, "buf1": None}
