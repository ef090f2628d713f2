import pytest

from bench.analysis.statistics import Sample, estimate
from bench.analysis.verdicts import (
    decided,
    has_few_pairs,
    is_headline,
    is_uninformative,
    judge,
    noise_class,
    rules_of,
)
from bench.records.results import Judged, NoiseClass, Reason, Remedy, Rules, Term, Verdict
from bench.records.study import Settings
from bench.records.trace import Regime
from tests.analysis.cells import made_study

EAGER = Settings(device="cuda")
LAUNCH, DEVICE = NoiseClass.LAUNCH_BOUND, NoiseClass.DEVICE_BOUND


def found(effect: float, error: float, noise=DEVICE, pairs=6):
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
    assert judge(found(effect, error), EAGER).verdict is verdict
    assert Judged(verdict=verdict).differs == (verdict in (Verdict.SLOWER, Verdict.FASTER))


def test_same_takes_precedence_over_a_significant_difference():
    one = found(-0.005, 0.0005)
    assert one.p_difference < 0.01
    judgement = judge(one, EAGER)
    assert (judgement.verdict, judgement.reason, judgement.remedy) == (Verdict.SAME, Reason.WITHIN_MARGIN, None)


def test_undecided_has_the_repeats_that_would_decide():
    judgement = judge(found(-0.012, 0.006), EAGER)
    assert 6 < judgement.repeats <= 20
    assert (judgement.reason, judgement.remedy) == (Reason.FEW_REPEATS, Remedy.REPEAT)


def test_extreme_noise_is_uninformative():
    """Even a loss of nearly all could be missed: the effect is chance, and so are the repeats that would decide it."""
    one = found(-0.2, 0.75)
    assert is_uninformative(one.mde)
    judgement = judge(one, EAGER)
    assert (judgement.verdict, judgement.reason) == (Verdict.NOT_RESOLVABLE, Reason.UNINFORMATIVE)


def test_not_resolvable_has_the_repeats_it_would_take():
    judgement = judge(found(-0.012, 0.006), EAGER, max_repeats=7)
    assert (judgement.verdict, judgement.reason) == (Verdict.NOT_RESOLVABLE, Reason.TOO_MANY_REPEATS_NEEDED)
    assert judgement.repeats > 7


@pytest.mark.parametrize(
    ("noise", "settings", "remedy"),
    [
        (LAUNCH, EAGER, Remedy.USE_CUDA_GRAPH),
        (LAUNCH, Settings(device="cuda", cuda_graph=True), Remedy.REDUCE_LAUNCHES),
        (LAUNCH, Settings(device="cpu"), Remedy.REDUCE_CPU_WORK),
        (DEVICE, EAGER, Remedy.FIND_DISTURBANCE),
    ],
)
def test_the_remedy_depends_on_the_noise_and_what_was_tried(noise, settings, remedy):
    assert judge(found(0.0, 0.2, noise), settings).remedy is remedy


def test_one_pair_is_undecided():
    judgement = judge(estimate([Sample("c", DEVICE, -0.3, float("nan"), 0, 1.0, 1)])[0], EAGER)
    assert (judgement.verdict, judgement.reason, judgement.repeats) == (Verdict.UNDECIDED, Reason.ONE_PAIR, 3)


def test_decided_is_none_while_the_runs_do_not_decide():
    assert decided(found(-0.012, 0.006)) is None


@pytest.mark.parametrize(
    ("regime", "limit", "expected"),
    [
        (Regime.LAUNCH_BOUND, Term.COMPUTE, LAUNCH),
        (Regime.STALLED, Term.ISSUE, DEVICE),
        (Regime.BALANCED, None, DEVICE),
        (None, Term.ISSUE, LAUNCH),
        (None, Term.PREPARE, LAUNCH),
        (None, Term.H2D, DEVICE),
        (None, None, NoiseClass.UNKNOWN),
    ],
)
def test_noise_class_follows_the_regime_or_else_the_limit(regime, limit, expected):
    assert noise_class(regime, limit) is expected


@pytest.mark.parametrize(("effect", "error"), [(0.97, 0.24), (0.035, 0.21)])
def test_few_pairs_without_a_usable_spread_are_undecided(effect, error):
    one = found(effect, error, pairs=2)
    assert has_few_pairs(one.mde, one.pairs)
    judgement = judge(one, EAGER)
    assert (judgement.verdict, judgement.reason, judgement.repeats) == (Verdict.UNDECIDED, Reason.FEW_REPEATS, 6)


def test_same_needs_more_after_looks():
    several = [Sample("c", DEVICE, -0.0153, 0.005**2, 5, 1 / 6, 6)]
    plain, looked = estimate(several)[0], estimate(several, confidence=0.96)[0]
    assert 0.03 < plain.p_same == looked.p_same < 0.05
    assert (decided(plain), decided(looked)) == (Verdict.SAME, Verdict.SLOWER)


@pytest.mark.parametrize(("design", "pairs"), [("processes", 6), ("crossing", 5)])
def test_a_headline_needs_enough_pairs(design, pairs):
    def headline(log_ratio: float, n: int) -> bool:
        entry = Judged(verdict=Verdict.SLOWER, reason=Reason.DIFFERENT, design=design, pairs=n)
        return is_headline(entry, log_ratio, 0.001, Rules())

    assert [headline(-0.3, n) for n in (pairs - 1, pairs)] == [False, True]
    assert headline(-0.7, 3)
    assert not is_headline(Judged(verdict=Verdict.SLOWER, pairs=9), -0.3, 0.06, Rules())


def test_rules_are_the_studys():
    assert rules_of(made_study()) == Rules()
    study = made_study(margin=0.05, max_repeats=30, target_precision=0.02)
    assert rules_of(study) == Rules(margin=0.05, max_repeats=30, confidence=0.96)
