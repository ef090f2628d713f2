import shutil

import pytest
import torch

from bench.workload.compilation import compile_advice
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


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs g++")
def test_compiled_gives_the_same_tokens():
    with torch.inference_mode():
        forward, model, slots = forward_of(small_cell(compile_model="default"))
        slots[1].normal_()
        torch.testing.assert_close(forward(1), model.forward_features(slots[1]), rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


def test_a_mode_that_fails_is_named_and_not_replaced(monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("/no/such/compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    torch._dynamo.reset()
    with torch.inference_mode(), pytest.raises(RunFailure, match="mode default failed") as raised:
        forward_of(small_cell(compile_model="default", seed=7))
    assert raised.value.status == "crashed"
    assert "g++" in raised.value.advice


def test_advice_says_what_is_missing():
    assert "gcc" in compile_advice(RuntimeError("Failed to find C compiler. Please specify via CC"))
    assert "compile_model to off" in compile_advice(ValueError("something else"))


def test_a_model_that_returns_something_else_is_refused():
    class Other(torch.nn.Module):
        def forward_features(self, batch):
            return batch[:, :, ::2]

    cell = small_cell()
    with pytest.raises(RunFailure, match=r"returned \(\(4, 3, 16, 32\)"):
        make_forward(cell, CpuDevice(), Other(), make_slots(cell, CpuDevice()))
