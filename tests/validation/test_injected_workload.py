"""The injections do what they say and nothing else: counted, not timed."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import bench.workload.run as workload
from bench.workload.cell import parse_cell
from bench.workload.devices import open_device
from bench.workload.phases import Phases
from bench.workload.pipeline import Pipeline, no_beat
from tests.validation.control_plan import BASE_CELL
from tests.validation.injected_workload import Injection, Job, injected, ns_per_count, run_job

SMALL = BASE_CELL | {
    "name": "small", "device": "cpu", "image_size": 32, "batch_size": 2, "num_samples": 8, "warmup_samples": 2,
    "memory_size_mb": 1, "windows": 1, "window_s": 0.002,
    "model": {"name": "vit16x1x32", "patch_size": 16, "depth": 1, "dim": 32, "heads": 2},
}  # fmt: skip
NO_COMPUTE = SMALL | {"model": {"name": "vit0x0x0", "patch_size": 0, "depth": 0, "dim": 0, "heads": 0}}


def built(raw: dict, injection: Injection) -> Pipeline:
    cell = parse_cell(raw)
    with injected(injection, one_thread=True):
        return workload.build_pipeline(cell, workload.open_device(cell), Phases())


def operators(pipeline: Pipeline, batches: int) -> list[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        pipeline.run(batches, no_beat)
    return [event.name for event in profiler.events()]


@pytest.mark.parametrize("raw", [SMALL, NO_COMPUTE], ids=["computes", "no_compute"])
def test_a_longer_copy_moves_more_bytes_and_changes_no_result(raw):
    plain, slowed = (run_job(Job(raw, Injection("copy", 1.0, ratio), traced=True)) for ratio in (1.0, 1.5))
    assert plain["trace"]["conservation"] is None
    batch = 4 * 2 * 3 * 32 * 32
    # The check of bytes notices: an injected copy cannot be mistaken for a sound trace.
    assert f"H2D copies of the trace carry {4 * batch * 3 // 2} bytes" in slowed["trace"]["conservation"]
    assert slowed["output_checksum"] == plain["output_checksum"] > 0
    assert set(plain["solo_us"]) == {"h2d", "compute", "d2h"}


@torch.inference_mode()
def test_longer_copies_stay_inside_the_ring():
    pipeline = built(NO_COMPUTE, Injection("copy", 1.0, 2.0))
    ring = pipeline.rings.inputs
    sizes = {source.numel() for source in pipeline.host_in}
    assert sizes == {2 * ring[0].numel()} and len(pipeline.host_in) == len(ring)
    assert max(source.data_ptr() + source.nbytes for source in pipeline.host_in) == ring.data_ptr() + ring.nbytes
    with pytest.raises(ValueError, match="holds no copy"):
        built(NO_COMPUTE, Injection("copy", 1.0, 2.0 * len(ring)))


@torch.inference_mode()
def test_kernel_work_is_in_the_forward_pass_and_grows_with_the_delay():
    counts = []
    for delay_us in (0.0, 100.0, 100_000.0):
        pipeline = built(SMALL, Injection("kernel", delay_us) if delay_us else Injection())
        counts.append(operators(pipeline, 3).count("aten::sin"))
    assert counts[0] == 0 and counts[1] >= 3 and counts[2] > counts[1] and all(count % 3 == 0 for count in counts)


@torch.inference_mode()
def test_launch_delay_keeps_beats_and_operators():
    plain, delayed = (built(SMALL, injection) for injection in (Injection(), Injection("launch", 50.0)))
    assert sorted(operators(plain, 3)) == sorted(operators(delayed, 3))
    beats = []
    delayed.run(4, lambda: beats.append(delayed.next_batch))
    assert len(beats) == 4 and delayed.next_batch == 7
    assert 0 < ns_per_count() < 1e4


def test_the_workload_is_itself_again_afterwards():
    before = workload.build_model, workload.make_slots, workload.build_pipeline
    with pytest.raises(RuntimeError), injected(Injection("copy")):
        assert workload.make_slots is not before[1]
        raise RuntimeError
    assert (workload.build_model, workload.make_slots, workload.build_pipeline) == before
    assert workload.open_device is open_device
