"""Exports in the nsys schema: writing one, opening one that may come from anywhere, and its columns as numpy arrays.

An export is opened read-only and immutable: nothing is written beside it, not even a journal. Only plain tables are
read, never views or virtual tables, which could run what they like.
"""

import gzip
import re
import sqlite3
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import quote

import numpy as np

from bench.errors import TraceError
from bench.records.trace import ExportTool
from bench.storage import open_regular, whole_database, working_folder
from bench.trace.intervals import Times

NVTX = "NVTX_EVENTS"
STRINGS = "StringIds"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
MEMCPY = "CUPTI_ACTIVITY_KIND_MEMCPY"
KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"
MEMSET = "CUPTI_ACTIVITY_KIND_MEMSET"
GRAPH = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
EVENT = "CUPTI_ACTIVITY_KIND_CUDA_EVENT"
SYNCHRONIZATION = "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION"

# Names and meanings as nsys 2025.3 (schema 3.20) exports them; only what this project reads or fills.
TABLES: dict[str, tuple[str, ...]] = {
    NVTX: ("start", "end", "eventType", "text", "globalTid", "textId"),
    STRINGS: ("id", "value"),
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
    EVENT: ("contextId", "streamId", "correlationId", "globalPid", "eventId"),
    SYNCHRONIZATION: ("contextId", "streamId", "correlationId", "globalPid", "syncType", "eventId"),
    "TARGET_INFO_GPU": ("id", "name", "busLocation", "uuid"),
    "TARGET_INFO_CUDA_DEVICE": ("gpuId", "cudaId", "pid"),
    "TARGET_INFO_CUDA_CONTEXT_INFO": ("nullStreamId", "processId", "deviceId", "contextId"),
    "META_DATA_EXPORT": ("name", "value"),
    "ENUM_NSYS_EVENT_TYPE": ("id", "name", "label"),
    "ENUM_CUDA_MEMCPY_OPER": ("id", "name", "label"),
    "ENUM_CUDA_MEM_KIND": ("id", "name", "label"),
}  # fmt: skip

PUSH_POP, START_END = 59, 60  # NvtxPushPopRange, NvtxStartEndRange
H2D, D2H, D2D = 1, 2, 8
PAGEABLE, PINNED, DEVICE = 0, 1, 2
TORCH = "torch.profiler"

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

# A compressed file that unpacks to more than this, and to more than this many times itself, is not a trace.
MOST_UNPACKED_BYTES, MOST_TIMES = 1 << 30, 200
# No text of a trace or of results is longer; a damaged or hostile file may claim any length.
LONGEST_BYTES = 64 << 20
LATEST = 2**61  # ns; sums of lengths of disjoint intervals then fit 64 bits
NULL = -(2**63)
ROWS_AT_ONCE = 1 << 15

SQLITE_MAGIC, GZIP_MAGIC = b"SQLite format 3\0", b"\x1f\x8b"
# How a report of nsys begins; that of a .qdrep, its name before 2021.4, too.
REPORT_MAGIC = b"NVIDIA Tegra Profiler Report"
DAMAGED = "export the trace again; if that fails, measure the cell again"

# Global ids of nsys, from the high bits: hardware 8, virtual machine 8, process 24, thread 24 ("Serialized process and
# thread identifiers" in its documentation).
THREAD_BITS, PID_BITS = 24, 24
PID_MASK = (1 << PID_BITS) - 1

# UnicodeError: names that are not text; OverflowError, MemoryError: lengths that a damaged file claims.
_SQLITE_FAILURES = (sqlite3.Error, sqlite3.Warning, UnicodeError, OverflowError, MemoryError)
# Older and newer exporters append a version to the tables of CUPTI.
_VERSIONED = re.compile(r"(CUPTI_ACTIVITY_KIND_\w+?)_V(\d+)")

PLAIN_TABLES = (
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT GLOB 'sqlite_*'"
    if sqlite3.sqlite_version_info >= (3, 37)
    else "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
)


def global_tid(pid: int, tid: int) -> int:
    """Serialized thread id; with tid 0 the serialized process id (globalPid)."""
    return pid << THREAD_BITS | tid


def write_export(
    path: Path | str,
    rows: Mapping[str, Iterable[Sequence[Any]]],
    columns: Mapping[str, Sequence[str]] = TABLES,
) -> None:
    """Write tables of `rows`, each row in the order of `columns[table]`. As in nsys, no rows means no table."""
    with whole_database(Path(path)) as temporary, closing(sqlite3.connect(temporary)) as connection:
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


class Export:
    """The plain tables of an open export. Every SQLite error becomes a TraceError that names `source`."""

    def __init__(self, connection: sqlite3.Connection, source: Path) -> None:
        """source: the file as the user knows it."""
        self.source = source
        self._connection = connection
        self._stored: dict[str, str] = {}
        self._columns: dict[str, list[str]] = {}
        names = [str(name) for (name,) in self.rows(PLAIN_TABLES)]
        for name in sorted(names, key=_version):
            quoted = '"' + name.replace('"', '""') + '"'
            versioned = _VERSIONED.fullmatch(name)
            table = versioned[1] if versioned and versioned[1] not in names else name
            self._stored[table] = name
            self._columns[table] = [str(field[1]) for field in self.rows(f"PRAGMA table_info({quoted})")]

    @cached_property
    def tool(self) -> ExportTool:
        found: dict[str, str] = {}
        if self.has("META_DATA_EXPORT", "name", "value"):
            found = {str(name): str(value) for name, value in self.rows("SELECT name, value FROM META_DATA_EXPORT")}
        return ExportTool(
            product=found.get("EXPORT_PRODUCT_NAME"),
            version=found.get("EXPORT_PRODUCT_VERSION"),
            schema=found.get("EXPORT_SCHEMA_VERSION"),
        )

    def has(self, table: str, *columns: str) -> bool:
        return table in self._columns and set(columns) <= set(self._columns[table])

    def stored(self, table: str) -> str:
        """The name of a table in the file, quoted; it may end in a version."""
        return f'"{self._stored[table]}"'

    def filled(self, table: str) -> bool:
        """Some versions of nsys make tables for what they did not record."""
        return table in self._columns and bool(self.rows(f"SELECT 1 FROM {self.stored(table)} LIMIT 1"))

    def need(self, table: str, *columns: str) -> None:
        """Raise TraceError if a column is missing from a table that exists."""
        missing = [column for column in columns if not self.has(table, column)]
        if missing:
            self.fail(f"table {table} has no column {', '.join(missing)}", "export it with a newer nsys")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except _SQLITE_FAILURES as error:
            self.fail(f"cannot read the export: {error}", DAMAGED)

    def integers(self, table: str, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[dict[str, Times]]:
        """Columns of integers, some thousand rows at a time, in the order of the rows.

        NULL as NULL; of optional columns, NULL and columns that do not exist as -1. Raise TraceError for a missing
        column and for one with other values. SQLite joins the values of a column into one text, which numpy parses: a
        Python object for each value would take longer, and more memory.
        """
        self.need(table, *columns)
        absent = dict.fromkeys(columns, NULL) | dict.fromkeys(optional, -1)
        present = [column for column in absent if self.has(table, column)]
        named = ", ".join(f'"{column}" AS c{place}' for place, column in enumerate(present))
        texts = ", ".join(
            f"CAST(group_concat(ifnull(c{place}, {absent[column]})) AS BLOB)" for place, column in enumerate(present)
        )
        sql = (
            f"SELECT max(row), count(*), {texts} FROM (SELECT _rowid_ AS row, {named} FROM {self.stored(table)} "
            f"WHERE _rowid_ > ? ORDER BY _rowid_ LIMIT {ROWS_AT_ONCE})"
        )
        last = NULL
        # SQLite works without the GIL: the next rows are read while these are parsed and used.
        with ThreadPoolExecutor(max_workers=1) as reader:
            reading = reader.submit(self.rows, sql, (last,))
            while True:
                [(row, count, *found)] = reading.result()
                if not count:
                    return
                if row <= last:
                    self.fail(f"cannot read the export: the rows of {table} are out of order", DAMAGED)
                last = row
                reading = reader.submit(self.rows, sql, (last,))
                values = {name: self._parsed(table, text, count) for name, text in zip(present, found, strict=True)}
                yield {name: values[name] if name in values else np.full(count, -1) for name in absent}

    def _parsed(self, table: str, text: Any, count: int) -> Times:
        """The integers of a text like 1,-2,3."""
        with suppress(DeprecationWarning, TypeError, ValueError), warnings.catch_warnings(action="error"):
            # Warns of what does not parse, where it stops.
            values = np.fromstring(text, np.int64, sep=",")
            if len(values) == count:
                return values
        self.fail(f"table {table} has values that are not integers", DAMAGED)

    def enum(self, table: str, documented: dict[int, str]) -> dict[int, str]:
        """id -> name as the export itself states it; `documented` where it states nothing."""
        if not self.has(table, "id", "name"):
            return documented
        found = self.rows(f"SELECT id, name FROM {self.stored(table)}")
        return {key: str(name) for key, name in found if isinstance(key, int)}

    def fail(self, what: str, advice: str = "measure the cell again", torch: str = "") -> NoReturn:
        """torch: the advice for a trace of torch.profiler, where it differs."""
        raise TraceError(what, str(self.source), torch if torch and self.tool.product == TORCH else advice) from None


def _version(table: str) -> tuple[int, str]:
    found = _VERSIONED.fullmatch(table)
    return (int(found[2]) if found else 0), table


@contextmanager
def open_export(path: Path | str, source: Path | None = None) -> Iterator[Export]:
    """Open .sqlite or .sqlite.gz (by content, not by name). Raise TraceError if it is neither.

    source: the file to name in errors, if the export was made from another one.
    """
    source, path = source or Path(path), Path(path)
    with plain_database(path) as plain, closing(_connect(plain, source)) as connection:
        yield Export(connection, source)


def _connect(plain: Path, source: Path) -> sqlite3.Connection:
    try:
        return connect_read_only(plain)
    except sqlite3.Error as error:
        raise TraceError(f"cannot open the export: {error}", str(source), DAMAGED) from None


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A database that anybody may have made: it cannot be changed, its schema runs nothing, nothing is attached to it.

    Raise sqlite3.Error if it is not a database.
    """
    uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, cached_statements=0, check_same_thread=False)
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    try:
        for pragma in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def plain_database(path: Path) -> Iterator[Path]:
    """The file itself or, if it is compressed, an unpacked copy that lives as long as it is read.

    Raise TraceError if it is not a database, or if a part of it is in a log beside it, which an immutable database
    cannot use.
    """
    try:
        with open_regular(path) as file:
            magic = file.read(16)
    except OSError as error:
        raise TraceError(f"cannot read the trace: {error.strerror}", str(path), "check the path") from None
    if magic == SQLITE_MAGIC:
        _check_no_log(path)
        yield path
    elif magic[:2] == GZIP_MAGIC:
        with working_folder() as folder:
            copy = folder / "export.sqlite"
            try:
                with copy.open("wb") as file:
                    _unpack(path, file)
            except (OSError, EOFError, zlib.error) as error:
                # Errors of gzip have no number: one with a number is of a disk.
                of_disk = isinstance(error, OSError) and error.strerror
                advice = f"look at the room in {folder.parent}; TMPDIR names another" if of_disk else DAMAGED
                raise TraceError(f"cannot unpack the trace: {of_disk or error}", str(path), advice) from None
            yield copy
    else:
        raise TraceError("not a SQLite export" if magic else "the file is empty", str(path), DAMAGED)


def _check_no_log(path: Path) -> None:
    for ending in ("-wal", "-journal"):
        log = path.with_name(path.name + ending)
        if log.exists() and (size := log.stat().st_size):
            raise TraceError(
                f"the export is not complete: {log.name} beside it has {size} bytes that belong to it",
                str(path),
                f"close the program that writes it, then: sqlite3 {path.name} 'PRAGMA wal_checkpoint(TRUNCATE)'",
            )


def _unpack(path: Path, copy: IO[bytes]) -> None:
    left = most_unpacked(path.stat().st_size)
    with gzip.open(path) as packed:
        while piece := packed.read(1 << 20):
            left -= len(piece)
            if left < 0:
                raise TraceError("unpacks to far more than a trace would", str(path), DAMAGED)
            copy.write(piece)


def most_unpacked(packed_bytes: int) -> int:
    return max(MOST_UNPACKED_BYTES, MOST_TIMES * packed_bytes)
