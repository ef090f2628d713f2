"""Read a trace of any program: unlike bench.trace.reader without a range, all processes, threads and GPUs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.trace.activities import (
    GIVEN_NAMES,
    GRAPH_NAME,
    MEMSET_NAME,
    NAMES,
    NO_NAME,
    UNIFIED_COPY,
    Kind,
    copy_classes,
    launch_names,
    pageable_kinds,
)
from bench.trace.export import (
    EVENT,
    GRAPH,
    KERNEL,
    MEMCPY,
    MEMSET,
    NULL,
    PID_MASK,
    RUNTIME,
    STRINGS,
    SYNCHRONIZATION,
    THREAD_BITS,
    Export,
)
from bench.trace.intervals import Times, running_end
from bench.whatif.program import Activities, Calls, Indices, Marks, Program, Work

STREAMS = "TARGET_INFO_CUDA_STREAM"
CONTEXTS = "TARGET_INFO_CUDA_CONTEXT_INFO"
PAGE_FAULTS = ("CUDA_UM_GPU_PAGE_FAULT_EVENTS", "CUDA_UM_CPU_PAGE_FAULT_EVENTS")
# CUPTI's flag of a stream that waits for the default stream, and the default stream for it.
BLOCKING_STREAM = 1
EVENT_CALLS = ("EventRecord", "StreamWaitEvent")
ALL_TABLES = (KERNEL, MEMCPY, MEMSET, GRAPH)
AGAIN = "trace the program again"


def read_program(export: Export) -> Program:
    """Raise TraceError for what is not a trace of a GPU, or cannot be true."""
    rows = _activity_rows(export)
    called = _columns(export, RUNTIME, ("start", "end", "globalTid", "correlationId"), ("nameId", "returnValue"))
    first = int(min(column.min() for column in (rows["start"], called["start"]) if len(column)))
    rows["process"] = _processes(export, rows["globalPid"], called["globalTid"])
    processes = np.unique(np.concatenate((rows["process"], called["globalTid"] >> THREAD_BITS)))
    calls, names, by_id, order = _calls(called, processes, first, export)
    process = np.searchsorted(processes, rows["process"])
    found = by_id.find(process, rows["correlationId"])
    marked = _mark_rows(export, processes, by_id, called["globalTid"])
    marked["call"] = order.outer[marked["call"]]
    streams, numbers = _streams(process, rows, marked)
    outer = np.where(found >= 0, order.outer[found], -1) if len(calls) else np.full(len(found), -1)
    activities = Activities(
        rows["start"] - first,
        rows["end"] - first,
        rows["deviceId"],
        numbers[: len(process)],
        outer,
        np.where(found >= 0, order.start[found] - first, 0) if len(calls) else outer,
        np.where(found >= 0, order.end[found] - order.start[found], 0) if len(calls) else outer,
        rows["kind"].astype(np.int8),
        rows["bytes"],
        rows["pageable"].astype(bool),
        rows["name"],
    )
    activities = activities.at(np.lexsort((activities.end, activities.start, activities.stream)))
    launches, recorded = _recorded(export, order, calls, names, activities, called)
    nulls, blocking = _stream_facts(export, streams, processes)
    return Program(
        calls=calls,
        activities=activities,
        call_names=names,
        marks=Marks(marked["call"], marked["kind"], marked["contextId"], numbers[len(process) :], marked["event"]),
        stream_context=streams[1],
        stream_process=streams[0],
        null_streams=nulls,
        blocking_streams=blocking,
        names=_kernel_names(export, activities),
        first_ns=first,
        launches=launches,
        recorded=recorded,
        managed=bool((rows["kind_of_copy"] == UNIFIED_COPY).any()) or any(map(export.filled, PAGE_FAULTS)),
        has_marks=export.filled(EVENT) or not any(one in name for one in EVENT_CALLS for name in names),
    )


def _columns(export: Export, table: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Times]:
    if not export.has(table):
        return {column: np.empty(0, np.int64) for column in (*required, *optional)}
    parts: dict[str, list[Times]] = {column: [np.empty(0, np.int64)] for column in (*required, *optional)}
    for rows in export.integers(table, required, optional):
        for column, part in parts.items():
            part.append(rows[column])
    return {column: np.concatenate(parts.pop(column)) for column in (*required, *optional)}


# Activities


def _activity_rows(export: Export) -> dict[str, Times]:
    if not any(export.has(table) for table in (*ALL_TABLES, RUNTIME, STRINGS)):
        export.fail("not an export of a trace: it has none of the tables of nsys", "give the .sqlite of nsys export")
    tables = [_table_rows(export, table) for table in ALL_TABLES if export.has(table)]
    rows = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]} if tables else {}
    if not rows or not len(rows["start"]):
        export.fail(
            "no GPU activity in this trace",
            "trace the GPU: nsys profile -t cuda,nvtx, or torch.profiler with ProfilerActivity.CUDA",
        )
    untimed = (rows["start"] == 0) & (rows["end"] == 0)
    if untimed.any():
        export.fail(
            f"{int(untimed.sum())} of {len(untimed)} activities have no time: start and end are 0",
            f"the profiler lost records: {AGAIN}",
        )
    unfinished = (rows["end"] < rows["start"]) | (rows["start"] == NULL)
    if unfinished.any():
        export.fail(
            f"{int(unfinished.sum())} of {len(unfinished)} activities have no start, or end before it",
            f"the trace was cut short or is damaged: {AGAIN}",
        )
    if max(abs(int(rows["start"].min())), int(rows["end"].max())) >= 2**61:
        export.fail("times beyond +-2^61 ns", f"the trace is damaged: {AGAIN}")
    if len(rows["bytes"]) and rows["bytes"].min() < 0:
        export.fail("a copy has a negative number of bytes, or none", f"the trace is damaged: {AGAIN}")
    return rows


def _table_rows(export: Export, table: str) -> dict[str, Times]:
    name = next((column for column in NAMES if export.has(table, column)), NAMES[0])
    copy = table == MEMCPY
    required = ("start", "end", "deviceId", "correlationId", *(("bytes", "copyKind") if copy else ()))
    optional = ("globalPid", "contextId", "streamId", *(("srcKind", "dstKind") if copy else ()))
    rows = _columns(export, table, required, (*optional, *((name,) if table == KERNEL else ())))
    count = len(rows["start"])
    kind = np.full(count, {KERNEL: Work.KERNEL, MEMSET: Work.MEMSET, GRAPH: Work.GRAPH}.get(table, Work.OTHER_COPY))
    pageable, kind_of_copy = np.zeros(count, np.int64), np.zeros(count, np.int64)
    if copy:
        kind_of_copy = copy_classes(export, rows["copyKind"]).astype(np.int64)
        kind[kind_of_copy == Kind.H2D], kind[kind_of_copy == Kind.D2H] = Work.H2D, Work.D2H
        host = np.select([kind == Work.H2D, kind == Work.D2H], [rows["srcKind"], rows["dstKind"]], -1)
        pageable = np.isin(host, pageable_kinds(export)) + 0
    return {
        **{key: rows[key] for key in ("start", "end", "deviceId", "correlationId", *optional[:3])},
        "kind": kind,
        "kind_of_copy": kind_of_copy,
        "bytes": rows["bytes"] if copy else np.zeros(count, np.int64),
        "pageable": pageable,
        "name": rows[name] if table == KERNEL else np.full(count, MEMSET_NAME if table == MEMSET else GRAPH_NAME),
    }


def _kernel_names(export: Export, activities: Activities) -> dict[int, str]:
    wanted = np.unique(activities.name[activities.of(Work.KERNEL)]).tolist()
    names = _strings(export)
    return {key: str(names.get(key, GIVEN_NAMES[NO_NAME])) for key in wanted}


def _strings(export: Export) -> dict[Any, Any]:
    return dict(export.rows(f"SELECT id, value FROM {STRINGS}")) if export.has(STRINGS, "id", "value") else {}


def _processes(export: Export, global_pid: Times, global_tid: Times) -> Times:
    """Process of each row. Older exports do not name it: then all are of the one process that made calls."""
    process = global_pid >> THREAD_BITS
    unknown = global_pid == -1
    if unknown.any():
        callers = np.unique(global_tid >> THREAD_BITS)
        if len(callers) > 1:
            export.fail(
                f"{len(callers)} processes in this trace, and no globalPid to distinguish their activities",
                "export it with a newer nsys, or trace one process",
            )
        process = np.where(unknown, callers[0] if len(callers) else 0, process)
    return process


# Calls


@dataclass(frozen=True)
class _Order:
    """Of all rows of RUNTIME: start, end, thread, name, and the index of the outermost call in Calls."""

    start: Times
    end: Times
    outer: Indices


@dataclass(frozen=True)
class _ById:
    """Rows of RUNTIME by (process, correlation id): the first to start has the id."""

    key: Times
    row: Indices
    most: int
    low: int

    def find(self, process: Times, correlation: Times) -> Indices:
        """Row of each, -1 for none."""
        if not len(self.key):
            return np.full(len(process), -1)
        wanted = process * self.most + (correlation - self.low)
        place = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        inside = (correlation >= self.low) & (correlation - self.low < self.most)
        return np.where(inside & (self.key[place] == wanted), self.row[place], -1)


def _calls(
    rows: dict[str, Times], processes: Times, first: int, export: Export
) -> tuple[Calls, tuple[str, ...], _ById, _Order]:
    start, end, tid = rows["start"], rows["end"], rows["globalTid"]
    end = np.where(end < start, start, end)  # a call that never returned
    _, thread = np.unique(tid, return_inverse=True)
    order = np.lexsort((-end, start, thread))
    sorted_thread, sorted_end = thread[order], end[order]
    nested = np.zeros(len(order), bool)
    if len(order):
        reach = running_end(sorted_thread, sorted_end)
        nested[1:] = (sorted_thread[1:] == sorted_thread[:-1]) & (sorted_end[1:] <= reach[:-1])
        nested[1:] &= start[order][1:] < reach[:-1]
    kept = np.flatnonzero(~nested)
    outer = np.empty(len(order), np.intp)
    outer[order] = np.cumsum(~nested) - 1
    chosen = order[kept]
    ids, name = np.unique(rows["nameId"], return_inverse=True)
    strings = _strings(export)
    calls = Calls(
        start[chosen] - first,
        end[chosen] - first,
        np.searchsorted(processes, tid[chosen] >> THREAD_BITS),
        thread[chosen],
        name[chosen],
    )
    correlation = rows["correlationId"]
    with_id = np.flatnonzero((correlation != NULL) & (correlation > 0))
    low = int(correlation[with_id].min()) if len(with_id) else 0
    most = int(correlation[with_id].max()) - low + 1 if len(with_id) else 1
    if most > 2**40:
        export.fail("correlation ids beyond 2^40", f"the trace is damaged: {AGAIN}")
    key = np.searchsorted(processes, tid[with_id] >> THREAD_BITS) * most + (correlation[with_id] - low)
    by_key = np.lexsort((start[with_id], key)) if (np.diff(key) <= 0).any() else np.arange(len(key))
    sorted_key = key[by_key]
    fresh = np.diff(sorted_key, prepend=-1) != 0
    by_id = _ById(sorted_key[fresh], with_id[by_key[fresh]], most, low)
    return calls, tuple(str(strings.get(one, one)) for one in ids.tolist()), by_id, _Order(start, end, outer)


def _recorded(
    export: Export,
    order: _Order,
    calls: Calls,
    names: tuple[str, ...],
    activities: Activities,
    rows: dict[str, Times],
) -> tuple[int, int]:
    """(calls that launch while the GPU is traced, those with an activity); what a graph captures is no launch."""
    if not len(calls):
        return 0, 0
    launch = np.zeros(len(calls), bool)
    launching = np.isin(rows["nameId"], launch_names(export)) & np.isin(rows["returnValue"], (0, -1))
    launch[order.outer[launching]] = True
    # torch.profiler leaves out some memsets.
    launch &= ~np.array(["Memset" in name for name in names])[calls.name]
    begin, end = (
        np.array([word in name for name in names])[calls.name] for word in ("StreamBeginCapture", "StreamEndCapture")
    )
    depth = np.cumsum(begin.astype(np.int64) - end)
    thread_first = np.flatnonzero(np.diff(calls.thread, prepend=-1))
    before = np.concatenate(([0], depth))[thread_first]
    capturing = depth - np.repeat(before, np.diff(np.append(thread_first, len(calls)))) > 0
    seen = np.zeros(len(calls), bool)
    seen[activities.call[activities.call >= 0]] = True
    # What a thread launched last may not have run when the trace ended.
    group = calls.thread * len(names) + calls.name
    last = np.full(int(group.max()) + 1, -1)
    np.maximum.at(last, group[seen], calls.start[seen])
    launch &= ~capturing & (calls.start >= activities.start.min()) & (calls.start <= last[group])
    return int(launch.sum()), int((launch & seen).sum())


# Events, synchronizations and streams


def _mark_rows(export: Export, processes: Times, by_id: _ById, threads: Times) -> dict[str, Times]:
    parts = []
    for table, extra in ((EVENT, ()), (SYNCHRONIZATION, ("syncType",))):
        rows = _columns(export, table, ("correlationId",), ("globalPid", "contextId", "streamId", "eventId", *extra))
        process = np.searchsorted(processes, _processes(export, rows["globalPid"], threads))
        process = np.minimum(process, len(processes) - 1)
        call = by_id.find(process, rows["correlationId"])
        kind = rows["syncType"] if extra else np.zeros(len(call), np.int64)
        chosen = np.flatnonzero(call >= 0)
        parts.append(
            {
                "call": call[chosen],
                "process": process[chosen],
                "kind": kind[chosen],
                **{key: rows[key][chosen] for key in ("contextId", "streamId", "eventId")},
            }
        )
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    found["event"] = _numbered(found["process"], found["eventId"])[0]
    return found


def _numbered(*columns: Times) -> tuple[Times, Times]:
    """(number of each combination, index of one row of each number)"""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, place = np.unique(column, return_inverse=True)
        _, code = np.unique(code * len(values) + place, return_inverse=True)
    _, first, code = np.unique(code, return_index=True, return_inverse=True)
    return code, first


def _streams(
    process: Times, rows: dict[str, Times], marked: dict[str, Times]
) -> tuple[tuple[Times, Times, Times], Times]:
    """((process, context, stream id) of each stream, the stream of each activity and then of each mark)"""
    columns = [
        np.concatenate(pair)
        for pair in (
            (process, marked["process"]),
            (rows["contextId"], marked["contextId"]),
            (rows["streamId"], marked["streamId"]),
        )
    ]
    numbers, one = _numbered(*columns)
    return (columns[0][one], columns[1][one], columns[2][one]), numbers


def _stream_facts(
    export: Export, streams: tuple[Times, Times, Times], processes: Times
) -> tuple[frozenset[int], frozenset[int]]:
    """(default streams, streams that wait for them and they for it). Where the trace does not say so: none."""
    process, context, stream = streams
    pids = processes[process] & PID_MASK
    keys = list(zip(pids.tolist(), context.tolist(), stream.tolist(), strict=True))
    nulls: set[tuple[int, int, int]] = set()
    if export.has(CONTEXTS, "processId", "contextId", "nullStreamId"):
        nulls = set(export.rows(f"SELECT processId, contextId, nullStreamId FROM {export.stored(CONTEXTS)}"))
    blocking: set[tuple[int, int, int]] = set()
    if export.has(STREAMS, "processId", "contextId", "streamId", "flag"):
        sql = f"SELECT processId, contextId, streamId FROM {export.stored(STREAMS)} WHERE flag = {BLOCKING_STREAM}"
        blocking = set(export.rows(sql))
    return (
        frozenset(number for number, key in enumerate(keys) if key in nulls),
        frozenset(number for number, key in enumerate(keys) if key in blocking and key not in nulls),
    )
