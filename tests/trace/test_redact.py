"""What may be published, looked for on the file byte by byte."""

import gzip
import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from bench.cli import main
from bench.errors import StudyError
from bench.trace.analyze import analyze_file
from bench.trace.export import open_export
from bench.trace.redact import redact
from tests.trace.trace_builder import VERSIONS, pipeline, write

TRACES = Path(__file__).parents[1] / "fixtures/traces"
SECRETS = ("hunter2", "alice", "/home/alice/secret", "node17.example.org", "AWS_SECRET", "postgres: idle", "salary.py")


def soiled(path: Path, version: str) -> Path:
    """As nsys leaves it: environment, processes, names of the host, in tables, in strings, in meta data, in ranges."""
    write(path, pipeline(), version)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE IF NOT EXISTS StringIds (id INTEGER PRIMARY KEY, value TEXT)")
        db.executemany("INSERT INTO StringIds VALUES (?, ?)", [(9000 + i, text) for i, text in enumerate(SECRETS)])
        db.execute("INSERT INTO StringIds VALUES (9900, 'AWS_SECRET=hunter2' || char(0) || 'USER=alice')")
        for table in (
            "PROCESSES",
            "TARGET_INFO_SYSTEM_ENV",
            "ThreadNames",
            "NEW_TABLE_OF_NEXT_YEAR",
            "DIAGNOSTIC_EVENT",
        ):
            db.execute(f"CREATE TABLE {table} (name TEXT, value TEXT)")
            db.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(text, text) for text in SECRETS])
        db.execute("CREATE TABLE IF NOT EXISTS META_DATA_EXPORT (name TEXT, value TEXT)")
        db.executemany(
            "INSERT INTO META_DATA_EXPORT VALUES (?, ?)",
            [("EXPORT_HOST", "node17.example.org"), ("EXPORT_USER", "alice"),
             ("EXPORT_PARAM_INPUT_PATH", "/home/alice/secret"), ("EXPORT_SCHEMA_VERSION", "3.20.3")],
        )  # fmt: skip
        db.execute("ALTER TABLE NVTX_EVENTS ADD COLUMN jsonText TEXT")
        db.execute("UPDATE NVTX_EVENTS SET jsonText = 'alice'")
        column, name = ("textId", 9006) if version != "plain" else ("text", SECRETS[-1])
        row = (1, 2, 59, 1, name)
        db.execute(f"INSERT INTO NVTX_EVENTS (start, end, eventType, globalTid, {column}) VALUES (?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME (start, globalTid) VALUES ('hunter2', 'alice')")
        db.execute("DELETE FROM CUPTI_ACTIVITY_KIND_RUNTIME WHERE start = 'hunter2'")
        db.execute("CREATE VIEW CUPTI_ACTIVITY_KIND_VIEW AS SELECT * FROM PROCESSES")
        db.execute("CREATE TABLE deleted (name TEXT)")
        db.executemany("INSERT INTO deleted VALUES (?)", [(text,) for text in SECRETS])
        db.execute("DROP TABLE deleted")
    db.close()
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_private_is_left_and_no_metric_changes(tmp_path, version):
    soiled_file, clean = soiled(tmp_path / "x.sqlite", version), tmp_path / "clean.sqlite"
    before = soiled_file.read_bytes()
    assert all(secret.encode() in before for secret in SECRETS)
    redact(soiled_file, clean)
    assert soiled_file.read_bytes() == before
    left = clean.read_bytes()
    assert [secret for secret in SECRETS if secret.encode() in left] == []
    assert b"3.20.3" in left
    write(tmp_path / "plain.sqlite", pipeline(), version)
    cleaned, plain = analyze_file(clean, "x"), analyze_file(tmp_path / "plain.sqlite", "x")
    assert cleaned.metrics.export.schema == "3.20.3"
    assert replace(cleaned, metrics=replace(cleaned.metrics, export=plain.metrics.export)) == plain


@pytest.mark.parametrize("packed", sorted(TRACES.glob("*.sqlite.gz")), ids=lambda path: path.name.partition(".")[0])
def test_a_real_trace_keeps_its_metrics_without_names(tmp_path, packed):
    clean = tmp_path / "clean.sqlite"
    redact(packed, clean)
    assert analyze_file(clean, "x") == analyze_file(packed, "x")
    with open_export(clean) as export:
        strings = {value for (value,) in export.rows("SELECT value FROM StringIds")}
    assert strings and not any(text.startswith(("/", "kworker", "kthread", "pool_work")) for text in strings)


def test_the_traces_that_are_committed_were_cleaned(tmp_path):
    for packed in TRACES.glob("*.sqlite.gz"):
        (tmp_path / "kept.sqlite").write_bytes(gzip.decompress(packed.read_bytes()))
        redact(packed, tmp_path / "again.sqlite")
        assert _content(tmp_path / "kept.sqlite") == _content(tmp_path / "again.sqlite"), f"numastudy redact {packed}"


def _content(path: Path) -> list[str]:
    with sqlite3.connect(path) as db:
        return sorted(db.iterdump())


def test_the_command_writes_a_copy_and_keeps_its_input(tmp_path):
    soiled_file = soiled(tmp_path / "x.sqlite", "current")
    done = CliRunner().invoke(main, ["redact", str(soiled_file), "-o", str(tmp_path / "y.sqlite")])
    assert done.exit_code == 0 and "y.sqlite" in done.output
    assert b"hunter2" in soiled_file.read_bytes() and b"hunter2" not in (tmp_path / "y.sqlite").read_bytes()


@pytest.mark.parametrize("content", [b"", b"QDSTRM", b"SQLite format 3\0" + b"\xff" * 5000])
def test_another_file_is_refused_and_nothing_is_written(tmp_path, content):
    (tmp_path / "x.nsys-rep").write_bytes(content)
    with pytest.raises(StudyError):
        redact(tmp_path / "x.nsys-rep", tmp_path / "y.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["x.nsys-rep"]


def test_a_trace_is_cleaned_in_place(tmp_path):
    path = soiled(tmp_path / "x.sqlite", "current")
    shutil.copy(path, tmp_path / "kept.sqlite")
    redact(path, path)
    assert b"hunter2" not in path.read_bytes() and analyze_file(path).metrics.batches == 3
