"""Percentiles, and the one rule that says which of them a sample can support."""

from collections.abc import Sequence
from typing import Any

PERCENTILES = (50, 90, 99)


def samples_needed(percent: int) -> int:
    """The smallest sample in which one value is expected beyond the percentile: p50 2, p90 10, p99 100.

    Below it the estimate is only a name for the maximum.
    """
    return -(-100 // (100 - percent))


def unsupported(percent: int, count: int, of_what: str = "batches") -> str | None:
    """Why a sample of `count` cannot support the percentile; None if it can."""
    needed = samples_needed(percent)
    return None if count >= needed else f"p{percent} needs {needed} {of_what}, there are {count}"


def percentile(ordered: Sequence[Any], percent: int, scale: int = 1) -> float:
    """Percentile of ascending `ordered` by linear interpolation (Hyndman and Fan, type 7), divided by `scale`.

    Exact for integers: rounded once, at the end. Raises ValueError if `ordered` is empty.
    """
    if not len(ordered):
        raise ValueError("no values")
    below, rest = divmod((len(ordered) - 1) * percent, 100)
    low = _plain(ordered[below])
    high = _plain(ordered[below + 1]) if rest else low
    return (low * 100 + (high - low) * rest) / (100 * scale)


def summary(ordered: Sequence[Any], scale: int = 1, of_what: str = "batches") -> dict[str, Any]:
    """{"count", "p50", "p90", "p99", "max", "reasons"} of ascending values; a null has its reason in "reasons"."""
    count = len(ordered)
    reasons = {f"p{percent}": unsupported(percent, count, of_what) for percent in PERCENTILES}
    values = {
        f"p{percent}": None if reasons[f"p{percent}"] else percentile(ordered, percent, scale)
        for percent in PERCENTILES
    }
    return {
        "count": count,
        **values,
        "max": percentile(ordered, 100, scale) if count else None,
        "reasons": {name: reason for name, reason in reasons.items() if reason},
    }


def _plain(value: Any) -> Any:
    """A numpy scalar would overflow, or round, where a Python number does not."""
    return value.item() if hasattr(value, "item") else value
