from dataclasses import replace

import pytest
import torch

from bench.workload.devices import CpuDevice
from bench.workload.execution import make_call, make_forward, make_slots
from bench.workload.failures import RunFailure
from bench.workload.subject import build_subject

from .cells import NO_COMPUTE, small_cell

CPU = torch.device("cpu")


def forward_of(cell):
    device = CpuDevice()
    subject = build_subject(cell, device.torch_device)
    slots = make_slots(cell, device, subject)
    return make_forward(cell, device, subject, slots, make_call(cell, device, subject, slots)), subject, slots


def test_one_slot_per_buffer():
    slots = make_slots(small_cell(buffers=3), CpuDevice(), build_subject(small_cell(), CPU))
    assert [tuple(slot.shape) for slot in slots] == [(4, 3, 32, 32)] * 3
    assert len({slot.data_ptr() for slot in slots}) == 3


def test_no_model_has_no_forward_pass():
    assert forward_of(small_cell(model=NO_COMPUTE))[0] is None


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_eager_is_the_model_on_the_slot(dtype):
    with torch.inference_mode():
        forward, subject, slots = forward_of(small_cell(dtype=dtype))
        slots[1].normal_()
        assert torch.equal(forward(1), subject.call(slots[1]))
        assert not torch.equal(forward(1), forward(0))


def test_model_with_an_unexpected_output_is_refused():
    cell = small_cell()
    subject = replace(build_subject(cell, CPU), call=lambda batch: batch[:, :, ::2])
    with pytest.raises(RunFailure, match=r"returned \[\(\(4, 3, 16, 32\)"):
        make_forward(cell, CpuDevice(), subject, make_slots(cell, CpuDevice(), subject), subject.call)
