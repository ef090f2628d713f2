"""The device's activities that the window's own API calls launched."""

import re
from dataclasses import dataclass

import numpy as np

from bench.trace.database import LATEST, Export
from bench.trace.intervals import Times
from bench.trace.model import Activities, Kind
from bench.trace.window import ID_BITS, ID_MASK, RUNTIME, Window

MEMCPY = "CUPTI_ACTIVITY_KIND_MEMCPY"
KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"
MEMSET = "CUPTI_ACTIVITY_KIND_MEMSET"
GRAPH = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
TABLES = (MEMCPY, KERNEL, MEMSET, GRAPH)

# CUpti_ActivityMemcpyKind, for exports that carry no ENUM_ table.
COPY_KINDS = {
    1: "HTOD",
    2: "DTOH",
    3: "HTOA",
    4: "ATOH",
    5: "ATOA",
    6: "ATOD",
    7: "DTOA",
    8: "DTOD",
    9: "HTOH",
    10: "PTOP",
}
MEMORY_KINDS = {0: "PAGEABLE", 1: "PINNED", 2: "DEVICE"}

# Names of what has none in StringIds, far above its ids.
NAME_MASK = (1 << 32) - 1
DEVICE_COPY, MEMSET_NAME, GRAPH_NAME = NAME_MASK - 1, NAME_MASK - 2, NAME_MASK - 3
GIVEN_NAMES = {
    NAME_MASK: "(no name)",
    DEVICE_COPY: "device-to-device copy",
    MEMSET_NAME: "memset",
    GRAPH_NAME: "CUDA graph",
}

FOREVER = LATEST


@dataclass(frozen=True)
class Calls:
    """API calls of the window's thread that start in the window, one per correlation id, ascending by it."""

    correlation: Times
    end: Times
    batch: Times


def read_activities(export: Export, window: Window) -> Activities:
    """Raise TraceError for a missing table, an unknown enum, and for activities that never ended."""
    calls = _read_calls(export, window)
    parts = [_read_table(export, table, window, calls) for table in TABLES if export.has(table)]
    return Activities(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _read_calls(export: Export, window: Window) -> Calls:
    if not export.filled(RUNTIME):
        export.fail(
            f"no CUDA API call in this trace: table {RUNTIME} is missing or empty", "trace with nsys -t cuda,nvtx"
        )
    export.need(RUNTIME, "start", "end", "correlationId", "globalTid")
    # A call that never returned has no end.
    correlation, start, end = export.integers(
        f"""SELECT correlationId, start, ifnull(end, {FOREVER}) FROM {RUNTIME}
            WHERE globalTid = ? AND start >= ? AND start < ? AND correlationId IS NOT NULL""",
        (window.global_tid, window.start, window.end),
    )
    if not len(start):
        export.fail("no CUDA API call inside the window")
    if (correlation[1:] <= correlation[:-1]).any():
        # Of calls nested in each other under one id the outermost counts: the one that starts first.
        order = np.lexsort((-end, start, correlation))
        order = order[np.concatenate(([True], np.diff(correlation[order]) != 0))]
        correlation, start, end = correlation[order], start[order], end[order]
    batch = np.searchsorted(window.batch_start, start, side="right") - 1
    outside = (batch < 0) | (start >= window.batch_end[batch])
    return Calls(correlation, end, np.where(outside, -1, batch))


def _read_table(export: Export, table: str, window: Window, calls: Calls) -> tuple[Times, ...]:
    export.need(table, "start", "end", "correlationId", "deviceId")
    copies = table == MEMCPY
    extra = ""
    if copies:
        export.need(table, "bytes", "copyKind")
        stream, source, target = (
            f"ifnull({column}, -1)" if export.has(table, column) else "-1"
            for column in ("streamId", "srcKind", "dstKind")
        )
        extra = f", bytes, copyKind, {stream}, {source}, {target}"
    # Device and name travel in one integer: every column costs a tenth of a second per million rows.
    start, end, correlation, label, *rest = export.integers(
        f"""SELECT start, ifnull(end, start - 1), correlationId,
                   deviceId << 32 | ({_name(export, table)} & {NAME_MASK}) {extra}
            FROM {table} WHERE correlationId IS NOT NULL AND {_process_clause(export, table)}""",
        (window.pid,),
    )
    call = np.searchsorted(calls.correlation, correlation)
    call[call == len(calls.correlation)] = 0
    kept = np.flatnonzero(calls.correlation[call] == correlation)
    call, start, end, label = call[kept], start[kept], end[kept], label[kept]
    _check_times(export, table, start, end)
    device, name = label >> 32, label & NAME_MASK
    nothing = np.full(len(kept), -1, np.int64)
    if not copies:
        kind, size, stream_id, host = np.full(len(kept), int(Kind.COMPUTE), np.int64), nothing + 1, nothing, nothing
    else:
        size, copy_kind, stream_id, source_kind, target_kind = (column[kept] for column in rest)
        kind = _copy_classes(export, copy_kind)
        host = np.select([kind == Kind.H2D, kind == Kind.D2H], [source_kind, target_kind], -1)
        if len(size) and size.min() < 0:
            export.fail("a copy has a negative number of bytes")
    columns = (start, end, kind, size, calls.end[call], calls.batch[call], device, name, stream_id, host)
    if copies and (kind < 0).any():  # host to host: the device has no part in it
        columns = tuple(column[kind >= 0] for column in columns)
    return columns


def _copy_classes(export: Export, copy_kind: Times) -> Times:
    names = export.enum("ENUM_CUDA_MEMCPY_OPER", COPY_KINDS)
    result = np.full(len(copy_kind), -1, np.int64)
    for value in np.unique(copy_kind).tolist():
        kind = _copy_class(names.get(value, ""))
        if kind is None:
            export.fail(
                f"unknown copyKind {value} ({names.get(value, 'not in ENUM_CUDA_MEMCPY_OPER')})",
                "export with the nsys that made the trace, or report this export",
            )
        result[copy_kind == value] = kind
    return result


def _copy_class(name: str) -> int | None:
    """Kind of a copy by the name of its enum value (arrays are device memory); -1 host to host; None unknown."""
    match = re.search(r"([HDAP])TO([HDAP])$", name.upper())
    if match is None:
        return None
    match match[1] == "H", match[2] == "H":
        case True, False:
            return Kind.H2D
        case False, True:
            return Kind.D2H
        case False, False:
            return Kind.COMPUTE
    return -1


def _check_times(export: Export, table: str, start: Times, end: Times) -> None:
    unfinished = int((end < start).sum())
    if unfinished:
        export.fail(
            f"{unfinished} of {len(start)} activities of the window have no end ({table})",
            "the run was cut short, or the profiler lost records: measure the cell again",
        )
    if len(start) and (start.min() <= -LATEST or end.max() >= LATEST):
        export.fail(f"times beyond +-2^61 ns in {table}", "the export is damaged: export the trace again")


def _name(export: Export, table: str) -> str:
    given = {MEMCPY: DEVICE_COPY, MEMSET: MEMSET_NAME, GRAPH: GRAPH_NAME}
    if table in given:
        return str(given[table])
    columns = [column for column in ("shortName", "demangledName", "mangledName") if export.has(table, column)]
    return f"ifnull({columns[0]}, -1)" if columns else "-1"


def _process_clause(export: Export, table: str) -> str:
    """SQL condition with one parameter, the PID. Without globalPid the ids of two processes cannot be told apart."""
    if export.has(table, "globalPid"):
        return f"(globalPid >> {ID_BITS} & {ID_MASK}) = ?"
    pids = export.rows(f"SELECT DISTINCT globalTid >> {ID_BITS} & {ID_MASK} FROM {RUNTIME} WHERE globalTid IS NOT NULL")
    if len(pids) > 1:
        export.fail(
            f"{len(pids)} processes in this trace, and {table} has no globalPid to tell them apart",
            "export it with a newer nsys, or trace one process",
        )
    return "? IS NOT NULL"
