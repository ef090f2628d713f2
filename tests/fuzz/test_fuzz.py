"""A sample of what `make fuzz` tries, and the worst cases by name. Nothing but StudyError may come out."""

import gzip
import json
import sqlite3
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.analysis.load import load
from bench.errors import StudyError
from bench.study.directory import RunDirectory
from bench.study.load import load_study
from bench.trace import export as database
from bench.trace import torch_trace as chrome
from bench.trace.analyze import analyze_file
from bench.trace.export import connect_read_only
from tests.fuzz.blind import damaged
from tests.fuzz.targets import TARGETS
from tests.run_directories import build_run_directory, topology_json
from tests.trace.trace_builder import pipeline, write


@pytest.fixture
def quick_run(tmp_path):
    """3 cells, 1 repeat, cpu device, one node."""
    return build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=topology_json(gpus=0, nodes=1))


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_only_raise_study_errors(name):
    target = TARGETS[name]
    seeds = target.seeds()

    @settings(max_examples=20, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(10**6, 10**9))
    def tried(number):
        target.run(damaged(target, seeds, number))

    tried()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(value=ANYTHING)
def test_any_yaml_only_raises_study_errors(tmp_path, value):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8", errors="replace")
    with pytest.raises(StudyError):
        load_study(path)


@pytest.mark.parametrize(
    "tag", ["object/apply:os.system [touch {}]", "object/new:os.system [touch {}]", "name:os.system"]
)
def test_yaml_runs_nothing(tmp_path, tag):
    witness = tmp_path / "ran"
    for name in ("study.yaml", "run/study.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"name: !!python/{tag.format(witness)}\n")
    with pytest.raises(StudyError):
        load_study(tmp_path / "study.yaml")
    with pytest.raises(StudyError):
        load(tmp_path / "run")
    assert not witness.exists()


LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, "name: study\nself: &a [*a]\n", "name: " + "[" * 200_000, "- " * 100_000, "name: s\nday: 2026-01-01\n",
     "name: ../../out\n", "name: s\nmargin: .inf\n", "x" * (2 << 20)],
    ids=["laughs", "itself", "deep", "deep in a row", "a date", "elsewhere", "infinite", "large"],
)  # fmt: skip
def test_a_frozen_study_of_others_is_small_and_plain(tmp_path, text):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(StudyError):
        RunDirectory(tmp_path).study()


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "MOST_UNPACKED_BYTES", 1 << 20)
    monkeypatch.setattr(chrome, "MOST_BYTES", 1 << 20)
    for name, head in (("x.sqlite.gz", b"SQLite format 3\0"), ("x.trace.json.gz", b"{")):
        (tmp_path / name).write_bytes(gzip.compress(head + b" " * (8 << 20)))
        with pytest.raises(StudyError, match=r"far more than a trace|not a trace of a run"):
            analyze_file(tmp_path / name)


def test_the_schema_of_a_database_runs_nothing(tmp_path):
    path = write(tmp_path / "x.sqlite", pipeline())
    with sqlite3.connect(path) as db:
        db.execute("CREATE VIRTUAL TABLE virtual USING fts5(text)")
        db.execute("CREATE VIEW endless AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n")
    connection = connect_read_only(path)
    plain = {name for (name,) in connection.execute(database.PLAIN_TABLES)}
    assert "NVTX_EVENTS" in plain and not plain & {"virtual", "endless"}
    for statement in (
        "DELETE FROM NVTX_EVENTS",
        "ATTACH ':memory:' AS other",
        "PRAGMA writable_schema = ON; DELETE FROM sqlite_master",
    ):
        with pytest.raises((sqlite3.Error, sqlite3.Warning, sqlite3.ProgrammingError)):
            connection.execute(statement)
    assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
    with pytest.raises((sqlite3.Error, OverflowError, MemoryError)):
        connection.execute("SELECT zeroblob(1000000000)").fetchone()
    if sys.version_info >= (3, 12):
        assert connection.getconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE)
    connection.close()


@pytest.mark.parametrize(
    "name", ["../../../../etc/passwd", "/etc/passwd", "..", ".hidden", "a/b", "a\\b", "x\0y", "", 7]
)
def test_names_of_a_foreign_run_directory_lead_nowhere(quick_run, name):
    file = quick_run / "grid.json"
    grid = json.loads(file.read_text())
    grid["cells"][0]["name"] = name
    file.write_text(json.dumps(grid))
    for read in (load, lambda path: RunDirectory(path).grid()):
        with pytest.raises(StudyError, match="grid of the study"):
            read(quick_run)


def test_a_record_that_leads_elsewhere_is_damaged(quick_run):
    file = min((quick_run / "runs").glob("*_r1.json"))
    for changes in ({"run": "../../x"}, {"cell": "../../x"}, {"run": "other_r1"}, {"repeat": 10**9}, {"status": "fine"},
                    {"result": {"throughput_samples_s": -1}}, {"result": {"latency_us": {"p50": "<b>"}}}):  # fmt: skip
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | changes))
        assert [damage.path for damage in load(quick_run).damaged] == [f"runs/{file.name}"], changes
        file.write_text(json.dumps(record))
    assert not load(quick_run).damaged
