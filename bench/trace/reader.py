"""A trace from an export in the nsys schema as plain values: the window, and the device's activities in it.

An activity belongs to the window if the API call that launched it (same process, same correlation id) starts in it, on
the thread of the window's range (docs/metrics.md).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.records.trace import Complete, ExportTool, TraceDevice
from bench.trace.activities import (
    GIVEN_NAMES,
    TABLES,
    UNIFIED_COPY,
    Activities,
    Calls,
    CopyColumns,
    Kind,
    Part,
    pageable_kinds,
    read_calls,
    read_table,
)
from bench.trace.complete import LOST, check_recorded
from bench.trace.export import MEMCPY, NVTX, PID_BITS, RUNTIME, STRINGS, THREAD_BITS, Export, open_export
from bench.trace.window import Window, named_stages, read_window


@dataclass(frozen=True)
class Trace:
    """name: the cell's, from the file name. null_streams: ids of the default streams of the window's process."""

    name: str
    window: Window
    activities: Activities
    copies: CopyColumns
    devices: tuple[TraceDevice, ...]
    names: dict[int, str]
    pageable_kinds: list[int]
    null_streams: frozenset[int]
    complete: Complete
    tool: ExportTool


def read_trace(
    path: Path | str, name: str | None = None, source: Path | None = None, range_name: str | None = None
) -> Trace:
    """Read .sqlite or .sqlite.gz. Raise TraceError, by name, for everything that would make a number wrong.

    source: the file to name in errors, if the export was made from another one. range_name: of the ranges of another
    program, each of which is a batch; copies need not be in all of them.
    """
    with open_export(path, source) as export:
        _check_tables(export)
        window = read_window(export, range_name)
        if not (window.named or export.filled(MEMCPY)):
            export.fail(f"no copy in this trace: table {MEMCPY} is missing or empty")
        calls = read_calls(export, window)
        parts = [read_table(export, table, window, calls) for table in TABLES if export.has(table)]
        complete = _complete(export, calls, parts)
        del calls  # of a long trace as large as the activities
        activities = Activities.joined([part.activities for part in parts])
        activities = activities.at(np.argsort(activities.start, kind="stable"))
        copies = CopyColumns.joined([part.copies for part in parts])
        _check_activities(export, window, activities, copies)
        return Trace(
            name=name or Path(path).name.removesuffix(".gz").removesuffix(".sqlite"),
            window=window,
            activities=activities,
            copies=copies,
            devices=_devices(export, window, sorted(set().union(*(part.devices for part in parts)))),
            names=_names(export, activities),
            pageable_kinds=pageable_kinds(export),
            null_streams=_null_streams(export, window),
            complete=complete,
            tool=export.tool,
        )


def _check_tables(export: Export) -> None:
    if not any(export.has(table) for table in (NVTX, RUNTIME, *TABLES, STRINGS)):
        export.fail(
            "not an export of a trace: it has none of the tables of nsys", "give the .sqlite that nsys export made"
        )
    if not any(export.filled(table) for table in (RUNTIME, *TABLES)):
        export.fail(
            "no CUDA activity in this trace",
            "nsys sees only CUDA: trace the cpu device with profiler: torch; on a GPU trace with -t cuda,nvtx",
        )


def _complete(export: Export, calls: Calls, parts: list[Part]) -> Complete:
    launched = np.flatnonzero(calls.launch & calls.own)
    seen = np.zeros(len(calls.correlation), bool)
    for part in parts:
        seen[part.call] = True
    check_recorded(export, calls.name[launched], seen[launched])
    known = len(launched) or None
    return Complete(
        launches=known,
        recorded=known,
        untimed=0,
        before_call=0,
        other_threads=sum(part.other_threads for part in parts),
    )


def _check_activities(export: Export, window: Window, activities: Activities, copies: CopyColumns) -> None:
    if not len(activities):
        export.fail("the window is empty: its API calls launched nothing on the device")
    named = named_stages(export, window)
    for kind in (Kind.H2D, Kind.D2H) if not window.named else ():
        chosen = activities.batch[activities.kind == kind]
        one_way = "compute" in named and kind.name.lower() not in named
        if not len(chosen) and (one_way or UNIFIED_COPY in copies.kind):
            # A cell that copies one way only has no range for the other; conservation says whether it should.
            continue
        if not len(chosen):
            export.fail(f"no {kind.name} copy inside the window")
        lacking = np.setdiff1d(np.arange(len(window.batch_start)), chosen)
        if len(lacking):
            export.fail(
                f"{len(lacking)} of {len(window.batch_start)} batches have no {kind.name} copy, "
                f"first {window.batch_names[lacking[0]]}",
                LOST,
            )
    if activities.start.min() == activities.end.max():
        export.fail("the window is empty: no activity in it takes any time")


def _names(export: Export, activities: Activities) -> dict[int, str]:
    wanted = set(np.unique(activities.name[activities.kind == Kind.COMPUTE]).tolist())
    names = {key: text for key, text in GIVEN_NAMES.items() if key in wanted}
    if export.has(STRINGS, "id", "value"):
        for key in sorted(wanted - set(GIVEN_NAMES)):
            for (value,) in export.rows(f"SELECT value FROM {STRINGS} WHERE id = ?", (key,)):
                names[key] = str(value)
    return names | {key: f"kernel {key}" for key in wanted - names.keys()}


def _of_process(export: Export, table: str, column: str, process: str, window: Window) -> list[tuple[Any, ...]]:
    """(column, ...) of the window's process; where hosts of a merged export use the same PID, of the window's host."""
    host = [name if export.has(table, name) else "NULL" for name in ("hwId", "vmId")]
    rows = export.rows(f"SELECT {column}, {', '.join(host)} FROM {table} WHERE {process} = ?", (window.pid,))
    own = window.process >> PID_BITS
    return [row for row in rows if row[-2:] == (own >> 8, own & 0xFF)] or rows


def _devices(export: Export, window: Window, numbers: list[int]) -> tuple[TraceDevice, ...]:
    gpus = {}
    if export.has("TARGET_INFO_GPU", "id"):
        columns = [
            column if export.has("TARGET_INFO_GPU", column) else f"NULL AS {column}"
            for column in ("id", "name", "uuid", "busLocation", "vmId")
        ]
        rows = export.rows(f"SELECT {', '.join(columns)} FROM TARGET_INFO_GPU")
        own = [row for row in rows if row[-1] == window.process >> PID_BITS << PID_BITS + THREAD_BITS]
        gpus = {row[0]: [str(fact) if fact else None for fact in row[1:-1]] for row in own or rows}
    # CUDA_VISIBLE_DEVICES renumbers: cudaId is the process's number of the GPU, gpuId the host's.
    host_ids = {}
    if export.has("TARGET_INFO_CUDA_DEVICE", "gpuId", "cudaId", "pid"):
        found = _of_process(export, "TARGET_INFO_CUDA_DEVICE", "cudaId, gpuId", "pid", window)
        host_ids = {row[0]: row[1] for row in found}
    devices = []
    for number in numbers:
        name, uuid, bus = gpus.get(host_ids.get(number, number), (None, None, None))
        uuid = f"GPU-{uuid}" if uuid and not uuid.startswith(("GPU-", "MIG-")) else uuid
        devices.append(TraceDevice(id=number, uuid=uuid, name=name, pci_bus_id=bus))
    return tuple(devices)


def _null_streams(export: Export, window: Window) -> frozenset[int]:
    """Newer exports keep them with the contexts, those of 2022 in a table of their own."""
    for table, stream in (
        ("TARGET_INFO_CUDA_CONTEXT_INFO", "nullStreamId"),
        ("TARGET_INFO_CUDA_NULL_STREAM", "streamId"),
    ):
        if export.has(table, stream, "processId"):
            found = _of_process(export, table, stream, "processId", window)
            return frozenset(row[0] for row in found if isinstance(row[0], int))
    return frozenset()
