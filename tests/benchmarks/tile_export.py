"""Repeat the rows of a real export until it has so many activities: python tile_export.py IN OUT N."""

import gzip
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

GAP_NS = 10_000
ACTIVITIES = ("KERNEL", "MEMCPY", "MEMSET", "GRAPH_TRACE")
TILED = (*ACTIVITIES, "RUNTIME", "CUDA_EVENT", "SYNCHRONIZATION")


def tile_export(source: Path, target: Path, activities: int) -> None:
    """Ids of calls are new in each copy; ids of events and streams stay."""
    with gzip.open(source) as packed, target.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    with closing(sqlite3.connect(target)) as db:
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        tiled = [f"CUPTI_ACTIVITY_KIND_{name}" for name in TILED if f"CUPTI_ACTIVITY_KIND_{name}" in tables]
        times = [table for table in tiled if not table.endswith("CUDA_EVENT")]
        first = min(_one(db, f"SELECT min(start) FROM {table}") for table in times)
        last = max(_one(db, f"SELECT max(end) FROM {table}") for table in times)
        ids = max(_one(db, f"SELECT max(correlationId) FROM {table}") for table in tiled) + 1
        count = sum(_one(db, f"SELECT count(*) FROM {table}") for table in tiled if table.endswith(ACTIVITIES))
        copies = max(1, round(activities / count))
        db.execute("CREATE TEMP TABLE copy AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT "
                   f"{copies - 1}) SELECT i FROM n")  # fmt: skip
        for table in tiled if copies > 1 else ():
            columns = [str(row[1]) for row in db.execute(f"PRAGMA table_info({table})")]
            moved = {
                "start": f"start + i * {last - first + GAP_NS}",
                "end": f"end + i * {last - first + GAP_NS}",
                "correlationId": f"correlationId + i * {ids}",
            }
            fields = ", ".join(moved.get(column, column) for column in columns)
            db.execute(f"CREATE TEMP TABLE one AS SELECT * FROM {table}")
            db.execute(f"INSERT INTO {table} SELECT {fields} FROM copy, one ORDER BY i")
            db.execute("DROP TABLE one")
        db.commit()


def _one(db: sqlite3.Connection, sql: str) -> int:
    [(value,)] = db.execute(sql)
    return int(value)


if __name__ == "__main__":
    tile_export(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
