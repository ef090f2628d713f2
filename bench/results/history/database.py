"""history.db: every finished study of an output directory, in one database that several programs may use at once."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import sqlite_utils

from bench.databases import local_copy, on_network
from bench.errors import StudyError
from bench.results.history.schema import SCHEMA_VERSION, migrate, version_of

BUSY_S = 30.0


class HistoryError(StudyError):
    """The history cannot be used; the studies themselves are not touched by that."""


@contextmanager
def open_history(path: Path, create: bool = False, busy_s: float = BUSY_S) -> Iterator[sqlite_utils.Database]:
    """The history at `path`, brought to the current schema. Wait up to busy_s for other writers.

    Raise HistoryError if it is not there (unless `create`), damaged, of a newer schema, or locked for too long.
    """
    if not create and not path.is_file():
        raise HistoryError(
            "there is no history yet", str(path), "finish a study, or add one: numastudy history --add RUN_DIR"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with local_copy(path, busy_s) if on_network(path) else nullcontext(path) as place:
            # Autocommit: the only transactions are the ones begun here, and they begin as writers.
            connection = sqlite3.connect(place, timeout=busy_s, isolation_level=None)
            try:
                connection.execute("PRAGMA foreign_keys = ON")
                _bring_up_to_date(connection, path, busy_s)
                yield sqlite_utils.Database(connection)
            finally:
                connection.close()
    except sqlite3.Error as error:
        raise _told(error, path, busy_s) from None
    except TimeoutError:
        raise _told(sqlite3.OperationalError("locked"), path, busy_s) from None
    except OSError as error:
        raise HistoryError(f"cannot use the history: {error.strerror}", str(path), "mend the permissions") from None


@contextmanager
def writing(database: sqlite_utils.Database) -> Iterator[sqlite3.Connection]:
    """One transaction that has the write lock from its start: two writers wait for each other, and never fail half-way.

    Insert with the connection, not with sqlite-utils' insert, which before its version 4 ends the transaction.
    """
    connection = database.conn
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _bring_up_to_date(connection: sqlite3.Connection, path: Path, busy_s: float) -> None:
    version = version_of(connection)
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise HistoryError(
            f"the history has schema version {version}, this program knows up to {SCHEMA_VERSION}",
            str(path),
            "use the newer version of numastudy that wrote it, or another --output-dir",
        )
    _choose_journal(connection, path, busy_s)
    with writing(sqlite_utils.Database(connection)):
        # Another program may have done it while this one waited for the lock.
        if version_of(connection) < SCHEMA_VERSION:
            migrate(connection)


def _choose_journal(connection: sqlite3.Connection, path: Path, busy_s: float) -> None:
    """WAL, so that readers and a writer do not wait for each other; it needs memory shared by all its users, which
    hosts of a network file system do not have."""
    if on_network(path):
        return
    deadline = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            # This statement does not wait by itself for another program that does the same.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _told(error: sqlite3.Error, path: Path, busy_s: float) -> HistoryError:
    if "locked" in str(error) or "busy" in str(error):
        return HistoryError(
            f"another program has held the history for {busy_s:g} s", str(path), "close that program, then try again"
        )
    return HistoryError(
        f"the history cannot be used: {error}",
        str(path),
        "if it is damaged, move it away and add the run directories again: numastudy history --add RUN_DIR",
    )
