import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.history.database import SCHEMA_VERSION, HistoryError, add_study, on_network, open_history, transaction
from bench.history.query import studies, with_cells
from bench.records.base import convert
from bench.records.results import NoiseClass
from bench.records.study import Cell
from tests.history.synthetic import cell_names, made_results, quiet_rates, rates_of

VERSION_2 = Path(__file__).parents[1] / "fixtures/history/version_2.sql"
WRITER = """
import sys
from pathlib import Path
from bench.history.database import add_study
from tests.history.synthetic import made_results, quiet_rates, rates_of
folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    add_study(made_results(folder, number, rates_of(quiet_rates(1)[0])), folder / "history.db")
"""


@pytest.fixture
def old(tmp_path):
    """history.db as schema version 2 left it: eight nights of eight cells, the last with a loss, and a study."""
    path = tmp_path / "history.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_2.read_text())
    return path


def rows(path, query):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_migration_from_version_2_keeps_everything(old):
    kept = {
        table: rows(old, f"select * from {table}") for table in ("studies", "cells", "runs", "penalties", "verdicts")
    }
    rates = rows(old, "select calm_samples_s, noise_class from measurements order by id")
    assert rows(old, "pragma user_version") == [(2,)]
    assert {noise_class for _, noise_class in rates} == {"rest", "launch-bound"}
    with open_history(old) as history:
        studied = with_cells(history, studies(history))
    assert rows(old, "pragma user_version") == rows(old, "select value + 0 from meta") == [(SCHEMA_VERSION,)]
    kept["verdicts"] = [(*row, None) for row in kept["verdicts"]]
    assert {table: rows(old, f"select * from {table}") for table in kept} == kept
    assert rows(old, "select undisturbed_samples_s, noise_class from measurements order by id") == [
        (rate, NoiseClass.DEVICE_BOUND if noise_class == "rest" else noise_class) for rate, noise_class in rates
    ]
    assert not rows(old, "pragma foreign_key_check")
    assert [(study.night, len(study.measured), study.slower) for study in studied[:3]] == [
        ("", 8, 0), ("2026-11-08", 8, 1), ("2026-11-07", 8, 0),
    ]  # fmt: skip


def test_cells_of_an_old_history_have_the_keys_of_today(old):
    """Otherwise the next night would begin a new series."""
    stored = rows(old, "select key, name, gpu, cpu_node, mem_node, model, settings from cells")
    for key, name, gpu, cpu_node, mem_node, model, settings in stored:
        patch_size, depth, dim = map(int, model.removeprefix("vit").split("x"))
        heads = 4 if dim else 0
        values = json.loads(settings) | {"name": name, "gpu": gpu, "cpu_node": cpu_node, "mem_node": mem_node}
        values["model"] = {"patch_size": patch_size, "depth": depth, "dim": dim, "heads": heads}
        assert convert(values, Cell).key == key


def test_an_old_history_takes_new_nights(old):
    add_study(made_results(old.parent, 1, rates_of(quiet_rates(1)[0])), old)
    with open_history(old) as history:
        assert [study.cells for study in studies(history)].count(48) == 1
        assert len(studies(history)) == 10


def test_a_new_history_has_the_tables_of_a_migrated_one(old, tmp_path):
    def schema(path, create):
        with open_history(path, create) as history:
            rows = history.conn.execute("select type, name, tbl_name from sqlite_master order by 1, 2").fetchall()
            columns = {table: [tuple(row[1:]) for row in history.conn.execute(f"pragma table_info({table})")]
                       for kind, table, _ in rows if kind == "table"}  # fmt: skip
            return rows, columns

    (tmp_path / "new").mkdir()
    assert schema(old, False) == schema(tmp_path / "new" / "history.db", True)


def test_a_newer_history_is_refused_with_both_versions(old):
    with sqlite3.connect(old) as connection:
        connection.execute("pragma user_version = 99")
    with pytest.raises(HistoryError, match=f"version 99, this program reads up to {SCHEMA_VERSION}"), open_history(old):
        pass


def test_a_history_from_before_version_2_is_refused_with_advice(old):
    with sqlite3.connect(old) as connection:
        connection.execute("pragma user_version = 1")
    with pytest.raises(HistoryError, match="version 1, this program reads from 2 on") as refused, open_history(old):
        pass
    assert "--add RUN_DIR" in refused.value.advice


def test_a_row_that_is_damaged_is_named(old):
    with sqlite3.connect(old) as connection:
        connection.execute("update studies set cells = 'many'")
    with pytest.raises(HistoryError, match="cells"), open_history(old) as history:
        studies(history)


def test_two_processes_write_at_once(tmp_path):
    """Both make the database, bring it up to date and add nights; none is lost, and none fails."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, first, "12"], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
        for first in ("1", "101")
    ]
    for writer in writers:
        assert writer.communicate(timeout=280)[1] == ""
        assert writer.returncode == 0
    with open_history(tmp_path / "history.db") as history:
        assert len(studies(history)) == 24
        assert history["measurements"].count == 24 * 48
        assert history["cells"].count == 48
        assert history.conn.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_history_without_room_is_no_damaged_one(tmp_path):
    path = tmp_path / "history.db"
    with open_history(path, create=True) as history:
        history.execute("create table numbers (number)")
    with (
        pytest.raises(HistoryError, match="No space left on device") as failure,
        open_history(path) as history,
        transaction(history) as connection,
    ):
        connection.execute("pragma max_page_count = 1")
        # SQLite ends the transaction by itself.
        connection.execute("insert into numbers values (zeroblob(1000000))")
    assert "make room" in str(failure.value) and "damaged" not in str(failure.value)


def test_a_history_locked_for_too_long_says_so(tmp_path):
    path = tmp_path / "history.db"
    results = made_results(tmp_path, 1, rates_of(quiet_rates(1)[0]))
    add_study(results, path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin immediate")
    with pytest.raises(HistoryError, match="another program has held the history"):
        add_study(results, path, busy_s=0.1)
    holder.execute("rollback")
    holder.close()
    add_study(results, path, busy_s=0.1)


def test_readers_do_not_wait_for_a_writer(tmp_path):
    path = tmp_path / "history.db"
    add_study(made_results(tmp_path, 1, rates_of(quiet_rates(1)[0])), path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin immediate")
    holder.execute("delete from runs")
    with open_history(path, busy_s=0.1) as history:
        assert history["runs"].count == 48 * 3
    holder.close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""])
def test_refuses_a_damaged_history_and_starts_an_empty_one(tmp_path, content):
    path = tmp_path / "history.db"
    path.write_bytes(content)
    results = made_results(tmp_path, 1, rates_of(quiet_rates(1)[0]))
    if content:
        with pytest.raises(HistoryError, match="cannot be used"):
            add_study(results, path)
        assert path.read_bytes() == content
    else:
        add_study(results, path)


def test_no_history_is_named(tmp_path):
    with pytest.raises(HistoryError, match="no history yet"), open_history(tmp_path / "history.db"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path):
    path = tmp_path / "history.db"
    results = made_results(tmp_path, 1, rates_of(quiet_rates(1)[0]))
    with pytest.raises(AttributeError):
        add_study(replace(results, cells=(*results.cells, None)), path)
    with open_history(path) as history:
        assert (history["studies"].count, history["cells"].count) == (0, 0)
        with pytest.raises(RuntimeError), transaction(history) as connection:
            connection.execute("insert into meta values ('a', 'b')")
            raise RuntimeError
        assert history["meta"].count == 1


def test_opens_with_plain_types_and_foreign_keys_for_datasette(tmp_path):
    path = tmp_path / "history.db"
    add_study(made_results(tmp_path, 1, rates_of(quiet_rates(1)[0])), path)
    with open_history(path) as history:
        kinds = {kind for table in history.tables for kind in table.columns_dict.values()}
        keys = {(table.name, key.column, key.other_table) for table in history.tables for key in table.foreign_keys}
    assert kinds <= {str, int, float}
    assert {("measurements", "study_id", "studies"), ("measurements", "cell_id", "cells"),
            ("runs", "measurement_id", "measurements"), ("verdicts", "study_id", "studies")} <= keys  # fmt: skip
    assert len(cell_names()) == 48


@pytest.mark.parametrize(
    ("kind", "expected"), [("nfs4", True), ("lustre", True), ("fuse.sshfs", True), ("ext4", False), ("overlay", False)]
)
def test_network_file_systems_are_known_by_their_mount(tmp_path, kind, expected):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\nproc /proc proc rw 0 0\n")
    assert on_network(tmp_path / "deep" / "history.db", mounts) is expected
