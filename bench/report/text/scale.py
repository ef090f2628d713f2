"""The words for a loss: of a rate that is lower, or of a time that is longer.

All comparisons are of rates, so that more is better. Where a command's metric is better lower, a rate that is 30 %
lower is a value that is 43 % larger, and the value is what a reader knows.
"""

from dataclasses import dataclass

from bench.analysis.metric import inverse_change
from bench.records.metric import Better, Metric
from bench.records.results import CellMetric

_TIMES = frozenset({"s", "ms", "us", "µs", "ns", "min", "h", "seconds", "milliseconds"})


@dataclass(frozen=True)
class Scale:
    """words: of a loss and of a gain, after a figure. verbs, after: the same in a sentence about what was measured."""

    is_inverse: bool
    words: tuple[str, str]
    verbs: tuple[str, str]
    after: tuple[str, str]

    def share(self, penalty: float) -> float:
        """The size of a loss of rate; negative is a gain."""
        return inverse_change(penalty) if self.is_inverse else penalty

    def interval(self, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        return (self.share(ends[0]), self.share(ends[1])) if ends else None


RATE = Scale(False, ("slower", "faster"), ("loses", "gains"), ("", ""))
TIME = Scale(True, ("longer", "shorter"), ("takes", "takes"), (" more time", " less time"))
AMOUNT = Scale(True, ("more", "less"), ("needs", "needs"), (" more", " less"))


def scale_of(metric: CellMetric | Metric | None) -> Scale:
    """None: of the pipeline, whose throughput is measured."""
    if metric is None or metric.better is Better.HIGHER:
        return RATE
    return TIME if metric.unit in _TIMES else AMOUNT
