"""What a person should know about a trace: copies that synchronise, launch gaps, the kernels that take the time."""

from typing import Any

import numpy as np

from bench.trace.batches import per_batch
from bench.trace.intervals import covered
from bench.trace.metrics import exact_sum
from bench.trace.reader import Kind, Trace

TOP_KERNELS = 10
COPIES = {"h2d": Kind.H2D, "d2h": Kind.D2H}


def details(trace: Trace) -> dict[str, Any]:
    """All of this module and `per_batch`, as the keys that `analyze` adds to the contract metrics."""
    return {
        "devices": [vars(device) for device in trace.devices],
        "remarks": remarks(trace),
        "launch_gaps": launch_gaps(trace),
        "top_kernels": top_kernels(trace),
        "per_batch": per_batch(trace),
    }


def remarks(trace: Trace) -> list[str]:
    """Sentences about copies that wait for others or make others wait; none if all is well."""
    activities, said = trace.activities, []
    for name, kind in COPIES.items():
        mine = activities.kind == kind
        memory = {key for key, title in trace.memory_kinds.items() if title.upper().endswith("PAGEABLE")}
        pageable = int((mine & np.isin(activities.host_memory, list(memory))).sum())
        if pageable:
            said.append(
                f"{pageable} of {int(mine.sum())} {name.upper()} copies use pageable host memory: "
                "they are staged and hold the CPU; pin the buffers"
            )
        default = int((mine & np.isin(activities.stream, list(trace.null_streams))).sum())
        if default:
            said.append(
                f"{default} of {int(mine.sum())} {name.upper()} copies run on the default stream: "
                "it waits for other streams and they for it; copy on a stream of its own"
            )
    if len(trace.devices) > 1:
        numbers = ", ".join(str(device.id) for device in trace.devices)
        said.append(f"{len(trace.devices)} GPUs were used in one window: {numbers}")
    return said


def launch_gaps(trace: Trace) -> dict[str, Any]:
    """Gaps between consecutive kernels of one batch while no copy or other kernel ran either: count, total, largest."""
    activities = trace.activities
    chosen = np.flatnonzero((activities.kind == Kind.COMPUTE) & (activities.batch >= 0))
    order = chosen[np.lexsort((activities.start[chosen], activities.batch[chosen]))]
    batch, start = activities.batch[order], activities.start[order]
    same = np.flatnonzero(batch[1:] == batch[:-1])
    # Per batch the reach so far; a gap opens where all kernels of the batch seen so far have ended.
    reach = _running_end(batch, activities.end[order])
    opened, closed = reach[same], start[same + 1]
    real = closed > opened
    opened, closed = opened[real], closed[real]
    busy = sum((covered(activities.union(kind), opened, closed) for kind in Kind), np.zeros(len(opened), np.int64))
    empty = (closed - opened)[busy == 0]
    return {
        "count": len(empty),
        "total_ns": exact_sum(empty),
        "max_ns": int(empty.max()) if len(empty) else 0,
    }


def top_kernels(trace: Trace, count: int = TOP_KERNELS) -> list[dict[str, Any]]:
    """The names that took most device time: name, calls, total_ns; longest first, then by name."""
    activities = trace.activities
    chosen = activities.of(Kind.COMPUTE)
    keys, index, calls = np.unique(activities.name[chosen], return_inverse=True, return_counts=True)
    totals = np.zeros(len(keys), np.int64)
    np.add.at(totals, index, activities.end[chosen] - activities.start[chosen])
    rows = [
        {"name": trace.names[key], "calls": number, "total_ns": total}
        for key, number, total in zip(keys.tolist(), calls.tolist(), totals.tolist(), strict=True)
    ]
    return sorted(rows, key=lambda row: (-row["total_ns"], row["name"]))[:count]


def _running_end(batch: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Running maximum of `end` that starts anew with every batch; batches ascend."""
    if not len(end):
        return end
    low = int(end.min())
    span = int(end.max()) - low + 1
    if span * (int(batch[-1]) + 1) < 2**62:
        return np.maximum.accumulate(end - low + batch * span) - batch * span + low
    return np.concatenate([np.maximum.accumulate(end[batch == number]) for number in np.unique(batch)])
