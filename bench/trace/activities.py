"""The device's activities that the window's own API calls launched."""

import re
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.trace.complete import check_once, check_order, check_rates, check_times
from bench.trace.export import GRAPH, KERNEL, LATEST, MEMCPY, MEMSET, NULL, RUNTIME, STRINGS, THREAD_BITS, Export
from bench.trace.intervals import Columns, Intervals, Times, union
from bench.trace.window import Window

TABLES = (MEMCPY, KERNEL, MEMSET, GRAPH)

# API calls that launch work of the device: each successful one leaves an activity with its correlation id.
LAUNCH_CALLS = tuple(
    f"{prefix}{call}*"
    for prefix in ("cu", "cuda")
    for call in ("LaunchKernel", "LaunchCooperativeKernel", "LaunchGrid", "GraphLaunch", "Memcpy", "Memset")
)

# CUpti_ActivityMemcpyKind, for exports without ENUM_ tables.
COPY_KINDS = dict(enumerate(
    ("HTOD", "DTOH", "HTOA", "ATOH", "ATOA", "ATOD", "DTOA", "DTOD", "HTOH", "PTOP", "UVM_HTOD", "UVM_DTOH",
     "UVM_DTOD"), 1
))  # fmt: skip
MEMORY_KINDS = {0: "PAGEABLE", 1: "PINNED", 2: "DEVICE"}

# Names of what has none in StringIds, beside its ids, which are not negative.
NO_NAME, DEVICE_COPY, MEMSET_NAME, GRAPH_NAME = -1, -2, -3, -4
GIVEN_NAMES = {
    NO_NAME: "(no name)", DEVICE_COPY: "device-to-device copy", MEMSET_NAME: "memset", GRAPH_NAME: "CUDA graph"
}  # fmt: skip
NAMES = ("shortName", "demangledName", "mangledName")
# Columns that not every version of nsys writes, beside globalPid.
OPTIONAL = {
    MEMCPY: ("streamId", "srcKind", "dstKind"),
    KERNEL: ("streamId", "contextId"),
    MEMSET: (),
    GRAPH: (),
}
TABLE_NAMES = {MEMCPY: DEVICE_COPY, MEMSET: MEMSET_NAME, GRAPH: GRAPH_NAME}


class Kind(IntEnum):
    """What an activity counts as (docs/metrics.md): H, D or K."""

    H2D = 0
    D2H = 1
    COMPUTE = 2


# CopyColumns that are neither H, D nor K.
HOST_COPY, UNIFIED_COPY = -1, -2


@dataclass(frozen=True)
class Activities(Columns):
    """In a Trace in the order of their start. Times in ns, int64, end >= start.

    call_end: when the API call that launched the activity returned. batch: index into the window's batches, -1 if
    launched between two batches. kind: values of Kind. name: key of Trace.names.
    """

    start: Times
    end: Times
    call_end: Times
    batch: Times
    name: Times
    kind: NDArray[np.int8]

    def of(self, kind: Kind) -> NDArray[np.intp]:
        return np.flatnonzero(self.kind == kind)

    @cached_property
    def unions(self) -> dict[Kind, Intervals]:
        """When at least one activity of a kind ran."""
        chosen = {kind: self.of(kind) for kind in Kind}
        return {kind: union(self.start[places], self.end[places]) for kind, places in chosen.items()}


@dataclass(frozen=True)
class CopyColumns(Columns):
    """The copies of the window, also those that are neither H, D nor K.

    kind: values of Kind, HOST_COPY or UNIFIED_COPY. stream, host_memory: -1 where the export does not say.
    """

    kind: NDArray[np.int8]
    bytes: Times
    stream: Times
    host_memory: Times


@dataclass(frozen=True)
class Calls(Columns):
    """API calls of the window's process that start in the window, one for each correlation id, in ascending order.

    own: whether the window's thread made the call. launch: whether it launched work of the device, successfully.
    """

    correlation: Times
    start: Times
    end: Times
    batch: Times
    name: Times
    own: NDArray[np.bool_]
    launch: NDArray[np.bool_]

    def find(self, correlation: Times) -> NDArray[np.intp]:
        """Index of the call with each id, -1 for none."""
        place = np.minimum(np.searchsorted(self.correlation, correlation), len(self.correlation) - 1)
        place[self.correlation[place] != correlation] = -1
        return place


@dataclass(frozen=True)
class Part:
    """The activities of one table. call: index of the call of each, also of the copies that are not activities.

    copies: empty for tables of other activities. other_threads: activities that other threads of the process launched.
    """

    activities: Activities
    copies: CopyColumns
    call: NDArray[np.intp]
    devices: frozenset[int]
    other_threads: int


def read_calls(export: Export, window: Window) -> Calls:
    if not export.filled(RUNTIME):
        export.fail(
            f"no CUDA API call in this trace: table {RUNTIME} is missing or empty", "trace with nsys -t cuda,nvtx"
        )
    names = launch_names(export)
    parts = []
    for rows in export.integers(RUNTIME, ("correlationId", "start", "end", "globalTid"), ("nameId", "returnValue")):
        inside = (rows["start"] >= window.start) & (rows["start"] < window.end) & (rows["correlationId"] != NULL)
        chosen = np.flatnonzero(inside & (rows["globalTid"] >> THREAD_BITS == window.process))
        rows = {column: values[chosen] for column, values in rows.items()}
        launch = np.isin(rows["nameId"], names) & np.isin(rows["returnValue"], (0, -1))
        own = rows["globalTid"] == window.global_tid
        start, end = rows["start"], np.where(rows["end"] == NULL, LATEST, rows["end"])  # NULL: it never returned
        batch = np.searchsorted(window.batch_start, start, side="right") - 1
        batch[(batch < 0) | (start >= window.batch_end[batch])] = -1
        parts.append(Calls(rows["correlationId"], start, end, batch, rows["nameId"], own, launch))
    calls = Calls.joined(parts)
    if not calls.own.any():
        export.fail("no CUDA API call inside the window")
    ids = calls.correlation
    if (ids[1:] > ids[:-1]).all():
        return calls
    order = np.argsort(ids, kind="stable")
    if (np.diff(ids[order]) == 0).any():
        # Of calls nested in each other under one id the outermost counts: the one that starts first.
        order = np.lexsort((-calls.end, calls.start, ~calls.own, ids))
        order = order[np.diff(ids[order], prepend=NULL) != 0]
        calls = replace(calls, launch=np.isin(ids, ids[calls.launch]))
    return calls.at(order)


def launch_names(export: Export) -> list[int]:
    if not export.has(STRINGS, "id", "value"):
        return []
    fits = " OR ".join("value GLOB ?" for _ in LAUNCH_CALLS)
    found = export.rows(f"SELECT id FROM {STRINGS} WHERE {fits}", LAUNCH_CALLS)
    return [key for (key,) in found if isinstance(key, int)]


def read_table(export: Export, table: str, window: Window, calls: Calls) -> Part:
    """Raise TraceError for unknown enums, for activities without an end, and for what cannot be true (complete.py)."""
    rows, other_threads = _launched_rows(export, table, window, calls)
    start, end, call = rows["start"], rows["end"], rows["call"]
    check_times(export, table, start, end, calls.start[call])
    check_once(export, table, call, start, end)
    if table == KERNEL:
        check_order(
            export, call, calls.start[call], start, end, (rows["deviceId"], rows["contextId"], rows["streamId"])
        )
        name = rows["name"]
    else:
        name = np.full(len(call), TABLE_NAMES[table])
    if table == MEMCPY:
        kind = copy_classes(export, rows["copyKind"])
        host = np.select([kind == Kind.H2D, kind == Kind.D2H], [rows["srcKind"], rows["dstKind"]], -1)
        copies = CopyColumns(kind, rows["bytes"], rows["streamId"], host)
        _check_copies(export, copies, end - start)
    else:
        kind = np.full(len(call), Kind.COMPUTE, np.int8)
        copies = CopyColumns(kind[:0], start[:0], start[:0], start[:0])
    activities = Activities(start, end, calls.end[call], calls.batch[call], name, kind)
    device = rows["deviceId"]
    if not (kind >= 0).all():
        counted = np.flatnonzero(kind >= 0)
        activities, device = activities.at(counted), device[counted]
    return Part(activities, copies, call, frozenset(np.unique(device).tolist()), other_threads)


def _launched_rows(
    export: Export, table: str, window: Window, calls: Calls
) -> tuple[dict[str, NDArray[np.int64]], int]:
    """(columns of the rows that the window's thread launched, number of rows that other threads launched)"""
    required = ("correlationId", "start", "end", "deviceId", *(("bytes", "copyKind") if table == MEMCPY else ()))
    name = next((column for column in NAMES if export.has(table, column)), NAMES[0])
    process = window.process
    if not export.has(table, "globalPid"):
        _check_one_process(export, table)
        process = -1  # what `integers` gives for a column that does not exist
    kept = ("start", "end", "deviceId", "call", *required[4:], *OPTIONAL[table], "name")
    parts: dict[str, list[Times]] = {column: [np.empty(0, np.int64)] for column in kept}
    other_threads = 0
    for rows in export.integers(table, required, ("globalPid", *OPTIONAL[table], name)):
        call = calls.find(rows["correlationId"])
        launched = np.flatnonzero((call >= 0) & (rows["globalPid"] >> THREAD_BITS == process))
        own = launched[calls.own[call[launched]]]
        other_threads += len(launched) - len(own)
        rows |= {"call": call, "name": rows[name]}
        for column, part in parts.items():
            part.append(rows[column][own])
    return {column: np.concatenate(parts.pop(column)) for column in kept}, other_threads


def _check_one_process(export: Export, table: str) -> None:
    """Without globalPid the correlation ids of two processes cannot be distinguished."""
    processes: set[int] = set()
    for rows in export.integers(RUNTIME, ("globalTid",)):
        threads = rows["globalTid"]
        processes |= set(np.unique(threads[threads != NULL] >> THREAD_BITS).tolist())
    if len(processes) > 1:
        export.fail(
            f"{len(processes)} processes in this trace, and {table} has no globalPid to distinguish them",
            "export it with a newer nsys, or trace one process",
        )


def _check_copies(export: Export, copies: CopyColumns, duration: Times) -> None:
    if len(copies.bytes) and copies.bytes.min() < 0:
        export.fail("a copy has a negative number of bytes, or none")
    for direction in (Kind.H2D, Kind.D2H):
        chosen = copies.kind == direction
        check_rates(export, direction.name, copies.bytes[chosen], duration[chosen])


def copy_classes(export: Export, copy_kind: Times) -> NDArray[np.int8]:
    names = export.enum("ENUM_CUDA_MEMCPY_OPER", COPY_KINDS)
    result = np.full(len(copy_kind), HOST_COPY, np.int8)
    for value in np.unique(copy_kind).tolist():
        kind = _copy_class(names.get(value, ""))
        if kind is None:
            export.fail(
                f"unknown copyKind {value} ({names.get(value, 'not in ENUM_CUDA_MEMCPY_OPER')})",
                "export with the nsys that made the trace, or report this export",
            )
        result[copy_kind == value] = kind
    return result


def pageable_kinds(export: Export) -> list[int]:
    """The kinds of host memory whose copies are staged."""
    kinds = export.enum("ENUM_CUDA_MEM_KIND", MEMORY_KINDS)
    return [kind for kind, title in kinds.items() if title.upper().endswith("PAGEABLE")]


def _copy_class(name: str) -> int | None:
    """Kind of a copy by the name of its enum value (arrays are device memory); None if it is unknown."""
    match = re.search(r"(UVM_)?([HDAP])TO([HDAP])$", name.upper())
    if match is None:
        return None
    if match[1]:
        return UNIFIED_COPY
    match match[2] == "H", match[3] == "H":
        case True, False:
            return Kind.H2D
        case False, True:
            return Kind.D2H
        case False, False:
            return Kind.COMPUTE
    return HOST_COPY
