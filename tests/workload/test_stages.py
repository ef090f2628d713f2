"""One direction, and copies sample by sample, on the cpu device; events are tested in test_pipeline.py."""

from types import SimpleNamespace

import pytest
import torch

from bench.records.run import Mode
from bench.workload.devices import CpuDevice
from bench.workload.pipeline import no_beat
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.run import build_pipeline, execute

from .cells import NO_COMPUTE, TINY, small_cell

MODELS = pytest.mark.parametrize("model", [TINY, NO_COMPUTE], ids=lambda model: model["name"])


def built(**changes):
    return build_pipeline(small_cell(**changes), CpuDevice(), PhaseTimes())


@MODELS
@pytest.mark.parametrize("buffers", [1, 2, 3])
def test_sample_by_sample_moves_the_same_batches(model, buffers):
    with torch.inference_mode():
        whole, parts = (built(model=model, buffers=buffers, copy_granularity=kind) for kind in ("batch", "sample"))
        for pipeline in (whole, parts):
            pipeline.run(5, no_beat)
        assert torch.equal(whole.rings.outputs[0][:5], parts.rings.outputs[0][:5])
        assert [len(samples) for samples in parts.host_in] == [4] * 21


@MODELS
@pytest.mark.parametrize("direction", ["h2d", "d2h"])
@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_one_way_computes_what_both_ways_compute(model, direction, granularity):
    """The first batch: it lies in slot 0, copied there or there from the beginning."""
    with torch.inference_mode():
        one, both = (built(model=model, direction=way, copy_granularity=granularity) for way in (direction, "both"))
        for pipeline in (one, both):
            pipeline.run(1, no_beat)
        assert torch.equal(one.output_of(0), both.output_of(0))


def test_only_what_is_asked_for_is_copied(monkeypatch):
    copied = []
    monkeypatch.setattr(
        torch.Tensor, "copy_", lambda self, source, non_blocking=False: copied.append(tuple(self.shape))
    )
    with torch.inference_mode():
        pipelines = {way: built(direction=way) for way in ("both", "h2d", "d2h")}
        counts = {}
        for way, pipeline in pipelines.items():
            copied.clear()
            pipeline.run(3, no_beat)
            counts[way] = copied.copy()
    into, back = (4, 3, 32, 32), (4, 5, 32)
    assert counts == {"both": [into, back] * 3, "h2d": [into] * 3, "d2h": [back] * 3}


@pytest.mark.parametrize(
    ("direction", "reason"), [("h2d", "no copy out, which would end it"), ("d2h", "no copy in, which would begin it")]
)
def test_one_way_run_has_no_latency_but_a_reason(direction, reason):
    result = execute(small_cell(direction=direction), Mode.TIMED, Progress(), PhaseTimes())
    assert result.throughput_samples_s > 0
    latency = result.latency_us
    assert latency.p50 is latency.p90 is latency.p99 is latency.max is None
    assert set(latency.quantiles) == {None}
    assert all(reason in text for text in latency.reasons.values())
    off, on = ("d2h", "h2d") if direction == "h2d" else ("h2d", "d2h")
    assert getattr(result.solo_us, off) == 0 < getattr(result.solo_us, on)
    ring = {"h2d": "input_ring", "d2h": "output_ring"}
    assert set(result.certificate.buffers) == {ring[on]}


def test_slots_hold_batches_where_none_is_copied_in():
    with torch.inference_mode():
        one, both = built(direction="d2h", buffers=3), built(buffers=3)
        for index in range(3):
            assert torch.equal(one.slots[index], both.rings.inputs[0][index])


def test_pipeline_without_rings_of_its_own_is_one_way():
    from bench.workload.pipeline import Pipeline

    rings = SimpleNamespace(inputs=[torch.ones(2, 3)], outputs=[])
    pipeline = Pipeline(CpuDevice(), None, rings, [torch.zeros(3)], None)
    assert (pipeline.copies.into, pipeline.copies.back) == (1, 0)
