"""Windows: how long they are, when warm-up has settled. Pure; the clock is in measure.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.quantiles import samples_needed

SETTLED_SPREAD = 0.01
SETTLED_WINDOWS = 3
MAX_WINDOWS = 20
MIN_WARMUP_S = 0.5
MAX_WARMUP_S = 5.0
# A window is planned this much longer than it must be, so that a faster moment does not make it too short.
MARGIN = 1.25
# Of a window: what filling and emptying the pipeline may add to it.
FILLING_SHARE = 0.001


@dataclass(frozen=True)
class Window:
    """`start_ns` on the monotonic performance counter. `minor_faults`: pages that this process first touched in it, or
    wrote to while they were shared with another."""

    batches: int
    duration_s: float
    start_ns: int
    minor_faults: int = 0

    @property
    def batch_s(self) -> float:
        return self.duration_s / self.batches

    def as_json(self) -> dict[str, float | int]:
        return dict(vars(self))


@dataclass(frozen=True)
class WarmupRule:
    """`min_batches`: the study's warm-up samples. The limits end a warm-up that does not settle."""

    window_s: float
    min_batches: int
    min_s: float = MIN_WARMUP_S
    max_windows: int = MAX_WINDOWS
    max_s: float = MAX_WARMUP_S

    def full(self, history: Sequence[Window]) -> list[Window]:
        """The windows long enough to be judged."""
        return [window for window in history if window.duration_s >= self.window_s]

    def spread(self, history: Sequence[Window]) -> float | None:
        """Relative range of the time per batch over the last three windows; None if there are fewer."""
        last = [window.batch_s for window in self.full(history)[-SETTLED_WINDOWS:]]
        if len(last) < SETTLED_WINDOWS:
            return None
        return (max(last) - min(last)) / (sum(last) / len(last))

    def settled(self, history: Sequence[Window]) -> bool:
        spread = self.spread(history)
        return spread is not None and spread <= SETTLED_SPREAD

    def is_over(self, history: Sequence[Window]) -> bool:
        duration_s = sum(window.duration_s for window in history)
        if sum(window.batches for window in history) < self.min_batches or duration_s < self.min_s:
            return False
        return self.settled(history) or len(self.full(history)) >= self.max_windows or duration_s >= self.max_s

    def next_batches(self, history: Sequence[Window]) -> int:
        """Batches of the next window: one to begin with, then as many as window_s takes at the last pace."""
        if not history:
            return 1
        wanted = batches_in(self.window_s, max(history[-1].batch_s, 1e-9))
        # The first batches carry lazy initialisation; a pace read from few of them is refined stepwise.
        return max(1, min(wanted, 64 * history[-1].batches))


def pace(history: Sequence[Window], window_s: float) -> float:
    """Seconds per batch, as the last warm-up windows saw it."""
    full = [window for window in history if window.duration_s >= window_s] or list(history)
    return median(window.batch_s for window in full[-SETTLED_WINDOWS:])


def batches_in(window_s: float, batch_s: float) -> int:
    """Batches that surely last window_s."""
    return max(1, math.ceil(MARGIN * window_s / batch_s))


def batches_per_window(batch_s: float, alone_s: float, window_s: float, windows: int, batches_per_pass: int) -> int:
    """As many as last window_s, and up to a whole pass so many more that two things hold.

    A window begins and ends with an empty pipeline, so that one of n batches lasts n * batch_s and what a batch alone
    takes longer than in the flow (alone_s - batch_s): that is at most FILLING_SHARE of it. And all windows together
    support a p99.
    """
    steady = math.ceil((alone_s - batch_s) / (FILLING_SHARE * batch_s))
    sampled = -(-samples_needed(99) // windows)
    return max(batches_in(window_s, batch_s), min(batches_per_pass, max(steady, sampled)))


def longer(count: int, windows: Sequence[Window], window_s: float) -> int:
    """Batches that make the shortest of `windows`, of `count` each, long enough; always more than before."""
    shortest_s = min(window.duration_s for window in windows)
    return max(count + 1, math.ceil(MARGIN * count * window_s / max(shortest_s, 1e-9)))


def throughput_samples_s(windows: Sequence[Window], batch_size: int) -> float:
    """Median over the windows."""
    return median(batch_size / window.batch_s for window in windows)
