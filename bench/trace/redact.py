"""A trace that may be published: what metrics are made of, copied into a new file, and nothing else.

An export also has the host's name and user, paths, the environment and the names of all processes of the host, in
tables of their own and among the strings. So what may stay is listed here, and everything else is dropped.
"""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from bench.errors import TraceError
from bench.storage import remove_unfinished, whole_file
from bench.trace.export import LONGEST_BYTES, PLAIN_TABLES, plain_database

KEPT = re.compile(
    r"NVTX_EVENTS|StringIds|META_DATA_EXPORT|TARGET_INFO_(GPU|CUDA_\w+)|CUDA_GRAPH_EVENTS|PROFILER_OVERHEAD"
    r"|CUPTI_ACTIVITY_KIND_\w+|ENUM_\w+"
)
COLUMN = re.compile(r"\w{1,64}", re.ASCII)
# Columns that may hold text; in every other column only numbers are kept.
TEXTS = {
    "NVTX_EVENTS": {"text"},
    "StringIds": {"value"},
    "META_DATA_EXPORT": {"name", "value"},
    "TARGET_INFO_GPU": {"name", "busLocation", "uuid", "chipName"},
}
ENUM_TEXTS = {"name", "label"}
# Columns that point to StringIds.
POINTERS = ("textId", "nameId", "shortName", "demangledName", "mangledName")
# Ranges of this project's workload; those of other programs may be named after anything.
OWN_RANGES = ("test_*", "warmup_*")
FACTS = ("EXPORT_PRODUCT_*", "EXPORT_SCHEMA_*", "EXPORT_ARCH", "EXPORT_PLATFORM")


def redact(source: Path | str, target: Path | str, clean: Callable[[str], str] | None = None) -> None:
    """Write target, .sqlite, from source, .sqlite or .sqlite.gz; it appears whole or not at all.

    clean: applied to every text that stays. Raise TraceError if source is not an export.
    """
    source, target = Path(source), Path(target)
    remove_unfinished(target)
    try:
        with plain_database(source) as plain, whole_file(target) as temporary:
            temporary.unlink()
            with closing(sqlite3.connect(temporary, isolation_level=None, uri=True)) as connection:
                _copy(connection, plain, clean)
    except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError) as error:
        raise TraceError(f"cannot redact the trace: {error}", str(source), "export the trace again") from None


def _copy(connection: sqlite3.Connection, source: Path, clean: Callable[[str], str] | None) -> None:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_BYTES)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "journal_mode = OFF", "synchronous = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("ATTACH ? AS source", (f"file:{quote(str(source.resolve()))}?mode=ro&immutable=1",))
    connection.execute("BEGIN")
    tables = [str(name) for (name,) in connection.execute(PLAIN_TABLES.replace("'main'", "'source'"))]
    kept = {table: _columns(connection, table) for table in tables if KEPT.fullmatch(table)}
    for table, columns in kept.items():
        if columns and table != "StringIds":
            fields = ", ".join(_field(table, column) for column in columns)
            connection.execute(f'CREATE TABLE "{table}" AS SELECT {fields} FROM source."{table}"')
    _drop_other_ranges(connection, kept)
    if "META_DATA_EXPORT" in kept:
        connection.execute(f"DELETE FROM META_DATA_EXPORT WHERE NOT ({_like('name', FACTS)})")
    if {"id", "value"} <= set(kept.get("StringIds", ())):
        pointers = [f'SELECT "{column}" FROM main."{table}"' for table, columns in kept.items()
                    for column in columns if column in POINTERS]  # fmt: skip
        used = " UNION ".join(pointers) or "SELECT NULL"
        connection.execute(
            f"CREATE TABLE StringIds AS SELECT {_field('StringIds', 'id')}, {_field('StringIds', 'value')} "
            f"FROM source.StringIds WHERE id IN ({used})"
        )
    if clean:
        _clean_texts(connection, kept, clean)
    connection.execute("COMMIT")
    connection.execute("DETACH source")
    # What was deleted stays in the free parts of pages until the file is rebuilt.
    connection.execute("VACUUM")


def _clean_texts(connection: sqlite3.Connection, kept: dict[str, list[str]], clean: Callable[[str], str]) -> None:
    connection.create_function("clean", 1, clean, deterministic=True)
    made = {str(name) for (name,) in connection.execute(PLAIN_TABLES)}
    for table, columns in kept.items():
        if table not in made:
            continue
        for column in _text_columns(table).intersection(columns):
            connection.execute(
                f'UPDATE main."{table}" SET "{column}" = clean("{column}") WHERE typeof("{column}") = \'text\''
            )


def _text_columns(table: str) -> set[str]:
    return TEXTS.get(table, ENUM_TEXTS if table.startswith("ENUM_") else set())


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    names = [str(field[1]) for field in connection.execute(f'PRAGMA source.table_info("{table}")')]
    return [name for name in names if COLUMN.fullmatch(name)]


def _field(table: str, column: str) -> str:
    kinds = "'integer', 'real', 'text'" if column in _text_columns(table) else "'integer', 'real'"
    return f'CASE WHEN typeof("{column}") IN ({kinds}) THEN "{column}" END AS "{column}"'


def _drop_other_ranges(connection: sqlite3.Connection, kept: dict[str, list[str]]) -> None:
    columns = kept.get("NVTX_EVENTS")
    if not columns:
        return
    parts = ["text"] if "text" in columns else []
    if "textId" in columns and {"id", "value"} <= set(kept.get("StringIds", ())):
        parts.append("(SELECT value FROM source.StringIds s WHERE s.id = textId)")
    name = f"coalesce({', '.join([*parts, 'NULL', 'NULL'])})"
    connection.execute(f"DELETE FROM NVTX_EVENTS WHERE ({_like(name, OWN_RANGES)}) IS NOT TRUE")


def _like(name: str, patterns: tuple[str, ...]) -> str:
    return " OR ".join(f"{name} GLOB '{pattern}'" for pattern in patterns)
