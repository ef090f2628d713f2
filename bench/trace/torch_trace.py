"""torch.profiler trace to nsys schema."""

import gzip
import json
import math
import re
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from bench.errors import TraceError
from bench.trace import export as schema
from bench.trace.export import KERNEL, MEMCPY, MEMSET, RUNTIME
from bench.trace.reader import STAGE

# --- chrome
# Events of a Chrome trace as torch.profiler writes it (Kineto), times in integer ns.

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


# --- torch_trace
# A trace of torch.profiler as an export in the nsys schema, so that one reader serves both profilers.
#
# On the cpu device there is no device activity to record. There the operators are the activities: what copies inside
# test_h2d_ and test_d2h_ ranges, and the outermost operators inside test_compute_, each launched by a call of its own
# that starts with it. So copies and bytes are real, and idle time is the time the CPU spends between operators.

API_CALLS = ("cuda_runtime", "cuda_driver")
DEVICE_WORK = ("gpu_memcpy", "gpu_memset", "kernel")
CPU_DEVICE = "CPU device: no GPU was measured"

# Kineto names the legacy default stream 7, as CUPTI does.
NULL_STREAM = 7

COPY = "aten::copy_"
# Names of c10::ScalarType as record_shapes writes them.
ITEM_BYTES = {
    "float": 4, "double": 8, "c10::Half": 2, "c10::BFloat16": 2, "int": 4, "long int": 8, "long": 8, "short int": 2,
    "short": 2, "signed char": 1, "unsigned char": 1, "bool": 1,
}  # fmt: skip

Rows = dict[str, list[tuple[Any, ...]]]


class Strings:
    """StringIds, filled as names come up."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def id(self, text: str) -> int:
        return self._ids.setdefault(text, len(self._ids) + 1)

    def rows(self) -> list[tuple[int, str]]:
        return [(number, text) for text, number in self._ids.items()]


def convert(trace: Path | str, sqlite: Path | str) -> None:
    """Write the export whole or not at all. Raise TraceError if the trace cannot be read or lacks shapes."""
    chrome = read_chrome_trace(trace)
    strings = Strings()
    on_gpu = any(event.category in (*API_CALLS, *DEVICE_WORK) for event in chrome.events)
    try:
        rows = _gpu_rows(chrome, strings) if on_gpu else _cpu_rows(chrome, strings)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TraceError(f"an event of torch.profiler lacks what is expected of it: {error!r}", str(trace)) from None
    except TraceError as error:
        raise TraceError(error.what, str(trace), error.advice) from None
    annotations = [event for event in chrome.events if event.category == "user_annotation"]
    tables = {
        schema.NVTX: [(e.start, e.end, schema.PUSH_POP, e.name, _thread(e), None) for e in annotations],
        **rows,
        "StringIds": strings.rows(),
        "META_DATA_EXPORT": [("EXPORT_PRODUCT_NAME", "torch.profiler")],
        **schema.ENUMS,
    }
    try:
        schema.write_export(sqlite, tables)
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        raise TraceError(f"an event of torch.profiler is none: {error}", str(trace)) from None


def _thread(event: Event) -> int:
    return schema.global_tid(event.pid, event.tid)


def _gpu_rows(chrome: ChromeTrace, strings: Strings) -> Rows:
    rows: Rows = defaultdict(list)
    calls = [e for e in chrome.events if e.category in API_CALLS and "correlation" in e.args]
    if not calls:
        raise TraceError("torch.profiler recorded no CUDA API call", advice="use profiler: nsys, or measure again")
    # GPU events name their device where CPU events name their process; Kineto traces one process.
    process = schema.global_tid(calls[0].pid, 0)
    for e in calls:
        rows[RUNTIME].append((e.start, e.end, 0, _thread(e), e.args["correlation"], strings.id(e.name), 0))
    for e in chrome.events:
        if e.category not in DEVICE_WORK:
            continue
        args = e.args
        head = (e.start, e.end, args["device"], args.get("context", 1), args["stream"], args["correlation"], process)
        if e.category == "gpu_memcpy":
            rows[MEMCPY].append((*head, args["bytes"], *_copy_kinds(e.name)))
        elif e.category == "gpu_memset":
            rows[MEMSET].append((*head, args.get("bytes", 0)))
        else:
            rows[KERNEL].append((*head, strings.id(e.name)))
    devices = sorted(chrome.device_names.items())
    rows["TARGET_INFO_GPU"] = [(number, name, None, None) for number, name in devices]
    rows["TARGET_INFO_CUDA_CONTEXT_INFO"] = [(NULL_STREAM, calls[0].pid, number, 1) for number, _ in devices]
    return rows


def _copy_kinds(name: str) -> tuple[int, int | None, int | None]:
    """copyKind, srcKind, dstKind of, for instance, 'Memcpy HtoD (Pinned -> Device)'."""
    found = re.match(r"Memcpy (\w)to(\w)(?: \((\w+) -> (\w+)\))?", name)
    if found is None:
        raise TraceError(f"a copy of unknown kind: {name!r}", advice="use profiler: nsys")
    direction = f"{found[1]}TO{found[2]}".upper()
    kinds = {text.rsplit("_", 1)[1]: number for number, text, _ in schema.ENUMS["ENUM_CUDA_MEMCPY_OPER"]}
    memory = {label.lower(): number for number, _, label in schema.ENUMS["ENUM_CUDA_MEM_KIND"]}
    if direction not in kinds:
        raise TraceError(f"a copy of unknown kind: {name!r}", advice="use profiler: nsys")
    return kinds[direction], *(memory.get((found[side] or "").lower()) for side in (3, 4))


def _cpu_rows(chrome: ChromeTrace, strings: Strings) -> Rows:
    rows: Rows = defaultdict(list)
    for correlation, (stage, op) in enumerate(_stage_operators(chrome.events), 1):
        rows[RUNTIME].append((op.start, op.start, 0, _thread(op), correlation, strings.id(op.name), 0))
        head = (op.start, op.end, 0, 0, 0, correlation, schema.global_tid(op.pid, 0))
        if stage == "compute":
            rows[KERNEL].append((*head, strings.id(op.name)))
        else:
            kind = schema.H2D if stage == "h2d" else schema.D2H
            rows[MEMCPY].append((*head, _copied_bytes(op), kind, None, None))
    if not rows:
        raise TraceError("no operator inside the ranges of the stages", advice="trace a run of this project's workload")
    return {**rows, "TARGET_INFO_GPU": [(0, CPU_DEVICE, None, None)]}


def _stage_operators(events: list[Event]) -> Iterator[tuple[str, Event]]:
    """(stage, operator): the copies of the copy stages and the outermost operators of the compute stage."""
    threads: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event.category == "cpu_op" or (event.category == "user_annotation" and STAGE.fullmatch(event.name)):
            threads[_thread(event)].append(event)
    for thread in threads.values():
        stage, stage_end, reach = "", 0, 0
        # At one start the range comes before its first operator, an operator before those nested in it.
        for event in sorted(thread, key=lambda e: (e.start, e.category == "cpu_op", -e.end)):
            if event.category == "user_annotation":
                stage, stage_end, reach = STAGE.fullmatch(event.name)[1], event.end, event.start
            elif event.start < stage_end and event.start >= reach and (stage == "compute" or event.name == COPY):
                reach = event.end
                yield stage, event


def _copied_bytes(op: Event) -> int:
    """Bytes that aten::copy_(self, src) reads."""
    try:
        dims, kind = op.args["Input Dims"][1], op.args["Input type"][1]
    except (KeyError, IndexError):
        raise TraceError("copies without sizes in this trace", advice="profile with record_shapes=True") from None
    if kind not in ITEM_BYTES:
        raise TraceError(f"a copy of elements of unknown size: {kind!r}")
    return math.prod(_dims(dims)) * ITEM_BYTES[kind]


def _dims(dims: Iterable[Any]) -> list[int]:
    return [int(size) for size in dims]
