import subprocess
import sys

import pytest
import torch

from bench.workload.models import build_model, set_precision

from .cells import NO_COMPUTE, small_cell

CPU = torch.device("cpu")


def weights(**changes) -> dict[str, torch.Tensor]:
    return build_model(small_cell(**changes), CPU).state_dict()


def test_weights_depend_on_the_seed_only():
    first, again, other = weights(seed=3), weights(seed=3), weights(seed=4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


def test_every_weight_was_set():
    for name, weight in weights().items():
        assert torch.isfinite(weight).all(), name
        if weight.ndim > 1 and weight.numel() > 100:
            assert weight.std() == pytest.approx(0.02, rel=0.2), name
        if "norm" in name and name.endswith("weight"):
            assert (weight == 1).all(), name


def test_encoder_has_the_asked_shape():
    model = build_model(small_cell(), CPU)
    assert len(model.blocks) == 1
    assert model.blocks[0].mlp.fc1.out_features == 4 * 32
    assert not model.training
    with torch.inference_mode():
        assert model.forward_features(torch.zeros(2, 3, 32, 32)).shape == (2, 5, 32)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_dtype_is_that_of_the_weights(name, dtype):
    assert {weight.dtype for weight in weights(dtype=name).values()} == {dtype}


def test_no_compute_has_no_model():
    assert build_model(small_cell(model=NO_COMPUTE), CPU) is None


def test_tf32_only_where_asked():
    try:
        set_precision("tf32")
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        set_precision("fp32")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_cell_without_compute_does_not_import_timm():
    code = (
        "import sys; from bench.workload.__main__ import import_torch; import_torch(False);"
        "print('timm' in sys.modules, 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "True"]


def test_unfused_attention_gives_the_same_output(monkeypatch):
    calls = []
    fused_kernel = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(1)
        return fused_kernel(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fused, unfused = (build_model(small_cell(attention=kind), CPU) for kind in ("fused", "unfused"))
    with torch.inference_mode():
        expected = fused.forward_features(images)
        assert len(calls) == len(fused.blocks)
        torch.testing.assert_close(unfused.forward_features(images), expected)
        assert len(calls) == len(fused.blocks)
