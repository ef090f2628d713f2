"""Sides that compute differently, on the cpu device: what they share, what each measures, and which of them fail."""

import pytest
import torch
from msgspec.structs import replace

import bench.workload.crossed_work as works_module
import bench.workload.crossing as crossing_module
from bench.records.run import Outcome, PlacementVerdict
from bench.workload.crossed_work import crossed_work
from bench.workload.crossing import _Crossing, cross
from bench.workload.devices import CpuDevice
from bench.workload.failures import RunFailure
from bench.workload.measure import throughput_samples_s
from bench.workload.pipeline import no_beat
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.subject import leaves_of

from .cells import small_cell
from .test_crossing import CELL, GROUP, _back_where_it_was, group

__all__ = ["_back_where_it_was"]


@pytest.fixture(autouse=True, scope="module")
def _short():
    """The noise of a loaded machine is no reason to measure longer."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.workload.crossing.MOST_EXTENSIONS", 1)
        patched.setattr("bench.workload.crossing.LATENCY_BATCHES", 40)
        patched.setattr("bench.workload.crossing.FIRST_WARM_S", 0.02)
        patched.setattr("bench.workload.crossing.WARM_S", 0.02)
        yield


def cells_of(sides):
    return [small_cell(name=f"{GROUP}_{name}", **CELL, **changes) for name, changes in sides.items()]


def works(*changes):
    cells = [small_cell(name=f"{GROUP}_{at}", **CELL, **one) for at, one in enumerate(changes)]
    return crossed_work(cells, CpuDevice(), PhaseTimes())


def test_fewer_buffers_are_the_first_of_more():
    two, three, one = works({"buffers": 2}, {"buffers": 3}, {"buffers": 1})
    assert [len(each.slots) for each in (two, three, one)] == [2, 3, 1] == [len(e.outputs) for e in (two, three, one)]
    assert two.slots[1] is three.slots[1] and one.slots[0] is two.slots[0]
    assert two.forward is three.forward and two.outputs is not three.outputs


def test_device_that_cannot_go_on_is_no_failure_of_a_side():
    class Broken(CpuDevice):
        def synchronize(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        crossed_work([small_cell(name=GROUP, **CELL)], Broken(), PhaseTimes())


def test_placements_of_equal_settings_have_one_work():
    first, second = works({"memory_size_mb": 1}, {"memory_size_mb": 2})
    assert first is second


def test_types_have_weights_and_slots_of_their_own():
    single, half, again = works({}, {"dtype": "bf16"}, {"dtype": "bf16", "buffers": 3})
    assert half.slots[0].dtype is torch.bfloat16 and half.slots[0] is again.slots[0]
    assert half.forward is again.forward and half.forward is not single.forward
    assert half.subject is again.subject and half.subject.call is not single.subject.call


def test_batch_sizes_share_weights_and_nothing_else():
    four, one = works({}, {"batch_size": 1})
    assert one.subject.call is four.subject.call and one.subject.inputs != four.subject.inputs
    assert one.slots[0].shape[0] == 1 and one.forward is not four.forward


def test_slots_are_filled_where_any_side_copies_nothing_in():
    both, back = works({}, {"direction": "d2h"})
    assert both is back and all(slot.any() for slot in both.slots)
    assert not any(slot.any() for slot in works({}, {"direction": "h2d"})[0].slots)


SIDES = {
    "base": {},
    "buf3": {"buffers": 3},
    "buf1": {"buffers": 1},
    "bf16": {"dtype": "bf16", "buffers": 3},
    "bs1": {"batch_size": 1},
}


@pytest.fixture(scope="module")
def sides():
    cells = cells_of(SIDES)
    facts, crossed = cross(replace(group(), cells=cells), Progress(), PhaseTimes())
    assert all(one.failure is None for one in crossed), crossed
    return cells, facts, [one.result for one in crossed]


def test_every_side_has_its_windows_and_a_proof(sides):
    cells, facts, results = sides
    assert all(len(one.windows) == 2 * facts.rounds for one in results)
    for size in {cell.batch_size for cell in cells}:
        own = [one for cell, one in zip(cells, results, strict=True) if cell.batch_size == size]
        assert len({window.batches for one in own for window in one.windows}) == 1
    assert {one.certificate.verdict for one in results} == {PlacementVerdict.PROVED}
    assert all(share == 1.0 for one in results for share in one.certificate.share_on_node.values())


def test_record_of_every_side_counts_its_own_samples_and_bytes(sides):
    cells, _, results = sides
    for cell, one in zip(cells, results, strict=True):
        assert one.bytes_in_per_batch == cell.input_bytes
        assert one.bytes_out_per_batch == torch.Size(cell.output_shape).numel() * cell.bytes_per_element
        assert one.throughput_samples_s == throughput_samples_s(one.windows, cell.batch_size)
        assert one.input_ring_batches == (cell.memory_size_mb << 20) // cell.input_bytes
        assert len(one.certificate.buffers) == 2 and one.latency_us.p50


def test_every_side_copies_out_what_its_own_settings_give():
    """Each in turn, and once more: nothing of another side is left in it."""
    crossing = _Crossing(replace(group(), cells=cells_of(SIDES)), Progress(), PhaseTimes())
    found = {}

    def measure():
        for _ in range(2):
            for side in crossing.sides:
                crossing.pipeline.use(side.part)
                crossing.pipeline.run(5, no_beat)
                crossing.pipeline.drain()
                last = crossing.pipeline.next_batch - 1
                ring = side.rings.inputs[0]
                expected = side.work.subject.call(ring[last % len(ring)])
                found[side.cell.name] = torch.equal(leaves_of(crossing.pipeline.output_of(last))[0], expected)
        return None, []

    crossing._measure = measure
    with torch.inference_mode():
        crossing.run()
    assert found == {f"{GROUP}_{name}": True for name in SIDES}


def test_call_is_compiled_once_for_captured_and_other_sides(monkeypatch):
    """A stand-in for the capture, which needs a GPU."""
    compiled, calls = [], []
    monkeypatch.setattr(works_module, "make_call", lambda cell, *_: compiled.append(cell.compile_model) or object())
    monkeypatch.setattr(works_module, "make_forward", lambda *parts: calls.append(parts[-1]))
    sides = {
        "base": {}, "compiled": {"compile_model": "default"},
        "captured": {"compile_model": "default", "cuda_graph": True},
    }  # fmt: skip
    crossed_work(cells_of(sides), CpuDevice(), PhaseTimes())
    assert compiled == ["off", "default"]
    assert calls[0] is not calls[1] is calls[2]


def test_latencies_count_from_where_all_buffers_are_in_use(monkeypatch):
    """Of slow models, whose lead-in is three batches."""
    monkeypatch.setattr("bench.workload.crossing.LATENCY_S", 0.0)
    cells = cells_of({"base": {}, "buf6": {"buffers": 6}})
    _, (base, six) = cross(replace(group(lead_s=1e-9), cells=cells), Progress(), PhaseTimes())
    assert {window.lead_batches for window in base.result.windows} == {2, 3}
    assert {window.lead_batches for window in six.result.windows} == {6}
    for side in (base, six):
        assert side.result.latency_us.count == sum(window.batches for window in side.result.windows)


def failing(monkeypatch, refused, error):
    real = works_module.make_call

    def make(cell, *parts):
        if refused(cell):
            raise error
        return real(cell, *parts)

    monkeypatch.setattr(works_module, "make_call", make)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RunFailure(Outcome.CRASHED, "torch.compile failed", "set compile_model to off"), Outcome.CRASHED),
        (RuntimeError("CUDA out of memory"), Outcome.OOM),
    ],
)
def test_side_that_cannot_compute_fails_alone(monkeypatch, error, outcome):
    failing(monkeypatch, lambda cell: cell.compile_model != "off", error)
    cells = cells_of({"base": {}, "twin": {}, "compiled": {"compile_model": "default"}})
    facts, crossed = cross(replace(group(), cells=cells), Progress(), PhaseTimes())
    assert [one.failure and one.failure.status for one in crossed] == [None, None, outcome]
    # The other two were measured as two: each is in both halves of every round.
    assert {window.turn for one in crossed[:2] for window in one.result.windows} == {0, 1, 2, 3}
    assert len(facts.error) == 1


def test_side_that_fails_in_its_warm_up_fails_alone(monkeypatch):
    """Of an eager batch memory is allocated on the pipeline's own stream, first in the warm-up."""
    real = crossing_module.warm_up

    def full(pipeline, *parts):
        if len(pipeline.slots) == 3:
            pipeline.run(2, no_beat)
            raise RuntimeError("CUDA out of memory")
        return real(pipeline, *parts)

    monkeypatch.setattr(crossing_module, "warm_up", full)
    cells = cells_of({"base": {}, "buf3": {"buffers": 3}, "bs1": {"batch_size": 1}})
    facts, crossed = cross(replace(group(), cells=cells), Progress(), PhaseTimes())
    assert [one.failure and one.failure.status for one in crossed] == [None, Outcome.OOM, None]
    assert all(len(one.result.windows) == 2 * facts.rounds for one in crossed if one.result)


def test_gpu_that_failed_ends_the_process(monkeypatch):
    failing(monkeypatch, lambda cell: True, RuntimeError("uncorrectable ECC error"))
    with pytest.raises(RuntimeError, match="ECC"):
        cross(group(), Progress(), PhaseTimes())


def test_compilation_inside_the_windows_fails_what_compiles(monkeypatch):
    cells = cells_of({"base": {}, "compiled": {"compile_model": "default"}})
    crossing = _Crossing(replace(group(), cells=cells), Progress(), PhaseTimes())
    crossing._refuse_compiled(0)
    assert not any(side.failure for side in crossing.sides)
    crossing._refuse_compiled(1)
    assert {side.cell.compile_model: bool(side.failure) for side in crossing.sides} == {"off": False, "default": True}


@pytest.mark.slow
def test_compiled_sides_are_measured_beside_eager_ones():
    torch._dynamo.reset()
    sides = {
        "base": {}, "compiled": {"compile_model": "default"}, "one": {"compile_model": "default", "batch_size": 1},
    }  # fmt: skip
    cells = cells_of(sides)
    _, crossed = cross(replace(group(), cells=cells), Progress(), PhaseTimes())
    assert all(one.failure is None for one in crossed), crossed
    compiled = {one.cell.rsplit("_", 1)[1]: one.result.compile for one in crossed}
    assert compiled["base"] is None
    assert compiled["compiled"].compile_s > 0 < compiled["one"].compile_s
    assert {one.result.certificate.verdict for one in crossed} == {PlacementVerdict.PROVED}
    phases = crossed[0].result.phases_s
    assert phases["compile"] == pytest.approx(compiled["compiled"].compile_s + compiled["one"].compile_s)
