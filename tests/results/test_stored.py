import json

import pytest

from bench.compare import compare_command, read_results
from bench.errors import StudyError
from bench.legacy.pairs import throughputs
from tests.run_directories import build_run_directory


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    from bench.report.build import make_report

    path = build_run_directory(tmp_path_factory.mktemp("stored") / "run", "quick_test", {"repeats": 3})
    make_report(path, "synthetic")
    return path


@pytest.mark.parametrize("place", ["", "/results.json", "/results.db"])
def test_the_same_runs_from_each_place(run_directory, place):
    results = read_results(f"{run_directory}{place}")
    expected = json.loads((run_directory / "results.json").read_text())
    assert results["fingerprint"] == expected["fingerprint"]
    for cell, same in zip(results["cells"], expected["cells"], strict=True):
        assert (cell["name"], cell["key"]) == (same["name"], same["key"])
        assert throughputs(cell) == throughputs(same)


def test_a_directory_without_results_is_read_from_its_records(tmp_path):
    path = build_run_directory(tmp_path / "run", "quick_test")
    assert len(read_results(str(path))["cells"]) == 3


def test_a_database_can_be_asked_for_some_cells(run_directory):
    results = read_results(f"{run_directory}/results.db?model = 'vit0x0x0'")
    assert [cell["model"]["name"] for cell in results["cells"]] == ["vit0x0x0"]


def test_a_run_directory_compared_with_itself_is_the_same_everywhere(run_directory):
    for place in ("", "/results.db"):
        text, code = compare_command(str(run_directory), f"{run_directory}{place}")
        assert code == 0 and "0.00 %" in text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("results.json", "[]", "no list of cells"),
        ("results.json", '{"cells": [{}]}', "cells\\[0\\].name is missing"),
        ("results.db", "not a database", "cannot be read"),
    ],
)
def test_what_is_no_results_is_told(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(StudyError, match=told):
        read_results(str(tmp_path / name))


def test_nothing_there_and_a_wrong_condition_are_told(run_directory, tmp_path):
    with pytest.raises(StudyError, match="no results here"):
        read_results(str(tmp_path / "absent"))
    with pytest.raises(StudyError, match="no such column"):
        read_results(f"{run_directory}/results.db?speed > 3")
