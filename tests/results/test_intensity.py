import pytest
from bench.analysis.predictions import flops_per_byte, forward_flops


@pytest.mark.parametrize(("patch", "depth", "dim", "heads"), [(32, 2, 128, 4), (32, 4, 256, 8), (16, 2, 192, 4)])
def test_against_the_count_of_torch_on_the_real_model(patch, depth, dim, heads):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from bench.workload.cell import ModelShape
    from bench.workload.models import vision_transformer

    model = vision_transformer(ModelShape("vit", patch, depth, dim, heads), 224).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.forward_features(torch.zeros(1, 3, 224, 224))
    expected = forward_flops({"patch_size": patch, "depth": depth, "dim": dim}, 224)
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-6)


def test_a_cell_without_compute_does_nothing_for_its_bytes(numa_results):
    assert flops_per_byte(numa_results["cells"][0]) == 0


def test_intensity_grows_with_the_model(numa_results):
    found = [flops_per_byte(cell) for cell in numa_results["cells"][:6]]
    assert found == sorted(found)


def test_a_cell_that_did_not_run_has_none(numa_results):
    assert flops_per_byte(numa_results["cells"][0] | {"bytes_per_batch": None}) is None
