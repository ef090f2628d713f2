"""Events of a Chrome trace as torch.profiler writes it (Kineto), times in integer ns."""

import gzip
import json
import zlib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from bench.trace.errors import TraceError

# Read at once; a run's own trace has a hundredth of this.
MOST_BYTES = 512 << 20
# ns; what is further off is no time, and no longer fits an export.
FURTHEST = 2**61


@dataclass(frozen=True)
class Event:
    """A complete event. pid, tid are ids of the system for CPU events, device and stream for those of a GPU."""

    category: str
    name: str
    start: int
    end: int
    pid: int
    tid: int
    args: dict[str, Any]


@dataclass(frozen=True)
class ChromeTrace:
    events: list[Event]
    device_names: dict[int, str]


def read_chrome_trace(path: Path | str) -> ChromeTrace:
    """Read .json or .json.gz. Raise TraceError if it is not a Chrome trace."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise TraceError(f"larger than {MOST_BYTES} bytes; that is no trace of a run", str(path))
        # Times are us with three decimals: as floats they would lose ns after 104 days of uptime.
        document = json.loads(raw, parse_float=str)
        complete = [event for event in document["traceEvents"] if event.get("ph") == "X" and "cat" in event]
        events = [_event(event) for event in complete if event["cat"] != "Trace"]
        devices = {_number(gpu["id"]): str(gpu["name"]) for gpu in document.get("deviceProperties", [])}
    except FileNotFoundError:
        raise TraceError("torch.profiler left no trace", str(path), "read the log of the run") from None
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TraceError(f"not a trace of torch.profiler: {error!r}", str(path)) from None
    return ChromeTrace(events, devices)


def _event(event: dict[str, Any]) -> Event:
    start = _ns(event["ts"])
    texts, args = (event["cat"], event["name"]), event.get("args", {})
    if not all(isinstance(text, str) for text in texts) or not isinstance(args, dict):
        raise TypeError("an event without a category, a name or arguments")
    return Event(
        *texts,
        start,
        start + _ns(event.get("dur", 0)),
        _number(event["pid"]),
        _number(event["tid"]),
        args,
    )


def _ns(microseconds: str | int) -> int:
    try:
        found = Decimal(microseconds) * 1000
        if abs(found) < FURTHEST:
            return int(found.to_integral_value())
    except (InvalidOperation, OverflowError):
        pass
    raise ValueError(f"{microseconds!r:.40} is no time")


def _number(value: Any) -> int:
    """Kineto gives some of its own tracks names for ids."""
    return value if isinstance(value, int) and 0 <= value < 2**31 else -1
