"""history.db in the real datasette, as it is: no settings, no plugins."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.history.database import add_study
from tests.history.synthetic import made_results, quiet_rates, rates_of


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    for number, row in enumerate(quiet_rates(2), 1):
        add_study(made_results(folder, number, rates_of(row)), folder / "history.db")
    return folder / "history.db"


def get(database: Path, path: str) -> str:
    """The page at `path`; datasette answers one request and ends."""
    datasette = Path(sys.executable).parent / "datasette"
    done = subprocess.run([datasette, database, "--get", path], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_its_tables_can_be_browsed_and_joined(history):
    query = "select count(*) as n from measurements join cells on cells.id = measurements.cell_id"
    (row,) = json.loads(get(history, f"/history.json?_shape=array&sql={query.replace(' ', '+')}"))
    assert row == {"n": 96}


def test_a_measurement_links_to_its_study(history):
    page = get(history, "/history/measurements?_size=1")
    assert "/history/studies/1" in page and "96 rows" in page
