"""A trace as values: window, activities, devices."""

import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.trace.export import GRAPH, KERNEL, LATEST, MEMCPY, MEMSET, NVTX, PUSH_POP, RUNTIME, Export, open_export
from bench.trace.intervals import Intervals, Times, union
from bench.trace.lookup import find
from bench.trace.pages import NULL

# --- window
# The measured window of a trace and its batches, from the NVTX ranges.

WINDOW = "test_double_buffer"
BATCH = re.compile(r"test_batch_\d+")
STAGE = re.compile(r"test_(h2d|compute|d2h)_batch_\d+")

ID_BITS = 24
ID_MASK = (1 << ID_BITS) - 1


@dataclass(frozen=True)
class Window:
    """[start, end) of the measured range, on one thread; batches ascending and disjoint within it."""

    start: int
    end: int
    global_tid: int
    batch_start: Times
    batch_end: Times
    batch_names: tuple[str, ...]

    @property
    def pid(self) -> int:
        return process_of(self.global_tid)


def process_of(global_id: int) -> int:
    """PID of a serialized global thread or process id (nsys documentation, 'Common SQLite examples')."""
    return global_id >> ID_BITS & ID_MASK


def read_window(export: Export) -> Window:
    """Raise TraceError unless exactly one closed window with closed batches is there."""
    ranges = _ranges(export, "test_[bd]*")
    start, end, thread, _ = _only_window(export, ranges)
    batches = sorted(
        (row for row in ranges if BATCH.fullmatch(row[3]) and row[2] == thread and start <= row[0] < end),
        key=lambda row: (row[0], row[1] if row[1] is not None else end),
    )
    if not batches:
        export.fail(f"no test_batch_ range inside {WINDOW}")
    for row in batches:
        if row[1] is None or row[1] < row[0]:
            export.fail(f"range {row[3]} was never closed", "the run was cut short: measure the cell again")
    opens, closes = (np.array([row[column] for row in batches], np.int64) for column in (0, 1))
    overlapping = np.flatnonzero(opens[1:] < closes[:-1])
    if len(overlapping):
        one, other = batches[overlapping[0]][3], batches[overlapping[0] + 1][3]
        export.fail(f"ranges {one} and {other} overlap", "batch ranges follow each other on one thread")
    return Window(start, end, thread, opens, closes, tuple(row[3] for row in batches))


def named_stages(export: Export, window: Window) -> frozenset[str]:
    """Which of h2d, compute and d2h have ranges of their own in the window; the workload names those it makes."""
    inside = (
        row[3]
        for row in _ranges(export, "test_*_batch_*")
        if row[2] == window.global_tid and window.start <= row[0] < window.end
    )
    return frozenset(found[1] for name in inside if (found := STAGE.fullmatch(name)))


def _only_window(export: Export, ranges: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    windows = [row for row in ranges if row[3] == WINDOW]
    if not windows:
        export.fail(f"no NVTX range {WINDOW} in this trace", "trace a run of this project's workload")
    if len(windows) > 1:
        pids = sorted({process_of(row[2]) for row in windows})
        export.fail(
            f"{len(windows)} ranges {WINDOW} in this trace, of process {', '.join(map(str, pids))}",
            "trace one process and one window at a time",
        )
    if windows[0][1] is None or windows[0][1] < windows[0][0]:
        export.fail(f"range {WINDOW} was never closed", "the run was cut short: measure the cell again")
    return windows[0]


def _ranges(export: Export, pattern: str) -> list[tuple[Any, ...]]:
    """(start, end or None, globalTid, text) of the push/pop ranges whose names fit the pattern (GLOB)."""
    if not export.filled(NVTX):
        export.fail("no NVTX range in this trace", "trace with nsys -t cuda,nvtx")
    export.need(NVTX, "start", "end", "eventType", "globalTid")
    text, join = "", ""
    if export.has(NVTX, "text"):
        text = "n.text"
    if export.has(NVTX, "textId") and export.has("StringIds", "id", "value"):
        text = f"COALESCE({text}, s.value)" if text else "s.value"
        join = "LEFT JOIN StringIds s ON s.id = n.textId"
    if not text:
        export.fail(f"table {NVTX} has no text", "export it with a newer nsys")
    names = export.enum("ENUM_NSYS_EVENT_TYPE", {PUSH_POP: "NvtxPushPopRange"})
    kinds = [kind for kind, name in names.items() if name == "NvtxPushPopRange"] or [PUSH_POP]
    found = export.rows(
        f"""SELECT n.start, n.end, n.globalTid, {text} AS name FROM {NVTX} n {join}
            WHERE n.eventType = ? AND name GLOB ?""",
        (*kinds[:1], pattern),
    )
    for row in found:
        if not (isinstance(row[0], int) and isinstance(row[2], int) and isinstance(row[1], int | None)):
            export.fail(f"NVTX range {row[3]} has no times or no thread")
    return found


# --- model
# A trace as plain values: the window, and the device's activities in it.

class Kind(IntEnum):
    """What an activity counts as (DESIGN.md, metrics of one trace): H, D or K."""

    H2D = 0
    D2H = 1
    COMPUTE = 2


@dataclass(frozen=True)
class Activities:
    """Columns of equal length, int64, in no particular order. Times in ns, end >= start.

    call_end: when the API call that launched the activity returned. bytes: 0 unless a copy.
    batch: index into the window's batches, -1 if launched between two batches.
    name: key of Trace.names. stream, host_memory: of copies; -1 elsewhere or where the export does not say.
    """

    start: Times
    end: Times
    kind: Times
    bytes: Times
    call_end: Times
    batch: Times
    device: Times
    name: Times
    stream: Times
    host_memory: Times

    def __len__(self) -> int:
        return len(self.start)

    def of(self, kind: Kind) -> NDArray[np.intp]:
        return np.flatnonzero(self.kind == kind)

    def union(self, kind: Kind) -> Intervals:
        chosen = self.of(kind)
        return union(self.start[chosen], self.end[chosen])


@dataclass(frozen=True)
class Device:
    """A GPU that ran something in the window; what the export does not say is None."""

    id: int
    uuid: str | None
    name: str | None
    pci_bus_id: str | None


@dataclass(frozen=True)
class Trace:
    """name: the cell's, from the file name. null_streams: ids of the default streams of the window's process."""

    name: str
    window: Window
    activities: Activities
    devices: tuple[Device, ...]
    names: dict[int, str]
    memory_kinds: dict[int, str]
    null_streams: frozenset[int]


# --- activities
# The device's activities that the window's own API calls launched.

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
    name = _names_of_activities(export, table, kept)
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


def _names_of_activities(export: Export, table: str, kept: NDArray[np.intp]) -> Times:
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


# --- reader
# A trace from an export in the nsys schema, whatever the profiler and the version were.

def read_trace(path: Path | str, name: str | None = None) -> Trace:
    """Read .sqlite or .sqlite.gz. Raise TraceError, by name, for everything that would make a number wrong."""
    with open_export(path) as export:
        _check_tables(export)
        window = read_window(export)
        activities = read_activities(export, window)
        _check_activities(export, window, activities)
        return Trace(
            name or Path(path).name.removesuffix(".gz").removesuffix(".sqlite"),
            window,
            activities,
            _devices(export, window, activities),
            _names(export, activities),
            export.enum("ENUM_CUDA_MEM_KIND", MEMORY_KINDS),
            _null_streams(export, window),
        )


def _check_tables(export: Export) -> None:
    if not any(export.has(table) for table in (NVTX, RUNTIME, *TABLES, "StringIds")):
        export.fail(
            "not an export of a trace: it has none of the tables of nsys", "give the .sqlite that nsys export made"
        )
    if not any(export.filled(table) for table in (RUNTIME, *TABLES)):
        export.fail(
            "no CUDA activity in this trace",
            "nsys sees only CUDA: trace the cpu device with profiler: torch; on a GPU trace with -t cuda,nvtx",
        )
    if not export.filled(MEMCPY):
        export.fail(f"no copy in this trace: table {MEMCPY} is missing or empty")


def _check_activities(export: Export, window: Window, activities: Activities) -> None:
    if not len(activities):
        export.fail("the window is empty: its API calls launched nothing on the device")
    named = named_stages(export, window)
    for kind, title in ((Kind.H2D, "H2D"), (Kind.D2H, "D2H")):
        if "compute" in named and title.lower() not in named and not (activities.kind == kind).any():
            # A cell that copies one way only has no range for the other; whether it should, conservation tells.
            continue
        chosen = activities.batch[activities.kind == kind]
        if not len(chosen):
            export.fail(f"no {title} copy inside the window")
        lacking = np.setdiff1d(np.arange(len(window.batch_start)), chosen)
        if len(lacking):
            export.fail(
                f"{len(lacking)} of {len(window.batch_start)} batches have no {title} copy, "
                f"first {window.batch_names[lacking[0]]}",
                "the profiler lost records: measure the cell again",
            )
    if activities.start.min() == activities.end.max():
        export.fail("the window is empty: no activity in it takes any time")
    if not (activities.kind == Kind.COMPUTE).any():
        _check_no_launch(export, window)


def _check_no_launch(export: Export, window: Window) -> None:
    """No compute is right for a model without layers, and wrong if something was launched."""
    if not (export.has(RUNTIME, "nameId") and export.has("StringIds", "id", "value")):
        return
    found = export.rows(
        f"""SELECT count(*) FROM {RUNTIME} r JOIN StringIds s ON s.id = r.nameId
            WHERE r.globalTid = ? AND r.start >= ? AND r.start < ?
            AND (s.value GLOB 'cu*LaunchKernel*' OR s.value GLOB 'cu*GraphLaunch*')""",
        (window.global_tid, window.start, window.end),
    )
    if found[0][0]:
        export.fail(
            f"{found[0][0]} launches in the window and no kernel ({KERNEL})",
            "the profiler lost records: measure the cell again",
        )


def _names(export: Export, activities: Activities) -> dict[int, str]:
    wanted = set(np.unique(activities.name[activities.kind == Kind.COMPUTE]).tolist())
    names = {key: text for key, text in GIVEN_NAMES.items() if key in wanted}
    if export.has("StringIds", "id", "value"):
        for key in sorted(wanted - set(GIVEN_NAMES)):
            for (value,) in export.rows("SELECT value FROM StringIds WHERE id = ?", (key,)):
                names[key] = str(value)
    return names | {key: f"kernel {key}" for key in wanted - names.keys()}


def _devices(export: Export, window: Window, activities: Activities) -> tuple[Device, ...]:
    gpus = {}
    if export.has("TARGET_INFO_GPU", "id", "name", "uuid", "busLocation"):
        gpus = {row[0]: row[1:] for row in export.rows("SELECT id, name, uuid, busLocation FROM TARGET_INFO_GPU")}
    # CUDA_VISIBLE_DEVICES renumbers: cudaId is the process's number of the GPU, gpuId the host's.
    host_ids = {}
    if export.has("TARGET_INFO_CUDA_DEVICE", "gpuId", "cudaId", "pid"):
        rows = export.rows("SELECT cudaId, gpuId FROM TARGET_INFO_CUDA_DEVICE WHERE pid = ?", (window.pid,))
        host_ids = dict(rows)
    devices = []
    for number in np.unique(activities.device).tolist():
        name, uuid, bus = gpus.get(host_ids.get(number, number), (None, None, None))
        uuid = f"GPU-{uuid}" if isinstance(uuid, str) and not uuid.startswith(("GPU-", "MIG-")) else uuid
        devices.append(Device(number, uuid or None, name, bus))
    return tuple(devices)


def _null_streams(export: Export, window: Window) -> frozenset[int]:
    if not export.has("TARGET_INFO_CUDA_CONTEXT_INFO", "nullStreamId", "processId"):
        return frozenset()
    rows = export.rows("SELECT nullStreamId FROM TARGET_INFO_CUDA_CONTEXT_INFO WHERE processId = ?", (window.pid,))
    return frozenset(row[0] for row in rows)
