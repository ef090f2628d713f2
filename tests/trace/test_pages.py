import random
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import TraceError
from bench.trace.export import TABLES, open_export
from bench.trace.pages import NULL, read_columns

# Every width in which SQLite stores an integer, and both sides of each border.
WIDTHS = [
    0,
    1,
    2,
    *(sign * (2**bits + more) for bits in (7, 15, 23, 31, 47, 62) for sign in (1, -1) for more in (-1, 0, 1)),
]
integers = st.one_of(st.none(), st.sampled_from(WIDTHS), st.integers(-(2**63) + 1, 2**63 - 1))
rows_of_three = st.lists(st.tuples(integers, st.one_of(integers, st.text(max_size=20)), integers), max_size=60)


def make(path, rows, page_size=512, columns="a, b, c"):
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA page_size = {page_size}")
        db.execute(f"CREATE TABLE t ({columns})")
        db.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(columns.split(',')))})", rows)
        db.commit()
    return path


def read(path, width=3, wanted=(0, 2)):
    with closing(sqlite3.connect(path)) as db:
        [(root,)] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 't'")
    found = read_columns(path, root, width, wanted)
    return None if found is None else [column.tolist() for column in found]


def expected(rows, wanted=(0, 2)):
    return [[NULL if row[place] is None else row[place] for row in rows] for place in wanted]


@settings(max_examples=200)
@given(rows_of_three, st.sampled_from([512, 4096, 65536]))
def test_pages_hold_what_was_written(tmp_path_factory, rows, page_size):
    path = tmp_path_factory.getbasetemp() / "pages.sqlite"
    assert read(make(path, rows, page_size)) == expected(rows)


def test_a_deep_tree_is_walked_in_order(tmp_path):
    rows = [(number, None, number * 2**33) for number in range(30_000)]
    assert read(make(tmp_path / "x.sqlite", rows)) == expected(rows)


def test_rows_deleted_and_written_again_leave_no_trace(tmp_path):
    path = make(tmp_path / "x.sqlite", [(number, None, -number) for number in range(3000)])
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM t WHERE a % 3 = 0 OR a BETWEEN 1000 AND 2000")
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", [(number, "x", 2**40) for number in range(200)])
        db.commit()
        rows = db.execute("SELECT a, b, c FROM t").fetchall()
    assert read(path) == expected(rows)


@pytest.mark.parametrize(
    "row",
    [(1.5, None, 1), ("text", None, 1), (b"blob", None, 1), (1, "long" * 40, 1), (1, None, "text")],
)
def test_what_is_not_simple_is_left_to_sqlite(tmp_path, row):
    assert read(make(tmp_path / "x.sqlite", [(1, 2, 3), row])) is None


def test_rows_beyond_a_page_are_left_to_sqlite(tmp_path):
    assert read(make(tmp_path / "x.sqlite", [(1, 2, "x" * 5000)]), wanted=(0, 1)) is None


def test_columns_added_later_are_read_all_the_same(tmp_path):
    path = make(tmp_path / "x.sqlite", [(1, 2, 3)])
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE t ADD COLUMN d INTEGER DEFAULT 9")
        db.commit()
    assert read(path, width=4) is None
    with open_export(path) as export:
        assert [column.tolist() for column in export.integers("t", "a", "d")] == [[1], [9]]


@pytest.mark.parametrize(
    "columns", ["a INTEGER PRIMARY KEY, b, c", "a, b, c INTEGER GENERATED ALWAYS AS (a + b) STORED"]
)
def test_keys_and_generated_columns_are_read_by_sqlite(tmp_path, columns):
    path = tmp_path / "x.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE t ({columns})")
        db.execute("INSERT INTO t (a, b) VALUES (7, 8)")
        db.commit()
    with open_export(path) as export:
        assert [column.tolist() for column in export.integers("t", "a", "b")] == [[7], [8]]


def test_real_exports_are_read_from_their_pages(real_export, tmp_path):
    """All tables and all integer columns of both fixtures, against SQL."""
    checked = 0
    with open_export(real_export) as export:
        for table in TABLES:
            columns = [
                name for name in TABLES[table] if export.has(table, name) and name not in ("text", "value", "name")
            ]
            if table.startswith("CUPTI") and export.has(table):
                pages = export._from_pages(table, columns)
                assert [column.tolist() for column in pages] == [c.tolist() for c in export._from_sql(table, columns)]
                checked += 1
    assert checked >= 3


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_damaged_pages_never_do_worse_than_none(tmp_path_factory, seed, changes):
    folder = tmp_path_factory.getbasetemp()
    path = make(folder / "sound.sqlite", [(number, None, number) for number in range(400)])
    data, generator = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(changes):
        data[generator.randrange(100, len(data))] = generator.randrange(256)
    (folder / "damaged.sqlite").write_bytes(data)
    found = read_columns(folder / "damaged.sqlite", 2, 3, (0, 2))
    assert found is None or len(found) == 2
    try:
        with open_export(folder / "damaged.sqlite") as export:
            export.integers("t", "a", "c")
    except TraceError:
        pass
