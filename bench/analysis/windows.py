"""What the windows of one run show of it: how they spread, whether they differ, whether the process was stopped."""

import math
from collections.abc import Sequence
from statistics import median

from bench.records.results import CellRemark, CellRemarkKind
from bench.records.run import Mode, Result

# Windows of one run that differ by more are remarked on.
WINDOWS_DIFFER = 0.05
# In a crossing windows are short, and differ: by chance hardly one in a thousand is so many spreads from the median.
SPREADS = 6.0
FEWEST_WINDOWS = 3
# A window that takes so many seconds longer than the others was not slow: its process, or the machine, stood still.
STOPPED_S = 1.0
# Of normal noise: the standard deviation over the median absolute deviation.
_OF_NORMAL = 1.4826


def mean_samples_s(result: Result, batch_size: int) -> float:
    """All samples over the time of all windows: the harmonic mean of their rates, weighted by their batches."""
    if not result.windows:
        return result.throughput_samples_s
    batches = sum(window.batches for window in result.windows)
    return batch_size * batches / sum(window.duration_s for window in result.windows)


def window_spread(result: Result) -> float | None:
    """Of the time per batch, relative and robust; None for fewer than FEWEST_WINDOWS."""
    logs = _deviations(result)
    return _OF_NORMAL * median(map(abs, logs)) if len(logs) >= FEWEST_WINDOWS else None


def windows_differ(result: Result) -> float | None:
    """By how much the slowest window differs from the fastest, where that is too much; else None.

    In a crossing: the window that is farthest from the median, where that is beyond the process' own spread too.
    """
    logs, spread = _deviations(result), window_spread(result)
    if spread is None:
        return None
    if result.mode is Mode.CROSSED:
        farthest = max(map(abs, logs))
        return math.expm1(farthest) if farthest > max(math.log1p(WINDOWS_DIFFER), SPREADS * spread) else None
    differ = math.expm1(max(logs) - min(logs))
    return differ if differ > WINDOWS_DIFFER else None


def stopped_s(result: Result) -> float | None:
    """The longest time that a window took beyond its batches at the median pace, from STOPPED_S on; else None."""
    if len(result.windows) < FEWEST_WINDOWS:
        return None
    pace_s = median(window.batch_s for window in result.windows)
    longest_s = max(window.duration_s - window.batches * pace_s for window in result.windows)
    return longest_s if longest_s >= STOPPED_S else None


def facts_of_run(result: Result, batch_size: int) -> dict[str, float | None]:
    """The fields of a CellRun that the windows and batches of a timed run give."""
    latency = result.latency_us
    return {
        "mean_samples_s": mean_samples_s(result, batch_size),
        "latency_p50_us": latency.p50 if latency else None,
        "latency_p99_us": latency.p99 if latency else None,
        "window_spread": window_spread(result),
        "windows_differ": windows_differ(result),
        "stopped_s": stopped_s(result),
    }


def window_remarks(results: Sequence[Result]) -> list[CellRemark]:
    """Of the timed runs of a cell that succeeded."""
    found, total = [], len(results)
    if uneven := [differ for one in results if (differ := windows_differ(one))]:
        kind = CellRemarkKind.WINDOWS_DIFFER
        found.append(CellRemark(kind=kind, count=len(uneven), total=total, ratio=max(uneven)))
    if stopped := [stop_s for one in results if (stop_s := stopped_s(one))]:
        found.append(CellRemark(kind=CellRemarkKind.STOPPED, count=len(stopped), total=total, seconds=max(stopped)))
    return found


def _deviations(result: Result) -> list[float]:
    """ln of the time per batch of each window over their median."""
    paces_s = [window.batch_s for window in result.windows]
    return [math.log(pace_s / median(paces_s)) for pace_s in paces_s]
