"""A history that somebody else made: reported or shown, never a traceback, never without end."""

import os
import random
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bench.history.database import add_study, history_path
from tests.history.synthetic import made_results, places

NUMASTUDY = Path(sys.executable).with_name("numastudy")
VALUES = (
    "javascript:alert(1)//", "<script>alert(1)</script>", "\x1b[2J\x07", "x" * 100_000, "2026-99-99", "", "{", "[1]",
    "9" * 400, -1, 0, 2**62, 1e308, 5e-324, float("inf"), b"\xff\x00", None,
)  # fmt: skip


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    rates = {f"pipeline_gpu{gpu}_numa{node}_{model}": 1000.0 for gpu, node, model in places(1)[:4]}
    for number in (1, 2):
        add_study(made_results(tmp_path, number, rates), history_path(tmp_path))
    return tmp_path


def change(outputs: Path, *statements: str) -> None:
    with closing(sqlite3.connect(history_path(outputs))) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def call(outputs: Path, *words: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    command = [NUMASTUDY, "history", "--output-dir", outputs, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    return done


ENDLESS = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)"


@pytest.mark.parametrize("words", [(), ("--page",), ("--json",)])
def test_view_in_place_of_a_table_is_refused(outputs: Path, words: tuple[str, ...]) -> None:
    change(
        outputs,
        "ALTER TABLE studies RENAME TO kept",
        f"CREATE VIEW studies AS {ENDLESS} SELECT kept.*, n FROM kept, r",
    )
    done = call(outputs, *words)
    assert done.returncode == 2
    assert "not a table of numastudy, but a view" in done.stderr


def test_column_that_computes_for_ever_is_stopped(outputs: Path) -> None:
    change(
        outputs,
        "ALTER TABLE studies RENAME TO kept",
        "CREATE TABLE studies AS SELECT * FROM kept",
        f"CREATE TABLE numbers AS {ENDLESS} SELECT n AS id, 'host' AS host, 'a' AS study_name FROM r LIMIT 1000",
        "DELETE FROM studies",
        "INSERT INTO studies (id, host, study_name, measured_at, run_directory, night) "
        "SELECT a.id, a.host, a.study_name, '2026', 'x', '' FROM numbers a, numbers b LIMIT 300000",
        "CREATE TABLE v AS SELECT * FROM verdicts",
        "DROP TABLE verdicts",
        "CREATE TABLE verdicts (study_id, cell_id, verdict)",
        "INSERT INTO verdicts SELECT 1, n.id, 'slower' FROM numbers n",
    )
    done = call(outputs, timeout=800)
    assert done.returncode == 2
    assert "interrupted" in done.stderr


def test_trigger_is_refused(outputs: Path) -> None:
    change(outputs, "CREATE TRIGGER t AFTER INSERT ON studies BEGIN DELETE FROM cells; END")
    assert "a trigger" in call(outputs).stderr


def test_link_of_a_history_stays_inside_the_page(outputs: Path) -> None:
    change(outputs, "UPDATE studies SET run_directory = 'javascript:alert(' || id || ')//', night = 'javascript:x'")
    assert call(outputs, "--page").returncode == 0
    page = (outputs / "index.html").read_text()
    assert not re.search(r"href=[\"']?\s*(javascript:|//)", page, re.IGNORECASE)


def test_fifo_in_place_of_the_history_is_refused(tmp_path: Path) -> None:
    os.mkfifo(history_path(tmp_path))
    assert call(tmp_path, timeout=240).returncode == 2


def test_any_value_in_any_column_is_shown_or_refused(outputs: Path) -> None:
    from click.testing import CliRunner

    from bench.cli import main

    with closing(sqlite3.connect(history_path(outputs))) as connection:
        columns = [
            (table, row[1])
            for table in ("studies", "cells", "measurements", "verdicts")
            for row in connection.execute(f"PRAGMA table_info({table})")
        ]
        original = connection.serialize()
    seed = random.randrange(10**6)
    print("seed", seed)
    drawn = random.Random(seed)
    for _ in range(300):
        table, column = drawn.choice(columns)
        value = drawn.choice(VALUES)
        for name in outputs.glob("history.db*"):
            name.unlink()
        history_path(outputs).write_bytes(original)
        with closing(sqlite3.connect(history_path(outputs))) as connection:
            try:
                connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", [value])
                connection.commit()
            except sqlite3.Error:
                continue
        words = ["history", "--output-dir", str(outputs), *drawn.choice([[], ["--json"], ["--page"]])]
        done = CliRunner().invoke(main, words)
        assert done.exit_code in (0, 2), (table, column, value, done.exception)
        assert "\x1b" not in done.output
        page = outputs / "index.html"
        if page.exists():
            assert "<script>alert" not in page.read_text()
            assert 'href="javascript:' not in page.read_text()
