import numpy as np
import pytest

from bench.analysis.repeats import decide, looks, pairs_for
from bench.analysis.statistics import Comparison, estimate_pairs
from bench.errors import StudyError


def made(n, sd, seed=0, label="c", noise="rest"):
    rng = np.random.default_rng(seed)
    sides = (dict(enumerate(1000 * np.exp(rng.normal(0, sd, n)), 1)) for _ in range(2))
    return Comparison(label, noise, *sides)


@pytest.mark.parametrize(
    ("most", "expected"), [(20, (6, 10, 20)), (8, (6, 8)), (6, (6,)), (3, (3,)), (40, (6, 10, 20, 40))]
)
def test_looks(most, expected):
    assert looks(most) == expected


@pytest.mark.parametrize(("n", "more"), [(1, 5), (3, 3), (5, 1)])
def test_nothing_is_looked_at_before_six_pairs(n, more):
    (said,) = decide([made(n, 1e-5)], 0.02)
    assert (said.more, said.half_width) == (more, None)


def test_narrow_enough_stops():
    (said,) = decide([made(6, 0.002)], 0.02)
    assert said.more == 0 and said.half_width < 0.02


def test_not_narrow_enough_goes_on_to_the_next_look_only():
    assert [decide([made(n, 0.03)], 0.02)[0].more for n in (6, 10)] == [4, 10]


def test_the_last_look_ends_it_and_says_what_it_would_take():
    (said,) = decide([made(20, 0.08)], 0.02)
    assert said.more == 0 and said.repeats_needed > 20


def test_the_hopeless_are_given_up_at_the_first_look():
    (said,) = decide([made(6, 0.3)], 0.02)
    assert said.more == 0 and said.repeats_needed > 500 and "more than 20" in said.reason


def test_failed_runs_do_not_make_an_extra_look():
    """Ten pairs were asked for and two failed: eight is no look, and neither is it a reason for ten again."""
    (said,) = decide([made(8, 0.04)], 0.02, asked={"c": 10})
    assert said.more == 10


def test_the_pairs_planned_reach_the_target():
    (found,) = estimate_pairs([made(6, 0.03)], 0.96)
    needed = pairs_for(found, 0.02)
    half = found.sd / np.sqrt(needed) * 2.06
    assert half == pytest.approx(0.02, rel=0.1)
    assert pairs_for(found, 0.02, optimism=0.9) < needed


def test_finished_comparisons_still_lend_their_variance():
    several = [made(6, 0.03, seed, f"c{seed}") for seed in range(8)]
    alone, among = decide(several[:1], 0.02)[0], decide(several, 0.02)[0]
    assert alone.half_width != among.half_width


@pytest.mark.parametrize("target", [0, -1, 2])
def test_a_target_that_is_no_fraction_is_refused(target):
    with pytest.raises(StudyError, match="target precision"):
        decide([made(6, 0.1)], target)


def test_no_repeats_at_all_is_refused():
    with pytest.raises(StudyError, match="max_repeats"):
        looks(0)
