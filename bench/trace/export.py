"""Open an untrusted export; columns by plain SQL."""

import gzip
import sqlite3
import sys
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from bench.errors import TraceError
from bench.storage import whole_database
from bench.trace.pages import NULL, read_columns

# --- database
# Opening an export that may come from anywhere, and reading its columns into numpy.
#
# An export is opened read-only and immutable: nothing is written beside it, not even a journal. Only plain tables are
# read, never views or virtual tables, which could run what they like.

# A compressed file that unpacks to more than this, and to more than so many times itself, is no trace.
MOST_UNPACKED_BYTES, MOST_TIMES = 1 << 30, 200
# No text of a trace or of results is longer; a damaged or hostile file may claim any length.
LONGEST_BYTES = 64 << 20
LATEST = 2**61  # ns; sums of lengths of disjoint intervals then fit 64 bits
DAMAGED = "export the trace again; if that fails, measure the cell again"


class Export:
    """The plain tables of an open export. Every SQLite error becomes a TraceError that names the file."""

    def __init__(self, connection: sqlite3.Connection, path: Path, file: Path) -> None:
        """path: as the user knows it; file: the SQLite file itself, unpacked."""
        self.path = path
        self._file = file
        self._connection = connection
        self._columns: dict[str, list[str]] = {}
        for (name,) in self.rows(PLAIN_TABLES):
            quoted = '"' + str(name).replace('"', '""') + '"'
            self._columns[str(name)] = [str(field[1]) for field in self.rows(f"PRAGMA table_info({quoted})")]

    def has(self, table: str, *columns: str) -> bool:
        return table in self._columns and set(columns) <= set(self._columns[table])

    def filled(self, table: str) -> bool:
        """Some versions of nsys make tables for what they did not record."""
        return table in self._columns and bool(self.rows(f'SELECT 1 FROM "{table}" LIMIT 1'))

    def need(self, table: str, *columns: str) -> None:
        """Raise TraceError if a column is missing from a table that is there."""
        missing = [column for column in columns if not self.has(table, column)]
        if missing:
            self.fail(f"table {table} has no column {', '.join(missing)}", "export it with a newer nsys")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except _SQLITE_FAILURES as error:
            self.fail(f"cannot read the export: {error}", DAMAGED)

    def integers(self, table: str, *columns: str) -> list[NDArray[np.int64]]:
        """Columns of integers, NULL as NULL. Raise TraceError for a column that is missing or holds something else."""
        self.need(table, *columns)
        return self._from_pages(table, columns) or self._from_sql(table, columns)

    def _from_pages(self, table: str, columns: Sequence[str]) -> list[NDArray[np.int64]] | None:
        fields = self.rows(f'PRAGMA table_xinfo("{table}")')
        if any(field[5] or field[6] for field in fields):  # a key may be the rowid; hidden columns are not stored
            return None
        roots = self.rows("SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
        if len(roots) != 1 or not isinstance(roots[0][0], int):  # a damaged schema; SQLite will say how
            return None
        places = [self._columns[table].index(column) for column in columns]
        return read_columns(self._file, roots[0][0], len(fields), places)

    def _from_sql(self, table: str, columns: Sequence[str]) -> list[NDArray[np.int64]]:
        fields = ", ".join(f'ifnull("{column}", {NULL})' for column in columns)
        # Unlike numpy, array refuses to cut a float down to an integer.
        flat = array("q")
        try:
            flat.extend(chain.from_iterable(self._connection.execute(f'SELECT {fields} FROM "{table}"')))
        except _SQLITE_FAILURES as error:
            self.fail(f"cannot read the export: {error}", DAMAGED)
        except TypeError:
            self.fail(f"table {table} holds something else where an integer belongs", DAMAGED)
        return list(np.frombuffer(flat, np.int64).reshape(-1, len(columns)).T)

    def enum(self, table: str, documented: dict[int, str]) -> dict[int, str]:
        """id -> name as the export itself states it; `documented` where it states nothing."""
        if not self.has(table, "id", "name"):
            return documented
        return {
            int(key): str(name) for key, name in self.rows(f'SELECT id, name FROM "{table}"') if isinstance(key, int)
        }

    def fail(self, what: str, advice: str = "measure the cell again") -> NoReturn:
        raise TraceError(what, str(self.path), advice) from None


# UnicodeError: names that are no text; OverflowError, MemoryError: lengths that a damaged file claims.
_SQLITE_FAILURES = (sqlite3.Error, sqlite3.Warning, UnicodeError, OverflowError, MemoryError)


PLAIN_TABLES = (
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT GLOB 'sqlite_*'"
    if sqlite3.sqlite_version_info >= (3, 37)
    else "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
)


@contextmanager
def open_export(path: Path | str) -> Iterator[Export]:
    """Open .sqlite or .sqlite.gz (by content, not by name). Raise TraceError if it is neither."""
    path = Path(path)
    with plain_database(path) as plain, closing(_connect(plain, path)) as connection:
        yield Export(connection, path, plain)


def _connect(plain: Path, path: Path) -> sqlite3.Connection:
    try:
        return connect_read_only(plain)
    except sqlite3.Error as error:
        raise TraceError(f"cannot open the export: {error}", str(path), DAMAGED) from None


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A database that anybody may have made: it cannot be changed, its schema runs nothing, nothing is attached to it.

    Raise sqlite3.Error if it is no database.
    """
    uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, cached_statements=0)
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
    """The file itself or, if it is compressed, a copy that lives as long as it is read."""
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except OSError as error:
        raise TraceError(f"cannot read the trace: {error.strerror}", str(path), "check the path") from None
    if magic == b"SQLite format 3\0":
        yield path
    elif magic[:2] == b"\x1f\x8b":
        with tempfile.NamedTemporaryFile(prefix="numastudy-", suffix=".sqlite") as copy:
            try:
                _unpack(path, copy)
                copy.flush()
            except (OSError, EOFError, zlib.error) as error:
                raise TraceError(f"cannot unpack the trace: {error}", str(path), DAMAGED) from None
            yield Path(copy.name)
    else:
        raise TraceError("not a SQLite export" if magic else "the file is empty", str(path), DAMAGED)


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


# --- schema
# The nsys schema, as far as it is read here, and writing an export in it.

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
