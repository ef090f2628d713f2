"""A trace of torch.profiler as an export in the nsys schema, so that one reader serves both profilers.

On the cpu device there is no device activity to record. There the operators are the activities: what copies inside the
test_h2d_ and test_d2h_ ranges, and the outermost operators inside test_compute_, each launched by a call of its own
that starts with it. So copies and bytes are real, and idle time is the time the CPU spends between operators.
"""

import math
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.trace import schema
from bench.trace.chrome import ChromeTrace, Event, read_chrome_trace
from bench.trace.errors import TraceError
from bench.trace.schema import KERNEL, MEMCPY, MEMSET, RUNTIME
from bench.trace.window import STAGE

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
