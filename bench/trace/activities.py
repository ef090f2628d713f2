"""The device's activities that the window's own API calls launched."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.trace.database import LATEST, Export
from bench.trace.intervals import Times
from bench.trace.lookup import find
from bench.trace.model import Activities, Kind
from bench.trace.pages import NULL
from bench.trace.schema import GRAPH, KERNEL, MEMCPY, MEMSET, RUNTIME
from bench.trace.window import ID_BITS, ID_MASK, Window

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

# Names of what has none in StringIds, beside its ids, which are not negative.
NO_NAME = -1
TABLE_NAMES = {MEMCPY: -2, MEMSET: -3, GRAPH: -4}
GIVEN_NAMES = {NO_NAME: "(no name)", -2: "device-to-device copy", -3: "memset", -4: "CUDA graph"}

FOREVER = LATEST


@dataclass(frozen=True)
class Calls:
    """API calls of the window's thread that start in the window, one per correlation id."""

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
    correlation, start, end, thread = export.integers(RUNTIME, "correlationId", "start", "end", "globalTid")
    inside = (thread == window.global_tid) & (start >= window.start) & (start < window.end) & (correlation != NULL)
    if not inside.all():
        correlation, start, end = correlation[inside], start[inside], end[inside]
    end[end == NULL] = FOREVER  # a call that never returned
    if not len(start):
        export.fail("no CUDA API call inside the window")
    if (find(correlation, correlation) != np.arange(len(correlation))).any():
        # Of calls nested in each other under one id the outermost counts: the one that starts first.
        order = np.lexsort((-end, start, correlation))
        order = order[np.concatenate(([True], np.diff(correlation[order]) != 0))]
        correlation, start, end = correlation[order], start[order], end[order]
    batch = np.searchsorted(window.batch_start, start, side="right") - 1
    outside = (batch < 0) | (start >= window.batch_end[batch])
    return Calls(correlation, end, np.where(outside, -1, batch))


def _read_table(export: Export, table: str, window: Window, calls: Calls) -> tuple[Times, ...]:
    correlation, start, end, device = export.integers(table, "correlationId", "start", "end", "deviceId")
    call = find(calls.correlation, correlation)
    kept = np.flatnonzero(call >= 0)
    kept = kept[_of_process(export, table, window.pid, kept)]
    call, start, end = call[kept], start[kept], end[kept]
    _check_times(export, table, start, end)
    name = _names(export, table, kept)
    common = calls.end[call], calls.batch[call], device[kept], name
    if table != MEMCPY:
        nothing = np.full(len(kept), -1, np.int64)
        return start, end, np.full(len(kept), int(Kind.COMPUTE)), nothing + 1, *common, nothing, nothing
    size, copy_kind = (column[kept] for column in export.integers(table, "bytes", "copyKind"))
    if len(size) and size.min() < 0:
        export.fail("a copy has a negative number of bytes, or none")
    kind = _copy_classes(export, copy_kind)
    stream, source, target = (_optional(export, table, column, kept) for column in ("streamId", "srcKind", "dstKind"))
    host = np.select([kind == Kind.H2D, kind == Kind.D2H], [source, target], -1)
    columns = start, end, kind, size, *common, stream, host
    # Host to host: the device has no part in it.
    return tuple(column[kind >= 0] for column in columns) if (kind < 0).any() else columns


def _optional(export: Export, table: str, column: str, kept: NDArray[np.intp]) -> Times:
    """A column's values, -1 where the export does not say."""
    if not export.has(table, column):
        return np.full(len(kept), -1, np.int64)
    values = export.integers(table, column)[0][kept]
    return np.where(values == NULL, -1, values)


def _names(export: Export, table: str, kept: NDArray[np.intp]) -> Times:
    if table in TABLE_NAMES:
        return np.full(len(kept), TABLE_NAMES[table], np.int64)
    columns = [column for column in ("shortName", "demangledName", "mangledName") if export.has(table, column)]
    return _optional(export, table, columns[0] if columns else "shortName", kept)


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
    if len(start) and start.min() == NULL:
        export.fail(
            f"an activity of the window has no start ({table})", "the export is damaged: export the trace again"
        )
    unfinished = int((end < start).sum())
    if unfinished:
        export.fail(
            f"{unfinished} of {len(start)} activities of the window have no end ({table})",
            "the run was cut short, or the profiler lost records: measure the cell again",
        )
    if len(start) and (start.min() <= -LATEST or end.max() >= LATEST):
        export.fail(f"times beyond +-2^61 ns in {table}", "the export is damaged: export the trace again")


def _of_process(export: Export, table: str, pid: int, kept: NDArray[np.intp]) -> NDArray[np.intp]:
    """Which of `kept` belong to the process. Without globalPid the ids of two processes cannot be told apart."""
    if export.has(table, "globalPid"):
        owner = export.integers(table, "globalPid")[0][kept]
        return np.flatnonzero(owner >> ID_BITS & ID_MASK == pid)
    threads = export.integers(RUNTIME, "globalTid")[0]
    pids = np.unique(threads[threads != NULL] >> ID_BITS & ID_MASK)
    if len(pids) > 1:
        export.fail(
            f"{len(pids)} processes in this trace, and {table} has no globalPid to tell them apart",
            "export it with a newer nsys, or trace one process",
        )
    return np.arange(len(kept))
