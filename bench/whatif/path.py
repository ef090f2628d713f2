"""The critical path of a window: back from its last end over the causes that set each time."""

from dataclasses import dataclass, fields

import numpy as np

from bench.whatif.program import Indices, Work
from bench.whatif.replay import Stretches


@dataclass
class Parts:
    """ns of the path."""

    kernels: float = 0.0
    h2d: float = 0.0
    d2h: float = 0.0
    api_calls: float = 0.0
    between_calls: float = 0.0
    long_calls: float = 0.0
    lags: float = 0.0
    unexplained: float = 0.0

    def shares(self) -> dict[str, float]:
        total = sum(getattr(self, one.name) for one in fields(self)) or 1.0
        return {one.name: float(getattr(self, one.name) / total) for one in fields(self)}


class Walker:
    """Walks the critical paths of one graph, stretch by stretch."""

    def __init__(self, cut: Stretches) -> None:
        self.cut = cut
        activities = cut.graph.program.activities
        kinds = {"h2d": activities.kind == Work.H2D, "d2h": activities.kind == Work.D2H}
        kinds["kernels"] = ~(kinds["h2d"] | kinds["d2h"])
        self.work = {name: np.cumsum(np.where(chosen, cut.length, 0.0)) for name, chosen in kinds.items()}
        self.residuals = np.cumsum(cut.residual)
        self.lags = np.cumsum(cut.chain_lag)
        # The activity at or before each one where the order of its stream does not decide.
        decided = cut.is_head | cut.by_launch_alone
        self.turn = np.maximum.accumulate(np.where(decided, np.arange(cut.count), 0))

    def path(self, chosen: Indices) -> Parts:
        """From the last end of the chosen activities to the start of the first."""
        activities = self.cut.graph.program.activities
        parts = Parts()
        begin = float(activities.start[chosen].min())
        activity: int | None = int(chosen[np.argmax(activities.end[chosen])])
        node = -1
        while True:
            if activity is not None:
                if activities.end[activity] <= begin:
                    return parts
                cause, at = self._stream(activity, parts)
            else:
                if self.cut.measured[node] <= begin:
                    return parts
                cause, at = self._thread(node, parts)
            if cause is None:
                parts.unexplained += max(0.0, at - begin)
                return parts
            activity, node = (cause, -1) if cause >= 0 else (None, ~cause)

    def _stream(self, activity: int, parts: Parts) -> tuple[int | None, float]:
        """(cause of the activity's stretch: an activity, ~node, or None for none; when the walk got there)"""
        cut, turn = self.cut, int(self.turn[activity])
        first = turn - 1
        for name, sums in self.work.items():
            setattr(parts, name, getattr(parts, name) + sums[activity] - (sums[first] if turn else 0.0))
        parts.unexplained += self.residuals[activity] - (self.residuals[first] if turn else 0.0)
        parts.lags += self.lags[activity] - self.lags[turn]
        if cut.rooted[turn]:
            return None, float(cut.graph.program.activities.start[turn])
        if cut.by_launch_alone[turn]:
            excess = cut.graph.launch_excess[turn]
            parts.api_calls += cut.graph.own_launch[turn] - excess
            parts.long_calls += excess
            parts.lags += cut.graph.launch_lag[turn]
            return ~int(cut.begin[turn]), 0.0
        return self._cause(len(cut.heads) + int(cut.stretch[turn]), parts)

    def _thread(self, node: int, parts: Parts) -> tuple[int | None, float]:
        cut, head = self.cut, int(self.cut.head_of[node])
        excess = cut.sum_excess[node] - cut.sum_excess[head]
        parts.api_calls += cut.sum_api[node] - cut.sum_api[head] - excess
        parts.long_calls += excess
        parts.between_calls += cut.sum_gap[node] - cut.sum_gap[head]
        parts.unexplained += cut.sum_fixed[node] - cut.sum_fixed[head]
        rank = int(cut.rank[head])
        parts.unexplained += cut.head_residual[rank]
        if cut.head_rooted[rank]:
            return None, float(cut.measured[head])
        return self._cause(rank, parts)

    def _cause(self, head: int, parts: Parts) -> tuple[int | None, float]:
        cut = self.cut
        decides = int(cut.decides[head])
        parts.lags += cut.cause_lag[decides]
        of_call = head < len(cut.heads) and cut.heads[head] % 2
        name = "api_calls" if of_call else "between_calls"
        setattr(parts, name, getattr(parts, name) + cut.cause_scaled[decides])
        return int(cut.cause[decides]), 0.0
