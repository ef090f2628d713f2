import errno
import os
import sqlite3

import pytest

from bench.errors import TraceError
from bench.trace.export import open_export
from bench.trace.reader import read_trace
from tests.trace.trace_builder import pipeline, write


def test_nothing_is_written_beside_an_export_in_wal_mode(tmp_path):
    path = write(tmp_path / "x.sqlite", pipeline())
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
    db.close()
    before = path.read_bytes()
    folder = sorted(entry.name for entry in tmp_path.iterdir())
    with open_export(path) as export:
        assert export.rows("SELECT count(*) FROM NVTX_EVENTS") == [(4,)]
        assert sorted(entry.name for entry in tmp_path.iterdir()) == folder
    assert path.read_bytes() == before


def test_an_export_cannot_be_changed(tmp_path):
    with open_export(write(tmp_path / "x.sqlite", pipeline())) as export, pytest.raises(TraceError):
        export.rows("DELETE FROM NVTX_EVENTS")


def test_views_are_not_read(tmp_path):
    path = write(tmp_path / "x.sqlite", pipeline())
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE NVTX_EVENTS RENAME TO hidden")
        db.execute(
            "CREATE VIEW NVTX_EVENTS AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n"
        )
    with pytest.raises(TraceError, match="no range"):
        read_trace(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"hello", "not a SQLite export"), (b"\x1f\x8b\x08broken", "cannot unpack")],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message) as caught, open_export(path):
        pass
    assert caught.value.where == str(path)


def test_a_full_disk_is_no_damaged_trace(tmp_path, monkeypatch):
    def full(_source, copy):
        copy.write(b"SQLite")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bench.trace.export._unpack", full)
    path = tmp_path / "x.sqlite.gz"
    path.write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(TraceError, match="unpack the trace: No space left") as caught, open_export(path):
        pass
    assert "TMPDIR" in caught.value.advice


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TraceError, match="No such file"), open_export(tmp_path / "none.sqlite"):
        pass


def test_a_name_with_uri_characters_opens(tmp_path):
    with open_export(write(tmp_path / "a?b#c%20.sqlite", pipeline())) as export:
        assert export.has("NVTX_EVENTS", "text")


def test_another_database_is_not_an_export(tmp_path):
    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (a)")
    with pytest.raises(TraceError, match="not an export of a trace"):
        read_trace(path)
