import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.workload.measure import WarmupRule, Window, batches_per_window, longer, throughput_samples_s

# Samples/s of five passes in one process, on an H100: an eager vit32x2x128, and the same as a CUDA graph.
EAGER = (7313, 8533, 13818, 13758, 10331)
GRAPH = (41041, 41126, 41102, 41077, 41090)


def recorded(samples_s: tuple[float, ...], duration_s: float = 0.12, batch_size: int = 10) -> list[Window]:
    return [
        Window(batches=batches, duration_s=batches * batch_size / rate)
        for rate in samples_s
        for batches in [round(rate * duration_s / batch_size)]
    ]


RULE = WarmupRule(window_s=0.1, min_batches=10)


def test_steady_sequence_settles_and_a_noisy_one_does_not():
    assert RULE.settled(recorded(GRAPH))
    assert not RULE.settled(recorded(EAGER))
    assert RULE.spread(recorded(EAGER)) == pytest.approx(0.285, abs=0.02)


def test_only_the_last_three_windows_count():
    assert RULE.settled(recorded(EAGER + GRAPH[:3]))
    assert not RULE.settled(recorded(EAGER + GRAPH[:2]))
    assert not RULE.settled(recorded(GRAPH + EAGER[:1]))
    assert RULE.spread(recorded(GRAPH[:2])) is None


def test_short_windows_are_not_judged():
    assert not RULE.settled(recorded(GRAPH, duration_s=0.05))
    mixed = [*recorded(GRAPH[:2]), *recorded(EAGER, duration_s=0.05), *recorded(GRAPH[2:3])]
    assert RULE.settled(mixed)


def test_warm_up_lasts_its_half_second_and_its_samples():
    assert not RULE.is_over(recorded(GRAPH[:4]))
    assert RULE.is_over(recorded(GRAPH))
    thirsty = WarmupRule(window_s=0.1, min_batches=10_000)
    assert not thirsty.is_over(recorded(GRAPH * 3))


def test_warm_up_that_never_settles_ends_at_its_limits():
    assert not RULE.is_over(recorded(EAGER * 3))
    assert RULE.is_over(recorded(EAGER * 4))
    slow = [Window(batches=10, duration_s=duration_s) for duration_s in (1.0, 2.0, 3.0)]
    assert RULE.is_over(slow)
    assert not RULE.settled(slow)


def test_warm_up_windows_grow_from_one_batch():
    assert RULE.next_batches([]) == 1
    lazy_start = [Window(batches=1, duration_s=0.5)]
    assert RULE.next_batches(lazy_start) == 1
    assert RULE.next_batches([*lazy_start, Window(batches=1, duration_s=0.001)]) == 64
    assert RULE.next_batches([Window(batches=64, duration_s=0.064)]) == 125


@given(st.floats(1e-6, 1.0))
def test_warm_up_windows_become_long_enough(batch_s):
    history: list[Window] = []
    while not RULE.is_over(history):
        count = RULE.next_batches(history)
        history.append(Window(batches=count, duration_s=count * batch_s))
    assert RULE.settled(history)
    assert len(history) < 20


@given(st.floats(1e-6, 10.0), st.floats(1, 3), st.floats(0.001, 1.0), st.integers(9, 100), st.integers(1, 1000))
def test_window_is_long_and_steady_enough_or_a_pass(batch_s, ratio, window_s, windows, batches_per_pass):
    count = batches_per_window(batch_s, ratio * batch_s, window_s, windows, batches_per_pass)
    assert count * batch_s >= window_s
    filling_s = (ratio - 1) * batch_s
    assert count >= batches_per_pass or filling_s <= 0.001001 * count * batch_s
    assert count >= batches_per_pass or count * windows >= 299


@pytest.mark.parametrize(
    ("batch_s", "isolated_s", "batches"),
    [
        # An H100: copies only; a large model; one whose copies take as long as its computing.
        (124e-6, 260e-6, 1009),
        (15.5e-3, 15.7e-3, 34),
        (10e-3, 30e-3, 100),
        # Faster in isolation than in the flow, which is noise: what p99 needs.
        (15.5e-3, 15.4e-3, 34),
    ],
)
def test_slow_model_is_not_measured_for_whole_passes(batch_s, isolated_s, batches):
    assert batches_per_window(batch_s, isolated_s, 0.1, 9, 100) == batches


def test_pace_is_of_the_last_full_windows():
    history = [
        Window(batches=1, duration_s=0.5),
        Window(batches=100, duration_s=0.2),
        *[Window(batches=100, duration_s=0.1)] * 3,
    ]
    assert WarmupRule(0.1, 0).pace(history) == pytest.approx(0.001)
    assert WarmupRule(0.1, 0).pace([Window(batches=2, duration_s=0.05)]) == pytest.approx(0.025)


def test_too_short_windows_get_more_batches():
    assert longer(20, [Window(batches=20, duration_s=0.2), Window(batches=20, duration_s=0.05)], 0.1) == 50
    assert longer(2, [Window(batches=2, duration_s=0.0999)], 0.1) == 3


def test_throughput_is_the_median_of_the_windows():
    assert throughput_samples_s(recorded(EAGER), 10) == pytest.approx(10331)
