"""A trace of torch.profiler as an export in the nsys schema, so that one reader serves both profilers.

On the cpu device there is no device activity to record. There the operators are the activities: what copies inside the
test_h2d_ and test_d2h_ ranges, and the outermost operators inside test_compute_, each launched by a call of its own
that starts with it. So copies and bytes are real, and idle time is the time the CPU spends between operators.
"""

import gzip
import json
import math
import re
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from bench.errors import TraceError
from bench.storage import open_regular
from bench.trace import export as schema
from bench.trace.export import KERNEL, MEMCPY, MEMSET, RUNTIME
from bench.trace.window import STAGE

# Read at once; a run's own trace has a hundredth of this.
MOST_BYTES = 512 << 20
# ns; what is further off is not a time, and does not fit an export.
FURTHEST = 2**61

API_CALLS = ("cuda_runtime", "cuda_driver")
DEVICE_WORK = ("gpu_memcpy", "gpu_memset", "kernel")
# With enable_cuda_sync_events. The name of an event -> CUpti_ActivitySynchronizationType.
SYNCHRONIZATION = "cuda_sync"
SYNC_KINDS = {"Event Sync": 1, "Stream Wait Event": 2, "Stream Sync": 3, "Context Sync": 4}
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


@dataclass(frozen=True)
class Event:
    """A complete event, times in ns. pid, tid: of CPU events ids that fit an export; of events of a GPU meaningless."""

    category: str
    name: str
    start: int
    end: int
    pid: int
    tid: int
    args: dict[str, Any]

    def arg(self, key: str) -> Any:
        """Raise TraceError if the event lacks it."""
        if key not in self.args:
            raise TraceError(f"{self.category} {self.name!r:.80} has no {key}")
        return self.args[key]


@dataclass(frozen=True)
class ChromeTrace:
    """device_names: by number; None for a device without a name."""

    events: list[Event]
    device_names: dict[int, str | None]


class Ids:
    """Ids of processes and threads that fit the 24 bits of an export: larger ones and texts get free numbers."""

    def __init__(self) -> None:
        self._given: dict[Any, int] = {}

    def __getitem__(self, value: Any) -> int:
        if isinstance(value, str) and value.isdecimal() and len(value) < 20:
            value = int(value)
        if isinstance(value, int) and 0 <= value < 1 << 23:
            return value
        if not isinstance(value, int | str | float):
            raise TypeError(f"{value!r:.40} is not an id")
        return self._given.setdefault(value, (1 << 23) + len(self._given))


class Strings:
    """StringIds, filled as names come up."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def id(self, text: str) -> int:
        return self._ids.setdefault(text, len(self._ids) + 1)

    def rows(self) -> list[tuple[int, str]]:
        return [(number, text) for text, number in self._ids.items()]


def read_chrome_trace(path: Path | str) -> ChromeTrace:
    """Read .json or .json.gz as Kineto writes it. Raise TraceError if it is something else."""
    path = Path(path)
    try:
        with open_regular(path) as file:
            packed = file.read(2) == schema.GZIP_MAGIC
        with gzip.open(path) if packed else path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise TraceError(f"larger than {MOST_BYTES} bytes; that is not a trace of a run", str(path))
        # Times are us with three decimals: as floats they would lose ns after 104 days of uptime.
        document = json.loads(raw, parse_float=str)
        if not isinstance(document, dict) or "traceEvents" not in document:
            what = "a list of events" if isinstance(document, list) else "no traceEvents"
            raise TraceError(
                f"{what}: torch.profiler writes an object with traceEvents and deviceProperties",
                str(path),
                "give the file that export_chrome_trace wrote",
            )
        ids = Ids()
        complete = [event for event in document["traceEvents"] if event.get("ph") == "X" and "cat" in event]
        events = [_event(event, ids) for event in complete if event["cat"] != "Trace"]
        devices = {int(gpu["id"]): _name(gpu) for gpu in document.get("deviceProperties", [])}
    except FileNotFoundError:
        raise TraceError("torch.profiler left no trace", str(path), "read the log of the run") from None
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TraceError(f"not a trace of torch.profiler: {_fault(error)}", str(path)) from None
    return ChromeTrace(events, devices)


def _fault(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _event(event: dict[str, Any], ids: Ids) -> Event:
    start = _ns(event["ts"])
    category, name, args = event["cat"], event["name"], event.get("args", {})
    if not isinstance(category, str) or not isinstance(name, str) or not isinstance(args, dict):
        raise TypeError("an event without a category, a name or arguments")
    return Event(category, name, start, start + _ns(event.get("dur", 0)), ids[event["pid"]], ids[event["tid"]], args)


def _name(gpu: dict[str, Any]) -> str | None:
    name = gpu.get("name")
    return str(name) if name else None


def _ns(microseconds: str | int) -> int:
    try:
        found = Decimal(microseconds) * 1000
        if abs(found) < FURTHEST:
            return int(found.to_integral_value())
    except (InvalidOperation, OverflowError):
        pass
    raise ValueError(f"{microseconds!r:.40} is not a time")


def convert(trace: Path | str, sqlite: Path | str) -> None:
    """Write the export whole or not at all. Raise TraceError if the trace cannot be read or lacks shapes."""
    chrome = read_chrome_trace(trace)
    strings = Strings()
    on_gpu = any(event.category in (*API_CALLS, *DEVICE_WORK) for event in chrome.events)
    try:
        rows = _gpu_rows(chrome, strings) if on_gpu else _cpu_rows(chrome, strings)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TraceError(f"an event of torch.profiler is malformed: {_fault(error)}", str(trace)) from None
    except TraceError as error:
        raise TraceError(error.what, str(trace), error.advice) from None
    annotations = [event for event in chrome.events if event.category == "user_annotation"]
    tables = {
        schema.NVTX: [(e.start, e.end, schema.PUSH_POP, e.name, _thread(e), None) for e in annotations],
        **rows,
        schema.STRINGS: strings.rows(),
        "META_DATA_EXPORT": [("EXPORT_PRODUCT_NAME", schema.TORCH)],
        **schema.ENUMS,
    }
    try:
        schema.write_export(sqlite, tables)
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        raise TraceError(f"an event of torch.profiler is malformed: {error}", str(trace)) from None


def _thread(event: Event) -> int:
    return schema.global_tid(event.pid, event.tid)


def _gpu_rows(chrome: ChromeTrace, strings: Strings) -> Rows:
    rows: Rows = defaultdict(list)
    calls = [e for e in chrome.events if e.category in API_CALLS and "correlation" in e.args]
    work = [e for e in chrome.events if e.category in DEVICE_WORK]
    _check_not_rocm(calls, work)
    if not calls:
        raise TraceError("torch.profiler recorded no CUDA API call", advice="use profiler: nsys, or measure again")
    # GPU events name their device where CPU events name their process; Kineto traces one process.
    process = schema.global_tid(calls[0].pid, 0)
    for e in calls:
        rows[RUNTIME].append((e.start, e.end, 0, _thread(e), e.args["correlation"], strings.id(e.name), 0))
    for e in work:
        context = e.args.get("context", 1)
        head = (e.start, e.end, e.arg("device"), context, e.arg("stream"), e.arg("correlation"), process)
        if e.category == "gpu_memcpy":
            rows[MEMCPY].append((*head, e.arg("bytes"), *_copy_kinds(e.name)))
        elif e.category == "gpu_memset":
            rows[MEMSET].append((*head, e.args.get("bytes", 0)))
        else:
            rows[KERNEL].append((*head, strings.id(e.name)))
    for e in chrome.events:
        if e.category == SYNCHRONIZATION:
            _add_synchronization(rows, e, process)
    devices = sorted(chrome.device_names.items())
    rows["TARGET_INFO_GPU"] = [(number, name, None, None) for number, name in devices]
    rows["TARGET_INFO_CUDA_CONTEXT_INFO"] = [(NULL_STREAM, calls[0].pid, number, 1) for number, _ in devices]
    return rows


def _add_synchronization(rows: Rows, event: Event, process: int) -> None:
    """An event is named by the correlation id of its record, which may be out of the trace (-1)."""
    args = event.args
    kind, record = SYNC_KINDS.get(event.name), args.get("wait_on_cuda_event_record_corr_id", -1)
    if kind is None or "correlation" not in args:
        return
    context = args.get("context", 1)
    where = (context, args.get("stream", -1), args["correlation"], process)
    rows[schema.SYNCHRONIZATION].append((*where, kind, record))
    if record >= 0 and kind in (1, 2):
        rows[schema.EVENT].append((context, args.get("wait_on_stream", -1), record, process, record))


def _check_not_rocm(calls: list[Event], work: list[Event]) -> None:
    """ROCm's events have the categories of CUDA's; its copies have neither a direction nor bytes."""
    copies = [e for e in work if e.category == "gpu_memcpy"]
    without = [e for e in copies if "bytes" not in e.args]
    if without or any(e.name.startswith("hip") for e in calls):
        lacks = f"{len(without)} of {len(copies)} copies have no bytes" if without else "its API calls are those of HIP"
        raise TraceError(
            f"a trace of ROCm (AMD GPU): {lacks}", advice="only traces of CUDA and of the cpu device can be analyzed"
        )


def _copy_kinds(name: str) -> tuple[int, int | None, int | None]:
    """copyKind, srcKind, dstKind of, for instance, 'Memcpy HtoD (Pinned -> Device)'."""
    found = re.match(r"Memcpy (\w)to(\w)(?: \((\w+) -> (\w+)\))?", name)
    if found is None:
        raise TraceError(f"a copy of unknown kind: {name!r:.80}", advice="use profiler: nsys")
    direction = f"{found[1]}TO{found[2]}".upper()
    kinds = {text.rsplit("_", 1)[1]: number for number, text, _ in schema.ENUMS["ENUM_CUDA_MEMCPY_OPER"]}
    memory = {label.lower(): number for number, _, label in schema.ENUMS["ENUM_CUDA_MEM_KIND"]}
    if direction not in kinds:
        raise TraceError(f"a copy of unknown kind: {name!r:.80}", advice="use profiler: nsys")
    source, target = (memory.get((found[side] or "").lower()) for side in (3, 4))
    return kinds[direction], source, target


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
        raise TraceError(
            "no GPU activity, and no operator inside ranges named test_h2d_batch_, test_compute_batch_ or "
            "test_d2h_batch_",
            advice="trace a run of this project's workload; its ranges are those of record_function",
        )
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
                stage = event.name.split("_")[1]
                stage_end, reach = event.end, event.start
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
    return math.prod(map(int, dims)) * ITEM_BYTES[kind]
