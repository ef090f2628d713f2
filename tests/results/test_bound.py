import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.bound import (
    Stages,
    bound_terms,
    bound_us,
    cell_bound,
    copy_state,
    copy_stops_being_hidden,
    efficiency_solo,
    predict,
    predict_cell,
)
from bench.errors import StudyError
from tests.analysis.cells import made_cell

us = st.floats(0.1, 1e4)
maybe_us = st.one_of(st.just(0.0), us)
stages = st.builds(Stages, us, us, us, us, maybe_us)


def simulated_us(one: Stages, buffers: int, batches: int = 400) -> float:
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
def test_the_bound_is_the_steady_state_of_the_pipeline_played_out(one, buffers):
    assert simulated_us(one, buffers) == pytest.approx(bound_us(one, buffers), rel=0.02)


@pytest.mark.parametrize(
    ("buffers", "separate", "expected"), [(1, True, 50), (2, True, 30), (1, False, 70), (2, False, 35)]
)
def test_the_bound_by_hand(buffers, separate, expected):
    assert bound_us(Stages(20, 30, 20, 5), buffers, separate) == expected


@given(stages, st.floats(1, 3), st.floats(1, 3), st.floats(1.0, 2.0), st.integers(2, 4))
def test_the_prediction_lies_in_its_bracket_and_slower_copies_cost_more(one, rh, rd, slack, buffers):
    t = bound_us(one, buffers) * slack
    said = predict(one, t, buffers, rh, rd)
    assert 0 <= said.low <= said.penalty + 1e-12
    assert said.penalty <= said.high + 1e-9
    assert predict(one, t, buffers, rh * 1.1, rd).penalty >= said.penalty


def test_a_hidden_copy_predicts_no_penalty_and_a_bare_one_all_of_it():
    assert predict(Stages(10, 100, 10), 100, 2, 1.4, 1.4).penalty == 0
    assert predict(Stages(100, 1, 50), 100, 2, 1.25, 1.0).penalty == pytest.approx(0.2)


@pytest.mark.parametrize(("rh", "rd"), [(0.97, 0.99), (1.3, 0.5), (0.5, 0.5)])
def test_where_copies_are_faster_elsewhere_the_bracket_still_holds_the_prediction(rh, rd):
    said = predict(Stages(100, 10, 100), 105, 2, rh, rd)
    assert said.low <= said.penalty <= said.high


def test_efficiency_of_a_cell():
    cell = made_cell([100_000.0] * 3) | {"solo_us": {"h2d": 80, "compute": 20, "d2h": 8}, "issue_us": 30}
    assert efficiency_solo(cell) == pytest.approx(80 / 100)
    assert efficiency_solo(made_cell([1.0])) is None
    assert efficiency_solo(cell | {"throughput_samples_s": None}) is None


def test_no_pipeline_beats_its_bound_so_such_an_efficiency_is_none_and_says_why():
    cell = made_cell([100_000.0] * 3) | {"solo_us": {"h2d": 20, "compute": 104, "d2h": 8}, "issue_us": 30}
    assert cell_bound(cell)["efficiency"] == pytest.approx(1.04) and cell_bound(cell)["reason"] == ""
    slowed = cell_bound(cell | {"solo_us": {"h2d": 20, "compute": 140, "d2h": 8}})
    assert (slowed["limit"], slowed["efficiency"]) == ("compute", None)
    assert slowed["reason"].startswith("alone, compute took 1.40 times as long as a batch")


def test_prediction_from_two_cells():
    here = made_cell([100_000.0]) | {"solo_us": {"h2d": 80.0, "compute": 20, "d2h": 8.0}}
    there = here | {"solo_us": {"h2d": 120.0, "compute": 20, "d2h": 8.0}}
    assert predict_cell(here, there).penalty == pytest.approx(1 - 100 / 120)
    assert predict_cell(here, made_cell([1.0])) is None


def test_nothing_is_predicted_from_a_stage_that_was_slowed_while_it_was_measured_alone():
    here = made_cell([100_000.0]) | {"solo_us": {"h2d": 80.0, "compute": 20, "d2h": 8.0}}
    slowed = here | {"solo_us": {"h2d": 80.0, "compute": 20, "d2h": 106.0}}
    there = made_cell([80_000.0]) | {"solo_us": {"h2d": 120.0, "compute": 20, "d2h": 8.0}}
    assert predict_cell(here, there) and predict_cell(slowed, there) is None


def test_one_way_is_slowed_that_way_alone():
    here = made_cell([100_000.0]) | {"solo_us": {"h2d": 80.0, "compute": 20, "d2h": 0.0}}
    there = here | {"solo_us": {"h2d": 120.0, "compute": 20, "d2h": 0.0}}
    assert predict_cell(here, there).penalty == pytest.approx(1 - 100 / 120)


def test_preparing_may_set_the_pace():
    bound = cell_bound(made_cell([50_000.0]) | {"solo_us": {"h2d": 80.0, "compute": 20, "d2h": 8, "prepare": 190.0}})
    assert (bound["limit"], bound["bound_us"]) == ("prepare", 190.0)
    plain = cell_bound(made_cell([50_000.0]) | {"solo_us": {"h2d": 80.0, "compute": 20, "d2h": 8}})
    assert "prepare" not in plain["terms_us"]


@pytest.mark.parametrize(
    ("stages", "buffers", "state"),
    [
        (Stages(40, 50, 10, 30), 2, "hidden"),
        (Stages(60, 50, 10, 30), 2, "exposed"),
        (Stages(40, 50, 60, 30), 2, "exposed"),
        (Stages(40, 50, 10, 30), 1, "exposed"),
        (Stages(40, 30, 10, 90), 2, "CPU sets the pace"),
        (Stages(40, 50, 10, 90), 2, "CPU sets the pace"),
        (Stages(40, 50, 10, 30, 90), 2, "CPU sets the pace"),
        (Stages(40, 0, 40, 30), 2, "exposed"),
        (Stages(40, 0, 40, 90), 2, "CPU sets the pace"),
    ],
)
def test_only_compute_hides_a_copy(stages, buffers, state):
    assert copy_state(bound_terms(stages, buffers)) == state


def over_sizes(stages, sizes):
    return copy_stops_being_hidden({size: bound_terms(stages(size), 2) for size in sizes})


def test_the_batch_size_at_which_the_copy_stops_being_hidden():
    said = over_sizes(lambda size: Stages(2.0 * size, 60, size, 40), (8, 16, 32, 64))
    assert said.batch_size == pytest.approx(30)
    assert said.text == "the copy stops being hidden at about batch 30"


@pytest.mark.parametrize(("h2d", "text"), [(100.0, "not hidden at batch 8 already"), (0.1, "batches 8, 16")])
def test_no_batch_size_is_made_up_beyond_those_measured(h2d, text):
    said = over_sizes(lambda size: Stages(h2d * size, 50, 1), (8, 16))
    assert said.batch_size is None and text in said.text


def test_issuing_hides_no_copy_and_is_named_where_it_sets_the_pace():
    said = over_sizes(lambda size: Stages(2.0 * size, 1.5 * size, size, 60), (8, 16, 32, 64))
    assert said.batch_size is None
    assert said.text == "the CPU sets the pace at batches 8, 16; the copy is not hidden at batch 32 already"
    later = over_sizes(lambda size: Stages(size, 2.0 * size, size, 60), (8, 64))
    assert later.text == "the CPU sets the pace at batch 8; the copy is hidden at batch 64"
    assert over_sizes(lambda size: Stages(1, 2, 1, 60), (8, 16)).text == "the CPU sets the pace at batches 8, 16"


def test_without_compute_nothing_hides_a_copy():
    said = over_sizes(lambda size: Stages(size, 0, size, 60), (8, 16))
    assert (said.batch_size, said.text) == (None, "no compute that could hide the copy")


def test_nonsense_is_refused():
    with pytest.raises(StudyError, match="0 device buffers"):
        bound_us(Stages(1, 1, 1), 0)
    with pytest.raises(StudyError, match="ratios"):
        predict(Stages(1, 1, 1), 1, 2, 0, 1)
    with pytest.raises(StudyError, match="no batch size"):
        copy_stops_being_hidden({})
