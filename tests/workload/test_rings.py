import pytest
import torch

from bench.workload.devices import CpuDevice
from bench.workload.failures import RunFailure
from bench.workload.host_memory import MOST_BATCHES, Rings, RingSizes, fill_ring, make_rings, ring_sizes
from bench.workload.subject import Leaf, Subject, build_subject

from .cells import NO_COMPUTE, small_cell

CPU = torch.device("cpu")

MIB = 1 << 20


def sizes_of(**changes) -> RingSizes:
    cell = small_cell(**changes)
    return ring_sizes(cell, build_subject(cell, CPU))


def rings_of(**changes) -> Rings:
    cell = small_cell(**changes)
    return make_rings(cell, CpuDevice(), build_subject(cell, CPU))


def test_input_ring_fills_the_pool():
    assert sizes_of(memory_size_mb=1).inputs == MIB // (4 * 3 * 32 * 32 * 4) == 21


def test_rings_have_at_least_two_batches_and_all_slots():
    sizes = sizes_of(model=NO_COMPUTE, image_size=512, buffers=4)
    assert sizes.inputs == 2
    assert sizes.outputs == 5


def test_output_ring_is_bounded():
    sizes = sizes_of(model=NO_COMPUTE, image_size=224, batch_size=10, memory_size_mb=512)
    assert sizes.inputs == 89
    assert sizes.outputs * 10 * 3 * 224 * 224 * 4 <= 64 * MIB


def test_ring_of_tiny_batches_is_not_endless():
    tiny = Subject(None, (Leaf((1,), torch.int64),), (Leaf((), torch.float32),))
    sizes = ring_sizes(small_cell(memory_size_mb=512), tiny)
    assert sizes.inputs == sizes.outputs == MOST_BATCHES
    assert ring_sizes(small_cell(memory_size_mb=512, direction="d2h"), tiny).outputs == MOST_BATCHES


def test_content_depends_on_the_seed_and_batches_differ():
    rings = [torch.empty(8, 2, 3, 16, 16) for _ in range(3)]
    for ring, seed in zip(rings, (1, 1, 2), strict=True):
        fill_ring(ring, seed)
    assert torch.equal(rings[0], rings[1])
    assert not torch.equal(rings[0], rings[2])
    assert len({tuple(batch.flatten()[:8].tolist()) for batch in rings[0]}) == 8
    assert rings[0].std() == pytest.approx(1, abs=0.1)


def test_addresses_cover_the_rings():
    rings = rings_of()
    address, nbytes = rings.addresses()["input_ring"]
    assert address == rings.inputs[0].data_ptr()
    assert nbytes == rings.inputs[0].numel() * 4
    assert rings.addresses()["output_ring"][1] == rings.outputs[0].numel() * 4


def test_unwritten_outputs_are_nan():
    assert rings_of().outputs[0].isnan().all()


def test_pool_larger_than_the_host_is_not_allocated():
    with pytest.raises(RunFailure, match="not enough host memory for the pool") as raised:
        rings_of(model=NO_COMPUTE, image_size=512, memory_size_mb=2**20)
    assert raised.value.status == "oom"


def test_one_way_has_one_ring():
    into, back = (sizes_of(direction=direction) for direction in ("h2d", "d2h"))
    assert (into.inputs, into.outputs) == (21, 0)
    # Outputs fill the pool, so that they do not land in cache.
    assert (back.inputs, back.outputs) == (0, MIB // 2560)
    rings = rings_of(direction="d2h")
    assert rings.inputs == ()
    assert set(rings.addresses()) == {"output_ring"}


def test_prepared_and_copied_batches_fit_into_the_ring():
    assert sizes_of(preprocess_queue=30, buffers=3).inputs == 34
