"""A few batches of a trace on three lanes: pure selection, nothing is drawn here."""

from dataclasses import dataclass

import numpy as np

from bench.trace.intervals import union
from bench.trace.model import Kind, Trace

LANES = {"h2d": Kind.H2D, "compute": Kind.COMPUTE, "d2h": Kind.D2H}
# What would be narrower than a hair on paper is joined with its neighbour.
_HAIR = 1 / 1500


@dataclass(frozen=True)
class Bar:
    """start_us from the left edge of the picture; batch: index in the window, -1 for what lies between two."""

    start_us: float
    length_us: float
    batch: int


@dataclass(frozen=True)
class Lanes:
    """span_us: width of the picture; bars by lane, in time order; batches: the ones shown whole."""

    span_us: float
    bars: dict[str, tuple[Bar, ...]]
    batches: tuple[int, ...]


def lanes(trace: Trace, count: int = 4) -> Lanes | None:
    """`count` batches from the middle of the window with all that overlaps them; None if a lane has nothing."""
    activities = trace.activities
    total = len(trace.window.batch_start)
    count = min(count, total)
    first = (total - count) // 2
    shown = (activities.batch >= first) & (activities.batch < first + count)
    if not shown.any():
        return None
    left, right = int(activities.start[shown].min()), int(activities.end[shown].max())
    inside = (activities.end > left) & (activities.start < right)
    bars = {}
    for name, kind in LANES.items():
        chosen = inside & (activities.kind == kind)
        found = []
        for batch in np.unique(activities.batch[chosen]):
            own = np.flatnonzero(chosen & (activities.batch == batch))
            hair = int((right - left) * _HAIR)
            whole = union(activities.start[own], activities.end[own] + hair)
            starts = np.maximum(whole.start, left)
            ends = np.minimum(whole.end - hair, right)
            found += [
                Bar((start - left) / 1e3, max(end - start, hair) / 1e3, int(batch))
                for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
            ]
        bars[name] = tuple(sorted(found, key=lambda bar: bar.start_us))
    return Lanes((right - left) / 1e3, bars, tuple(range(first, first + count)))
