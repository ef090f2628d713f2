import torch

from bench.workload.devices import CpuDevice
from bench.workload.progress import PhaseTimes
from bench.workload.run import build_pipeline
from bench.workload.solo import batches_queued, bursts_of, issue_us, solo_us

from .cells import NO_COMPUTE, small_cell


def test_burst_fits_in_the_queue():
    assert batches_queued(0, 1e-4) == 16
    assert batches_queued(12 * 14, 1e-4) == 3
    assert batches_queued(100 * 14, 1e-4) == batches_queued(None, 1e-4) == 1


def test_slow_batches_are_run_a_few_times_only():
    assert batches_queued(12 * 14, 2.0) * bursts_of(2.0) == 3
    assert bursts_of(0.001) == 9


def test_each_stage_takes_time_of_its_own():
    with torch.inference_mode():
        pipeline = build_pipeline(small_cell(), CpuDevice(), PhaseTimes())
        for _ in range(50):
            issue = issue_us(pipeline, batch_s=0.001)
            solo = solo_us(pipeline, 0.001, issue)
            # Another process may slow one of them and not the other.
            if issue > solo.compute / 2 and solo.compute > solo.d2h:
                break
    assert min(solo.h2d, solo.compute, solo.d2h) > 0
    assert solo.compute > solo.d2h
    assert issue > solo.compute / 2


def test_no_compute_takes_no_time():
    with torch.inference_mode():
        pipeline = build_pipeline(small_cell(model=NO_COMPUTE), CpuDevice(), PhaseTimes())
        assert solo_us(pipeline, 0.001, 10.0).compute == 0
