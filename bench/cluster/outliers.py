"""Which hosts of one type differ from the others. Pure: medians and their spread, no files.

The rule, for one quantity of one cell over the hosts of a type. With x the logarithms of the hosts' values:
centre = median(x), scale = the largest of
  - 1.4826 b(n) median|x - centre| over the hosts of this cell (the MAD; b(n) makes it unbiased for few hosts),
  - the same pooled over the cells that are compared together: few hosts say little of a spread, many cells more,
  - the hosts' own standard error (median over the hosts): what a host's value moves from process to process.
A host is an outlier if |x - centre| > 5 scale and the host is off by more than the study's margin.
At least three hosts are needed: of two that differ nobody can say which one is wrong.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Croux and Rousseeuw, Time-efficient algorithms for two highly robust estimators of scale (1992), section 3.
_SMALL_SAMPLE = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
NORMAL = 1.4826
SCALES = 5.0
LEAST_HOSTS = 3


@dataclass(frozen=True)
class Value:
    """A host's value (> 0), and its own relative standard error where repeats tell it."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Compared:
    """One quantity of one cell. median in the quantity's unit; scale and within relative; outliers: host -> offset.

    offset: relative to the median, -0.5 is half of it. within: the hosts' own standard error, None if unknown.
    """

    cell: str
    quantity: str
    median: float
    scale: float
    within: float | None
    values: dict[str, float]
    outliers: dict[str, float]


def compare_hosts(quantity: str, cells: Mapping[str, Mapping[str, Value]], margin: float) -> list[Compared]:
    """cells: by name the values by host, of cells that are alike in noise. Values not above zero are left out."""
    kept = {cell: _usable(values) for cell, values in cells.items()}
    logs = {cell: {host: math.log(one.value) for host, one in values.items()} for cell, values in kept.items()}
    pooled = _pooled_scale([list(values.values()) for values in logs.values()])
    return [_compare(cell, quantity, kept[cell], logs[cell], pooled, margin) for cell in kept if kept[cell]]


def small_sample(n: int) -> float:
    return _SMALL_SAMPLE.get(n, n / (n - 0.8)) if n > 1 else 1.0


def _usable(values: Mapping[str, Value]) -> dict[str, Value]:
    return {host: one for host, one in values.items() if math.isfinite(one.value) and one.value > 0}


def _deviations(values: Sequence[float]) -> list[float]:
    centre = statistics.median(values)
    return [abs(value - centre) for value in values]


def _scale(deviations: Sequence[float], hosts: int) -> float:
    return NORMAL * small_sample(hosts) * statistics.median(deviations) if deviations else 0.0


def _pooled_scale(cells: Sequence[Sequence[float]]) -> float:
    """Each cell's deviations with the correction for its own number of hosts."""
    scaled = [
        deviation * small_sample(len(values))
        for values in cells
        if len(values) >= LEAST_HOSTS
        for deviation in _deviations(values)
    ]
    return NORMAL * statistics.median(scaled) if scaled else 0.0


def _compare(
    cell: str, quantity: str, values: Mapping[str, Value], logs: Mapping[str, float], pooled: float, margin: float
) -> Compared:
    errors = [one.error for one in values.values() if one.error is not None]
    within = statistics.median(errors) if errors else None
    centre = statistics.median(logs.values())
    scale = max(_scale(_deviations(list(logs.values())), len(logs)), pooled, within or 0.0)
    offsets = {host: math.expm1(value - centre) for host, value in logs.items()}
    outliers = {
        host: offset
        for host, offset in offsets.items()
        if len(logs) >= LEAST_HOSTS and abs(logs[host] - centre) > SCALES * scale and abs(offset) > margin
    }
    plain = {host: one.value for host, one in values.items()}
    return Compared(cell, quantity, math.exp(centre), scale, within, plain, outliers)
