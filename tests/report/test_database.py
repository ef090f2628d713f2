import json
import sqlite3

import pytest
from msgspec.structs import replace

from bench.records.base import plain
from bench.report.tables import SCHEMA_VERSION, write_database


@pytest.fixture
def database(tmp_path, numa_view):
    write_database(tmp_path / "results.db", numa_view.results)
    with sqlite3.connect(tmp_path / "results.db") as connection:
        yield connection


def test_tables_hold_what_results_hold(database, numa_view):
    def count(table):
        return database.execute(f"select count(*) from {table}").fetchone()[0]

    assert (count("study"), count("cells"), count("runs")) == (1, 48, 336)
    assert count("penalties") == len(numa_view.results.penalties)


def test_schema_version_is_stored_twice(database):
    assert database.execute("pragma user_version").fetchone() == (SCHEMA_VERSION,)
    assert database.execute("select value from meta where key = 'schema_version'").fetchone() == (str(SCHEMA_VERSION),)


def test_runs_join_cells(database):
    query = "select count(*) from runs join cells on runs.cell = cells.name where cells.outcome = 'oom'"
    assert database.execute(query).fetchone() == (7,)
    assert not database.execute("pragma foreign_key_check").fetchall()


def test_the_metrics_stay_whole(database, numa_view):
    (text,) = database.execute("select metrics from cells limit 1").fetchone()
    assert json.loads(text) == plain(numa_view.results.cells[0].metrics)


def test_a_write_that_fails_leaves_the_old_database(tmp_path, numa_view):
    path = tmp_path / "results.db"
    write_database(path, numa_view.results)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_database(path, replace(numa_view.results, cells=(None,)))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.db"]


def test_a_study_without_penalties_has_the_table_all_the_same(tmp_path, quick_run, view_of):
    write_database(tmp_path / "results.db", view_of(quick_run).results)
    with sqlite3.connect(tmp_path / "results.db") as connection:
        assert connection.execute("select count(*) from penalties").fetchone() == (0,)
