import json
import sqlite3

import pytest

from bench.report.tables import SCHEMA_VERSION, write_database


@pytest.fixture
def database(tmp_path, numa_results):
    write_database(tmp_path / "results.db", numa_results)
    with sqlite3.connect(tmp_path / "results.db") as connection:
        yield connection


def test_tables_hold_what_results_hold(database, numa_results):
    def count(table):
        return database.execute(f"select count(*) from {table}").fetchone()[0]

    assert (count("study"), count("cells"), count("runs")) == (1, 48, 336)
    assert count("penalties") == len(numa_results["penalties"])


def test_schema_version_is_told_twice(database):
    assert database.execute("pragma user_version").fetchone() == (SCHEMA_VERSION,)
    assert database.execute("select value from meta where key = 'schema_version'").fetchone() == (str(SCHEMA_VERSION),)


def test_runs_join_cells(database):
    query = "select count(*) from runs join cells on runs.cell = cells.name where cells.outcome = 'oom'"
    assert database.execute(query).fetchone() == (7,)
    assert not database.execute("pragma foreign_key_check").fetchall()


def test_the_metrics_stay_whole(database, numa_results):
    (text,) = database.execute("select metrics from cells limit 1").fetchone()
    assert json.loads(text) == numa_results["cells"][0]["metrics"]


def test_a_write_that_fails_leaves_the_old_database(tmp_path, numa_results):
    path = tmp_path / "results.db"
    write_database(path, numa_results)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_database(path, {**numa_results, "cells": [{}]})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.db"]


def test_a_study_without_penalties_has_the_table_all_the_same(tmp_path, quick_run, results_of):
    write_database(tmp_path / "results.db", results_of(quick_run))
    with sqlite3.connect(tmp_path / "results.db") as connection:
        assert connection.execute("select count(*) from penalties").fetchone() == (0,)
