"""The metric of a command over the runs of a cell."""

import statistics
from collections.abc import Sequence

from msgspec.structs import replace

from bench.records.metric import Measured
from bench.records.results import CellMetric

# The end of an interval that is not known at all: finite, as JSON has no other numbers.
_MOST_CHANGE = 1e304


def cell_metric(found: Sequence[Measured]) -> CellMetric | None:
    """Of the runs that count. Other metrics only where every run has them."""
    if not found:
        return None
    name, values = found[0].primary, [one.metrics[one.primary].value for one in found]
    first = found[0].metrics[name]
    common = [key for key in found[0].metrics if key != name and all(key in one.metrics for one in found)]
    return CellMetric(
        name=name,
        unit=first.unit,
        better=first.better,
        value=statistics.geometric_mean(values),
        runs=tuple(values),
        spread=statistics.stdev(values) / statistics.fmean(values) if len(values) > 1 else None,
        others={
            key: replace(
                found[0].metrics[key], value=statistics.geometric_mean(one.metrics[key].value for one in found)
            )
            for key in common
        },
    )


def inverse_change(penalty: float) -> float:
    """From 1 - a / b to b / a - 1."""
    return 1 / (1 - penalty) - 1 if penalty < 1 else _MOST_CHANGE
