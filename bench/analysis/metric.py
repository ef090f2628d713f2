"""A command over the runs of a cell: its metric, and what a reader should know of them."""

import statistics
from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from bench.records.metric import Measured
from bench.records.results import CellMetric, CellRemark, CellRemarkKind
from bench.records.run import CommandResult

LEAST_FROM_STORAGE = 64 << 20
"""Bytes; a run that waited for less of the storage is not remarked on."""
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


def command_remarks(results: Sequence[CommandResult]) -> list[CellRemark]:
    """Of the timed runs of a cell that succeeded: what their output says, their storage and their page cache."""
    total = len(results)
    texts = Counter(text for one in results if one.measured for text in dict.fromkeys(one.measured.remarks))
    kind = CellRemarkKind.OF_OUTPUT
    found = [CellRemark(kind=kind, other=text, count=count, total=total) for text, count in texts.items()]
    if cold := [size for one in results if (size := one.storage_bytes or 0) >= LEAST_FROM_STORAGE]:
        kind = CellRemarkKind.FROM_STORAGE
        found.append(CellRemark(kind=kind, count=len(cold), total=total, bytes=max(cold)))
    if last := next((one.files for one in reversed(results) if one.files), ()):
        by_node: Counter[int] = Counter()
        for file in last:
            by_node.update(file.cached_by_node)
        size = sum(file.bytes for file in last)
        share = sum(file.cached_bytes for file in last) / size
        kind, count = CellRemarkKind.PAGE_CACHE, len(last)
        nodes = dict(sorted(by_node.items()))
        found.append(CellRemark(kind=kind, count=count, bytes=size, ratio=share, bytes_by_node=nodes))
    return found


def inverse_change(penalty: float) -> float:
    """From 1 - a / b to b / a - 1."""
    return 1 / (1 - penalty) - 1 if penalty < 1 else _MOST_CHANGE
