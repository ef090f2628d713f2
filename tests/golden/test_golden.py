"""What the first version gave for these run directories, value by value; its sentences are compared in tests/report."""

import csv
import gzip
import json
from pathlib import Path

import pytest
from sqlite_utils import Database

from bench.report.build import make_report
from tests.golden.directories import DIRECTORIES
from tests.golden.schema_1 import differences, renamed, unexplained, with_new_labels

BEFORE = Path(__file__).parent / "before"
FAST = ("damaged", "numa_unknown_node", "placement_2x2", "contention")


def test_every_directory_has_a_stored_result():
    assert {path.name.removesuffix(".json.gz") for path in BEFORE.iterdir()} == set(DIRECTORIES)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in DIRECTORIES]
)
def test_results_are_what_they_were(name, tmp_path):
    before = json.loads(gzip.decompress((BEFORE / f"{name}.json.gz").read_bytes()))
    run = DIRECTORIES[name](tmp_path / name)
    make_report(run, "golden")
    results = json.loads((run / "results.json").read_bytes())
    assert unexplained(differences(renamed(before["results"]), results)) == []
    with (run / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert differences(with_new_labels(before["csv"]), rows) == []
    tables = {table.name: table.count for table in Database(run / "results.db").tables}
    assert differences(before["database"], tables) == []
