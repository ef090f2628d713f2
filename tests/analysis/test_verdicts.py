import pytest

from bench.analysis.statistics import Sample, estimate
from bench.analysis.verdicts import Verdict, decided, graph_of, judge, noise_class, percent, rounded, told_with_interval


def found(effect: float, error: float, noise="rest", pairs=6):
    variance = error**2 * pairs
    return estimate([Sample("c", noise, effect, variance, pairs - 1, 1 / pairs, pairs)])[0]


@pytest.mark.parametrize(
    ("effect", "error", "verdict"),
    [
        (0.0, 0.002, Verdict.SAME),
        (-0.05, 0.002, Verdict.SLOWER),
        (0.05, 0.002, Verdict.FASTER),
        (-0.012, 0.006, Verdict.UNDECIDED),
        (-0.01, 0.1, Verdict.NOT_RESOLVABLE),
    ],
)
def test_verdicts(effect, error, verdict):
    assert judge(found(effect, error)).verdict is verdict


def test_same_takes_precedence_over_a_difference_that_is_sure_and_prints_it():
    one = found(-0.005, 0.0005)
    assert one.p_difference < 0.01
    said = judge(one)
    assert said.verdict is Verdict.SAME
    assert said.text == "no difference larger than 2 %: 0.50 % slower [0.37, 0.63] %"


def test_undecided_says_how_many_repeats_would_decide():
    said = judge(found(-0.012, 0.006))
    assert 6 < said.repeats <= 20
    assert f"about {said.repeats} repeats would decide" in said.text
    assert f"--repeats {said.repeats}" in said.hint


def test_where_even_a_loss_of_nearly_all_could_go_unseen_nothing_is_said_and_no_repeats_are_promised():
    one = found(-0.2, 0.75)
    assert one.mde > 0.9
    said = judge(one)
    assert said.verdict is Verdict.NOT_RESOLVABLE
    assert said.text.startswith("nothing can be said at this noise: [") and "repeats" not in said.text


def test_not_resolvable_says_how_many_it_would_take():
    said = judge(found(-0.012, 0.006), max_repeats=7)
    assert said.verdict is Verdict.NOT_RESOLVABLE
    assert f"about {said.repeats} repeats, more than the 7 allowed" in said.text


@pytest.mark.parametrize(
    ("noise", "graph", "hint"),
    [
        ("launch-bound", False, "cuda_graph: true"),
        ("launch-bound", True, "batch_size"),
        ("launch-bound", None, "the CPU's own work a batch is the noise"),
        ("rest", False, "monitor"),
    ],
)
def test_the_hint_depends_on_the_noise_and_on_what_was_tried(noise, graph, hint):
    assert hint in judge(found(0.0, 0.2, noise), cuda_graph=graph).hint


def test_on_the_cpu_device_no_graph_can_be():
    assert [graph_of({"device": device, "cuda_graph": False}) for device in ("cuda", "cpu")] == [False, None]
    assert graph_of({"device": "cuda", "cuda_graph": True}) is True


def test_one_pair_is_undecided():
    said = judge(estimate([Sample("c", "rest", -0.3, float("nan"), 0, 1.0, 1)])[0])
    assert said.verdict is Verdict.UNDECIDED
    assert "one pair" in said.text and said.repeats == 3


def test_decided_is_none_while_the_runs_do_not_tell():
    assert decided(found(-0.012, 0.006)) is None


@pytest.mark.parametrize(
    ("regime", "limit", "expected"),
    [
        ("launch-bound", "compute", "launch-bound"),
        ("stalled", "issue", "rest"),
        ("balanced", None, "rest"),
        (None, "issue", "launch-bound"),
        (None, "prepare", "launch-bound"),
        (None, "h2d", "rest"),
        (None, None, "unknown"),
    ],
)
def test_the_noise_class_follows_the_regime_and_without_one_what_limits(regime, limit, expected):
    assert noise_class(regime, limit) == expected


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0034, "0.34 %"),
        (-0.0034, "0.34 %"),
        (0.02, "2.0 %"),
        (0.0996, "10 %"),
        (0.13, "13 %"),
        (0.0, "0.00 %"),
    ],
)
def test_percent(fraction, text):
    assert percent(fraction) == text


@pytest.mark.parametrize(("count", "text"), [(7, "7"), (99, "99"), (146, "150"), (2831, "2,900")])
def test_planned_repeats_have_two_figures_at_most(count, text):
    assert rounded(count) == text


def test_of_few_runs_the_effect_is_shown_and_the_repeats_that_would_tell_but_no_interval_that_says_nothing():
    said = judge(found(0.97, 0.24, pairs=2))
    assert said.verdict is Verdict.UNDECIDED
    assert said.text == "undecided: 164 % faster, which 2 pairs do not tell from noise; about 6 repeats would decide"
    assert "--repeats 6" in said.hint


def test_of_few_runs_whose_effect_is_small_it_is_the_noise_that_asks_for_more():
    said = judge(found(0.035, 0.21, pairs=2))
    assert said.verdict is Verdict.NOT_RESOLVABLE and "disturbs" in said.hint
    assert said.text.startswith("not resolvable: 3.6 % faster, which 2 pairs do not tell from noise; it would take")


def test_an_effect_lies_in_its_interval_as_printed_and_both_point_the_same_way():
    assert told_with_interval(0.2963, (0.2947, 0.2979)) == "29.63 % slower [29.47, 29.79] %"
    assert told_with_interval(-0.05, (-0.1158, 0.0115)) == "5.0 % faster [-1.1, 11.6] %"
    assert told_with_interval(-3.13, (-4.69, -2.0)) == "313 % faster [200, 469] %"
    assert told_with_interval(0.00001, (-0.00001, 0.00003)) == "0.00 % slower [0.00, 0.00] %"
