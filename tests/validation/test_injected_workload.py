"""The injections do what they are named for and nothing else: counted, not timed."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import bench.workload.run as workload
from bench.records.base import convert
from bench.records.study import Cell
from bench.workload.devices import open_device
from bench.workload.measure import first_batch_again
from bench.workload.pipeline import Pipeline, no_beat
from tests.validation.control_plan import BASE_CELL, Group, Injection, no_delay, positive, slower_copy
from tests.validation.injected_workload import Parts, build_side, injected, ns_per_count, waited_us
from tests.validation.side_by_side import traced

SMALL = BASE_CELL | {
    "name": "small", "device": "cpu", "image_size": 32, "batch_size": 2, "num_samples": 8, "warmup_samples": 2,
    "memory_size_mb": 1, "windows": 1, "window_s": 0.002,
    "model": {"name": "vit16x1x32", "patch_size": 16, "depth": 1, "dim": 32, "heads": 2},
}  # fmt: skip
NO_COMPUTE = SMALL | {"model": {"name": "vit0x0x0", "patch_size": 0, "depth": 0, "dim": 0, "heads": 0}}


def built(raw: dict, injection: Injection, base: Pipeline | None = None) -> Pipeline:
    cell = convert(raw, Cell)
    return build_side(cell, workload.open_device(cell), injection, base)


def operators(pipeline: Pipeline, batches: int) -> list[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        pipeline.run(batches, no_beat)
    return [event.name for event in profiler.events()]


@pytest.mark.parametrize("raw", [SMALL, NO_COMPUTE], ids=["computes", "no_compute"])
@torch.inference_mode()
def test_a_longer_copy_moves_more_bytes_and_changes_no_result(raw):
    plain, slowed = (built(raw, Injection("copy", 1.0, ratio)) for ratio in (1.0, 1.5))
    assert traced(plain, convert(raw, Cell))["conservation"] is None
    batch = 4 * 2 * 3 * 32 * 32
    # The check of bytes notices: an injected copy cannot be mistaken for a sound trace.
    conservation = traced(slowed, convert(raw, Cell))["conservation"]
    assert f"H2D copies of the trace carry {4 * batch * 3 // 2} bytes" in conservation
    assert first_batch_again(slowed) == first_batch_again(plain) > 0


@torch.inference_mode()
@pytest.mark.parametrize("injection", [Injection("copy", 1.0, 1.5), Injection("kernel", 100.0)], ids=str)
def test_two_sides_share_all_that_lies_in_memory(injection):
    base = built(SMALL, Injection())
    other = built(SMALL, injection, base)
    assert other.rings is base.rings and other.h2d_stream is base.h2d_stream and other.parts is base.parts
    assert [slot.data_ptr() for slot in other.slots] == [slot.data_ptr() for slot in base.slots]
    # Whatever either ran, the result of the other is the same, and the base computes no more than before.
    base.run(3, no_beat)
    assert first_batch_again(other) == first_batch_again(base) > 0
    assert "aten::sin" not in operators(base, 1)
    assert ("aten::sin" in operators(other, 1)) == (injection.stage == "kernel")


@torch.inference_mode()
def test_a_copy_that_no_slot_holds_is_refused():
    base = built(SMALL, Injection())
    with pytest.raises(ValueError, match="hold no copy"):
        built(SMALL, Injection("copy", 1.0, 3.0), base)


@torch.inference_mode()
def test_the_wait_of_a_launch_delay_is_measured_where_it_is_made():
    injections = [Injection("launch", us, counting=True) for us in (0.0, 5.0, 500.0)]
    sham, short, long = (waited_us(built(NO_COMPUTE, each)) for each in injections)
    # Not a matter of speed: a hundred times as many counts cannot take less.
    assert sham < long and short < long


@torch.inference_mode()
def test_every_side_of_a_counting_group_has_the_wrapper():
    group = Group("g", SMALL["model"], "", (no_delay(), *positive("launch", 5.0), *slower_copy(2.0)), counting=True)
    injections = [group.base, *(each.injection(100.0, 10.0, group.counting) for each in group.conditions)]
    sides = [built(SMALL, injection) for injection in injections]
    assert all(hasattr(side, "slow_beat") for side in sides)
    assert not hasattr(built(SMALL, Injection("copy", 1.0, 2.0)), "slow_beat")


@torch.inference_mode()
def test_longer_copies_stay_inside_the_ring():
    pipeline = built(NO_COMPUTE, Injection("copy", 1.0, 2.0))
    ring = pipeline.rings.inputs[0]
    sizes = {source.numel() for source in pipeline.host_in}
    assert sizes == {2 * ring[0].numel()} and len(pipeline.host_in) == len(ring)
    assert max(source.data_ptr() + source.nbytes for source in pipeline.host_in) == ring.data_ptr() + ring.nbytes
    with pytest.raises(ValueError, match="holds no copy"):
        built(NO_COMPUTE, Injection("copy", 1.0, 2.0 * len(ring)))


@torch.inference_mode()
def test_kernel_work_is_in_the_forward_pass_and_grows():
    counts = []
    for delay_us in (0.0, 100.0, 100_000.0):
        pipeline = built(SMALL, Injection("kernel", delay_us) if delay_us else Injection())
        counts.append(operators(pipeline, 3).count("aten::sin"))
    assert counts[0] == 0 and counts[1] >= 3 and counts[2] > counts[1] and all(count % 3 == 0 for count in counts)


@torch.inference_mode()
def test_launch_delay_keeps_beats_and_operators():
    plain, delayed = (built(SMALL, injection) for injection in (Injection(), Injection("launch", 50.0, counting=True)))
    assert sorted(operators(plain, 3)) == sorted(operators(delayed, 3))
    beats = []
    delayed.run(4, lambda: beats.append(delayed.next_batch))
    assert len(beats) == 4 and delayed.next_batch == 7
    assert 0 < ns_per_count() < 1e4


def test_the_workload_is_itself_again_afterwards():
    before = workload.build_subject, workload.make_slots, workload.make_rings, workload.build_pipeline
    with pytest.raises(RuntimeError), injected(Injection("copy"), Parts()):
        assert workload.make_slots is not before[1]
        raise RuntimeError
    assert (workload.build_subject, workload.make_slots, workload.make_rings, workload.build_pipeline) == before
    assert workload.open_device is open_device
