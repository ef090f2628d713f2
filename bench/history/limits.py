"""What the file of a history may do to its reader: it may be anybody's."""

import sqlite3
from itertools import count

from bench.records.base import DamagedRecord

# The most bytes of one value, and the most steps of all queries of one opening (SQLite does
# about 50 million a second).
LONGEST_VALUE_BYTES = 16 << 20
MOST_STEPS = 1_000_000_000
_STEPS_BETWEEN_CHECKS = 1_000_000
_TABLES = ("meta", "studies", "cells", "measurements", "runs", "penalties", "verdicts")


def restrict(connection: sqlite3.Connection) -> None:
    """Let the schema of the file run nothing, and no query run for ever. Raise DamagedRecord, sqlite3.Error."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    checks_left = count(MOST_STEPS // _STEPS_BETWEEN_CHECKS, -1)
    connection.set_progress_handler(lambda: next(checks_left) <= 0, _STEPS_BETWEEN_CHECKS)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        own = name in _TABLES and (kind != "table" or not str(sql).startswith("CREATE TABLE"))
        if kind == "trigger" or own:
            raise DamagedRecord(f"{name!r} is not a table of numastudy, but a {kind}")
