from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.workload.devices import CpuDevice
from bench.workload.host_memory import fill_ring
from bench.workload.models import build_model
from bench.workload.pipeline import Pipeline, no_beat
from bench.workload.progress import PhaseTimes
from bench.workload.run import build_pipeline

from .cells import NO_COMPUTE, small_cell
from .lazy_device import LazyDevice

BUFFERS = (1, 2, 3, 4)


def lazy_outputs(device: LazyDevice, buffers: int, batches: int, computes: bool, runs: int = 1) -> list[int]:
    """What the host holds after `runs` drained runs of `batches` batches; batch i carries the number i + 1."""
    total = batches * runs
    rings = SimpleNamespace(
        inputs=[device.memory([index + 1 for index in range(total)])], outputs=[device.memory([0] * total)]
    )
    slots = device.memory([0] * buffers)
    pipeline = Pipeline(device, None, rings, slots, (lambda slot: device.forward(slots[slot])) if computes else None)
    for _ in range(runs):
        pipeline.run(batches, no_beat)
        pipeline.drain()
    return [tensor.block.value for tensor in rings.outputs[0]]


def expected(total: int, computes: bool) -> list[int]:
    return [10 * (index + 1) + 1 if computes else index + 1 for index in range(total)]


@given(st.sampled_from(BUFFERS), st.integers(1, 14), st.integers(1, 3), st.booleans(), st.integers(0, 10**6))
def test_batches_are_right_in_any_order_of_the_device(buffers, batches, runs, computes, seed):
    found = lazy_outputs(LazyDevice(seed), buffers, batches, computes, runs)
    assert found == expected(batches * runs, computes)


@given(st.sampled_from(BUFFERS), st.integers(1, 14), st.booleans(), st.integers(0, 10**6))
def test_resident_inputs_are_right_in_any_order(buffers, batches, computes, seed):
    device = LazyDevice(seed)
    rings = SimpleNamespace(inputs=[], outputs=[device.memory([0] * batches)])
    slots = device.memory([slot + 1 for slot in range(buffers)])
    pipeline = Pipeline(device, None, rings, slots, (lambda slot: device.forward(slots[slot])) if computes else None)
    pipeline.run(batches, no_beat)
    pipeline.drain()
    by_slot = expected(buffers, computes)
    assert [tensor.block.value for tensor in rings.outputs[0]] == [by_slot[i % buffers] for i in range(batches)]


@given(st.sampled_from(BUFFERS), st.integers(1, 14), st.booleans(), st.integers(0, 10**6))
def test_resident_outputs_are_right_in_any_order(buffers, batches, computes, seed):
    device = LazyDevice(seed)
    rings = SimpleNamespace(inputs=[device.memory([index + 1 for index in range(batches)])], outputs=[])
    slots = device.memory([0] * buffers)
    pipeline = Pipeline(device, None, rings, slots, (lambda slot: device.forward(slots[slot])) if computes else None)
    pipeline.run(batches, no_beat)
    pipeline.drain()
    last = range(max(0, batches - buffers), batches)
    assert [pipeline.work.outputs[i % buffers].block.value for i in last] == [
        expected(batches, computes)[i] for i in last
    ]


@pytest.mark.parametrize("buffers", BUFFERS)
@pytest.mark.parametrize(("event", "computes"), [(0, True), (1, True), (2, True), (0, False), (2, False)])
def test_each_event_is_needed(buffers, event, computes):
    """Of (arrived, computed, returned), one event per slot; without its waits some order goes wrong."""
    deaf = range(event * buffers, (event + 1) * buffers)
    outputs = [lazy_outputs(LazyDevice(seed, deaf), buffers, 12, computes) for seed in range(40)]
    assert any(found != expected(12, computes) for found in outputs)


@pytest.mark.parametrize("buffers", BUFFERS)
def test_tokens_equal_those_of_a_plain_forward_pass(buffers):
    cell = small_cell(buffers=buffers)
    with torch.inference_mode():
        pipeline = build_pipeline(cell, CpuDevice(), PhaseTimes())
        pipeline.run(7, no_beat)
        pipeline.drain()
        model = build_model(cell, torch.device("cpu"))
        for index in range(7):
            plain = model.forward_features(pipeline.rings.inputs[0][index])
            torch.testing.assert_close(pipeline.output_of(index), plain, rtol=0, atol=1e-6)
            assert pipeline.output_of(index).shape == (4, 5, 32)


@pytest.mark.parametrize("buffers", BUFFERS)
def test_without_compute_the_input_comes_back(buffers):
    cell = small_cell(model=NO_COMPUTE, buffers=buffers)
    with torch.inference_mode():
        pipeline = build_pipeline(cell, CpuDevice(), PhaseTimes())
        assert pipeline.layout == "held"
        pipeline.run(5, no_beat)
        for index in range(5):
            assert torch.equal(pipeline.output_of(index), pipeline.rings.inputs[0][index])


def test_batches_continue_where_the_last_run_ended():
    ring = torch.empty(6, 2, 3)
    fill_ring(ring, seed=1)
    returned = torch.zeros(6, 2, 3)
    rings = SimpleNamespace(inputs=[ring], outputs=[returned])
    pipeline = Pipeline(CpuDevice(), None, rings, [torch.zeros(2, 3)], None)
    pipeline.run(2, no_beat)
    assert torch.equal(returned[:2], ring[:2])
    assert not returned[2:].any()
    pipeline.run(4, no_beat)
    assert torch.equal(returned, ring)


def test_beats_once_per_batch():
    rings = SimpleNamespace(inputs=[torch.zeros(2, 1)], outputs=[torch.zeros(2, 1)])
    beats: list[int] = []
    Pipeline(CpuDevice(), None, rings, [torch.zeros(1)], None).run(5, lambda: beats.append(1))
    assert len(beats) == 5
