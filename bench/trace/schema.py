"""The nsys schema, as far as it is read here, and writing an export in it."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.databases import whole_database

NVTX = "NVTX_EVENTS"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
MEMCPY = "CUPTI_ACTIVITY_KIND_MEMCPY"
KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"
MEMSET = "CUPTI_ACTIVITY_KIND_MEMSET"
GRAPH = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"

# Names and meanings as nsys 2025.3 (schema 3.20) exports them; only what this project reads or fills.
TABLES: dict[str, tuple[str, ...]] = {
    NVTX: ("start", "end", "eventType", "text", "globalTid", "textId"),
    "StringIds": ("id", "value"),
    RUNTIME: (
        "start", "end", "eventClass", "globalTid", "correlationId", "nameId", "returnValue",
    ),
    MEMCPY: (
        "start", "end", "deviceId", "contextId", "streamId", "correlationId", "globalPid", "bytes", "copyKind",
        "srcKind", "dstKind",
    ),
    KERNEL: (
        "start", "end", "deviceId", "contextId", "streamId", "correlationId", "globalPid", "shortName",
    ),
    MEMSET: (
        "start", "end", "deviceId", "contextId", "streamId", "correlationId", "globalPid", "bytes",
    ),
    GRAPH: (
        "start", "end", "deviceId", "contextId", "streamId", "correlationId", "globalPid", "graphId",
    ),
    "TARGET_INFO_GPU": ("id", "name", "busLocation", "uuid"),
    "TARGET_INFO_CUDA_DEVICE": ("gpuId", "cudaId", "pid"),
    "TARGET_INFO_CUDA_CONTEXT_INFO": ("nullStreamId", "processId", "deviceId", "contextId"),
    "META_DATA_EXPORT": ("name", "value"),
    "ENUM_NSYS_EVENT_TYPE": ("id", "name", "label"),
    "ENUM_CUDA_MEMCPY_OPER": ("id", "name", "label"),
    "ENUM_CUDA_MEM_KIND": ("id", "name", "label"),
}  # fmt: skip

PUSH_POP = 59  # NvtxPushPopRange
H2D, D2H, D2D = 1, 2, 8
PAGEABLE, PINNED, DEVICE = 0, 1, 2

ENUMS: dict[str, list[tuple[int, str, str]]] = {
    "ENUM_NSYS_EVENT_TYPE": [(PUSH_POP, "NvtxPushPopRange", "NvtxPushPopRange")],
    "ENUM_CUDA_MEMCPY_OPER": [
        (0, "CUDA_MEMCPY_KIND_UNKNOWN", "Unknown"),
        (H2D, "CUDA_MEMCPY_KIND_HTOD", "Host-to-Device"),
        (D2H, "CUDA_MEMCPY_KIND_DTOH", "Device-to-Host"),
        (D2D, "CUDA_MEMCPY_KIND_DTOD", "Device-to-Device"),
        (9, "CUDA_MEMCPY_KIND_HTOH", "Host-to-Host"),
        (10, "CUDA_MEMCPY_KIND_PTOP", "Peer-to-Peer"),
    ],
    "ENUM_CUDA_MEM_KIND": [
        (PAGEABLE, "CUDA_MEMOPR_MEMORY_KIND_PAGEABLE", "Pageable"),
        (PINNED, "CUDA_MEMOPR_MEMORY_KIND_PINNED", "Pinned"),
        (DEVICE, "CUDA_MEMOPR_MEMORY_KIND_DEVICE", "Device"),
        (7, "CUDA_MEMOPR_MEMORY_KIND_UNKNOWN", "Unknown"),
    ],
}


def global_tid(pid: int, tid: int) -> int:
    """Serialized thread id; with tid 0 the serialized process id (globalPid)."""
    return pid << 24 | tid


def write_export(
    path: Path | str,
    rows: Mapping[str, Iterable[Sequence[Any]]],
    columns: Mapping[str, Sequence[str]] = TABLES,
) -> None:
    """Write tables of `rows`, each row in the order of `columns[table]`. As in nsys, no rows means no table."""
    with whole_database(path) as temporary, closing(sqlite3.connect(temporary)) as connection:
        # The file appears whole or not at all: a journal would only cost time.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        for table, content in rows.items():
            names = columns[table]
            fields = ", ".join(f'"{name}" {_type(name)}' for name in names)
            connection.execute(f'CREATE TABLE "{table}" ({fields})')
            marks = ", ".join("?" * len(names))
            if connection.executemany(f'INSERT INTO "{table}" VALUES ({marks})', content).rowcount <= 0:
                connection.execute(f'DROP TABLE "{table}"')
        connection.commit()


def _type(column: str) -> str:
    return "TEXT" if column in {"text", "value", "name", "label", "busLocation", "uuid"} else "INTEGER"
