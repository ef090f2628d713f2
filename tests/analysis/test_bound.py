import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bench.analysis.bound import (
    CopyState,
    StageTimes,
    bound_terms,
    bound_us,
    cell_bound,
    copy_state,
    flops_per_byte,
    hidden_by_batch_size,
    hidden_copies,
    predict,
    predict_cell,
    predictions,
)
from bench.errors import StudyError
from bench.records.results import PenaltyKind, Term
from bench.records.run import Stages
from bench.study.duration import forward_flops
from tests.analysis.cells import made_cell, made_model

us = st.floats(0.1, 1e4)
maybe_us = st.one_of(st.just(0.0), us)
stages = st.builds(StageTimes, us, us, us, us, maybe_us)


def simulated_us(one: StageTimes, buffers: int, batches: int = 400) -> float:
    """Oracle: time per batch of the pipeline with separate input and output buffers, played event by event."""
    prepared = issued = h_free = k_free = d_free = 0.0
    k_done, d_done = [], []
    for i in range(batches):
        prepared += one.prepare_us
        issued = max(issued + one.issue_us, prepared)
        slot = k_done[i - buffers] if i >= buffers else 0.0
        h_free = max(issued, h_free, slot) + one.h2d_us
        out = d_done[i - buffers] if i >= buffers else 0.0
        k_free = max(h_free, k_free, out) + one.compute_us
        k_done.append(k_free)
        d_free = max(k_free, d_free) + one.d2h_us
        d_done.append(d_free)
    half = batches // 2
    return (d_done[-1] - d_done[half - 1]) / (batches - half)


@given(stages, st.integers(1, 4))
def test_the_bound_is_the_steady_state_of_the_pipeline(one, buffers):
    assert simulated_us(one, buffers) == pytest.approx(bound_us(one, buffers), rel=0.02)


@pytest.mark.parametrize(
    ("buffers", "separate", "expected"), [(1, True, 50), (2, True, 30), (1, False, 70), (2, False, 35)]
)
def test_the_bound_by_hand(buffers, separate, expected):
    assert bound_us(StageTimes(20, 30, 20, 5), buffers, separate) == expected


@given(stages, st.floats(1, 3), st.floats(1, 3), st.floats(1.0, 2.0), st.integers(2, 4))
def test_the_prediction_is_in_its_bracket_and_monotonic(one, rh, rd, slack, buffers):
    t = bound_us(one, buffers) * slack
    found = predict(one, t, buffers, rh, rd)
    assert 0 <= found.low <= found.penalty + 1e-12
    assert found.penalty <= found.high + 1e-9
    assert predict(one, t, buffers, rh * 1.1, rd).penalty >= found.penalty


def test_only_an_exposed_copy_predicts_a_penalty():
    assert predict(StageTimes(10, 100, 10), 100, 2, 1.4, 1.4).penalty == 0
    assert predict(StageTimes(100, 1, 50), 100, 2, 1.25, 1.0).penalty == pytest.approx(0.2)


@pytest.mark.parametrize(("rh", "rd"), [(0.97, 0.99), (1.3, 0.5), (0.5, 0.5)])
def test_the_bracket_holds_if_remote_copies_are_faster(rh, rd):
    found = predict(StageTimes(100, 10, 100), 105, 2, rh, rd)
    assert found.low <= found.penalty <= found.high


def cell(rate=100_000.0, issue_us=None, **solo_us):
    """A batch takes 1e6 us x 10 samples / rate."""
    return made_cell([rate] * 3, more={"solo_us": Stages(**solo_us), "issue_us": issue_us})


def test_efficiency_is_the_bound_over_the_measured_time():
    one = cell(h2d=80.0, compute=20.0, d2h=8.0, issue_us=30.0)
    assert cell_bound(one).efficiency == pytest.approx(80 / 100)
    assert cell_bound(made_cell([1.0])) is None
    assert cell_bound(structs.replace(one, throughput_samples_s=None)) is None


def test_there_is_no_efficiency_if_the_bound_is_above_the_time():
    bound = cell_bound(cell(h2d=20.0, compute=104.0, d2h=8.0, issue_us=30.0))
    assert bound.efficiency == pytest.approx(1.04) and not bound.is_above_measured
    slowed = cell_bound(cell(h2d=20.0, compute=140.0, d2h=8.0, issue_us=30.0))
    assert (slowed.limit, slowed.efficiency, slowed.is_above_measured) == (Term.COMPUTE, None, True)
    assert slowed.bound_us / slowed.batch_us == pytest.approx(1.4)


def test_prediction_from_two_cells():
    here, there = cell(h2d=80.0, compute=20.0, d2h=8.0), cell(h2d=120.0, compute=20.0, d2h=8.0)
    assert predict_cell(here, there).penalty == pytest.approx(1 - 100 / 120)
    assert predict_cell(here, made_cell([1.0])) is None


def test_no_prediction_from_a_stage_that_was_slowed():
    here, there = cell(h2d=80.0, compute=20.0, d2h=8.0), cell(80_000.0, h2d=120.0, compute=20.0, d2h=8.0)
    slowed = cell(h2d=80.0, compute=20.0, d2h=106.0)
    assert predict_cell(here, there) and predict_cell(slowed, there) is None


def test_a_direction_that_is_not_copied_is_not_slowed():
    here, there = cell(h2d=80.0, compute=20.0, d2h=0.0), cell(h2d=120.0, compute=20.0, d2h=0.0)
    assert predict_cell(here, there).penalty == pytest.approx(1 - 100 / 120)


def test_preprocessing_may_be_the_limit():
    bound = cell_bound(cell(50_000.0, h2d=80.0, compute=20.0, d2h=8.0, prepare=190.0))
    assert (bound.limit, bound.bound_us) == (Term.PREPARE, 190.0)
    assert Term.PREPARE not in cell_bound(cell(50_000.0, h2d=80.0, compute=20.0, d2h=8.0)).terms_us


@pytest.mark.parametrize(
    ("stages", "buffers", "state"),
    [
        (StageTimes(40, 50, 10, 30), 2, CopyState.HIDDEN),
        (StageTimes(60, 50, 10, 30), 2, CopyState.EXPOSED),
        (StageTimes(40, 50, 60, 30), 2, CopyState.EXPOSED),
        (StageTimes(40, 50, 10, 30), 1, CopyState.EXPOSED),
        (StageTimes(40, 30, 10, 90), 2, CopyState.CPU_PACED),
        (StageTimes(40, 50, 10, 90), 2, CopyState.CPU_PACED),
        (StageTimes(40, 50, 10, 30, 90), 2, CopyState.CPU_PACED),
        (StageTimes(40, 0, 40, 30), 2, CopyState.EXPOSED),
        (StageTimes(40, 0, 40, 90), 2, CopyState.CPU_PACED),
    ],
)
def test_only_compute_hides_a_copy(stages, buffers, state):
    assert copy_state(bound_terms(stages, buffers)) is state


def over_sizes(stages, sizes):
    return hidden_by_batch_size({size: bound_terms(stages(size), 2) for size in sizes})


def test_the_batch_size_at_which_the_copy_stops_being_hidden():
    found = over_sizes(lambda size: StageTimes(2.0 * size, 60, size, 40), (8, 16, 32, 64))
    assert found.batch_size == pytest.approx(30)
    assert (found.hidden, found.exposed, found.cpu_paced) == ((8, 16), (32, 64), ())


@pytest.mark.parametrize(("h2d", "hidden", "exposed"), [(100.0, (), (8, 16)), (0.1, (8, 16), ())])
def test_there_is_no_batch_size_beyond_those_measured(h2d, hidden, exposed):
    found = over_sizes(lambda size: StageTimes(h2d * size, 50, 1), (8, 16))
    assert (found.batch_size, found.hidden, found.exposed) == (None, hidden, exposed)


def test_issuing_hides_no_copy():
    found = over_sizes(lambda size: StageTimes(2.0 * size, 1.5 * size, size, 60), (8, 16, 32, 64))
    assert (found.batch_size, found.cpu_paced, found.exposed) == (None, (8, 16), (32, 64))
    later = over_sizes(lambda size: StageTimes(size, 2.0 * size, size, 60), (8, 64))
    assert (later.cpu_paced, later.hidden) == ((8,), (64,))
    assert over_sizes(lambda size: StageTimes(1, 2, 1, 60), (8, 16)).cpu_paced == (8, 16)


def test_without_compute_no_copy_is_hidden():
    found = over_sizes(lambda size: StageTimes(size, 0, size, 60), (8, 16))
    assert (found.batch_size, found.computes) == (None, False)


def test_invalid_values_are_refused():
    with pytest.raises(StudyError, match="0 device buffers"):
        bound_us(StageTimes(1, 1, 1), 0)
    with pytest.raises(StudyError, match="ratios"):
        predict(StageTimes(1, 1, 1), 1, 2, 0, 1)
    with pytest.raises(StudyError, match="no batch size"):
        hidden_by_batch_size({})


# Predictions of a study


def test_only_remote_memory_under_a_local_cpu_is_predicted(placed_results):
    kinds = {entry.remote_cell: entry.kind for entry in placed_results.penalties}
    found = placed_results.predictions
    assert {kinds[one.remote_cell] for one in found} == {PenaltyKind.MEMORY} and len(found) == 6


def test_the_bare_copy_is_predicted_as_observed(placed_results):
    (copy,) = [one for one in placed_results.predictions if one.remote_cell.endswith("vit0x0x0_cpu0")]
    # The copies of the synthetic remote node run at 38 of 54 GB/s, and the pipeline at 1 / 1.04 of its bound.
    assert copy.low == pytest.approx(1 - 1.04 * 38 / 54, abs=0.01)
    assert copy.low <= copy.high
    observed = next(entry for entry in placed_results.penalties if entry.remote_cell == copy.remote_cell)
    assert copy.agrees and observed.interval[1] >= copy.low and observed.interval[0] <= copy.high


def test_an_observation_outside_the_bracket_does_not_agree(placed_results):
    moved = [structs.replace(one, penalty=0.6, interval=(0.59, 0.61)) for one in placed_results.penalties]
    assert not any(one.agrees for one in predictions(moved, placed_results.cells, 0.02))


@pytest.mark.parametrize(("miss", "agrees"), [(0.019, True), (0.021, False)])
def test_a_miss_below_the_margin_agrees(placed_results, miss, agrees):
    low = {one.remote_cell: one.low - miss for one in placed_results.predictions}
    moved = [
        structs.replace(entry, penalty=low[entry.remote_cell], interval=None)
        for entry in placed_results.penalties
        if entry.remote_cell in low
    ]
    assert {one.agrees for one in predictions(moved, placed_results.cells, 0.02)} == {agrees}


def test_nothing_is_predicted_without_stages_or_runs(placed_results):
    bare = [structs.replace(one, solo_us=None) for one in placed_results.cells]
    assert predictions(placed_results.penalties, bare, 0.02) == ()
    unmeasured = [structs.replace(entry, penalty=None) for entry in placed_results.penalties]
    assert predictions(unmeasured, placed_results.cells, 0.02) == ()


def test_batch_sizes_of_one_model_are_put_together():
    def sized(size, model, h2d):
        solo_us = Stages(h2d=h2d, compute=60.0, d2h=1.0)
        return made_cell([1.0], model=model, batch_size=size, more={"solo_us": solo_us, "issue_us": 40.0})

    small, large = sized(16, "vit32x2x128", 32.0), sized(64, "vit32x2x128", 128.0)
    other = sized(16, "vit32x4x128", 90.0)
    first, second = hidden_copies([large, small, other, made_cell([1.0], model="vit32x6x128")])
    assert first.cells == (small.name, large.name)
    assert first.batch_size == pytest.approx(16 + 48 * 28 / 96)
    assert (second.cells, second.exposed, second.batch_size) == ((other.name,), (16,), None)


# Arithmetic intensity


@pytest.mark.parametrize(("patch", "depth", "dim", "heads"), [(32, 2, 128, 4), (32, 4, 256, 8), (16, 2, 192, 4)])
def test_flops_agree_with_torchs_count_on_the_real_model(patch, depth, dim, heads):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from bench.workload.models import vision_transformer

    shape = made_model(f"vit{patch}x{depth}x{dim}", heads=heads)
    model = vision_transformer(shape, 224).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.forward_features(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() == pytest.approx(forward_flops(shape, 224), rel=1e-6)


def test_intensity_grows_with_the_model(numa_results):
    found = [flops_per_byte(one) for one in numa_results.cells[:6]]
    assert found == sorted(found) and found[0] == 0


def test_a_cell_that_did_not_run_has_no_intensity(numa_results):
    assert flops_per_byte(structs.replace(numa_results.cells[0], bytes_per_batch=None)) is None
