import pytest
import torch

from bench.workload.devices import CpuDevice
from bench.workload.execution import make_forward, make_slots
from bench.workload.failures import RunFailure
from bench.workload.models import build_model

from .cells import NO_COMPUTE, small_cell


def forward_of(cell):
    device = CpuDevice()
    slots = make_slots(cell, device)
    model = build_model(cell, device.torch_device)
    return make_forward(cell, device, model, slots), model, slots


def test_one_slot_per_buffer():
    slots = make_slots(small_cell(buffers=3), CpuDevice())
    assert [tuple(slot.shape) for slot in slots] == [(4, 3, 32, 32)] * 3
    assert len({slot.data_ptr() for slot in slots}) == 3


def test_no_model_has_no_forward_pass():
    assert forward_of(small_cell(model=NO_COMPUTE))[0] is None


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_eager_is_the_model_on_the_slot(dtype):
    with torch.inference_mode():
        forward, model, slots = forward_of(small_cell(dtype=dtype))
        slots[1].normal_()
        assert torch.equal(forward(1), model.forward_features(slots[1]))
        assert not torch.equal(forward(1), forward(0))


def test_model_with_an_unexpected_output_is_refused():
    class Other(torch.nn.Module):
        def forward_features(self, batch):
            return batch[:, :, ::2]

    cell = small_cell()
    with pytest.raises(RunFailure, match=r"returned \(\(4, 3, 16, 32\)"):
        make_forward(cell, CpuDevice(), Other(), make_slots(cell, CpuDevice()))
