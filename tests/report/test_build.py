import json
import os
import stat

import pytest
from msgspec.structs import replace

from bench.analysis.load import read_results
from bench.errors import StudyError
from bench.records.run import Outcome
from bench.report.build import make_report
from tests.run_directories import build_run_directory, edit_study

MADE = {"results.json", "experiment_summary.json", "results.csv", "results.db", "report.md", "report.html"}


def test_writes_all_files_readable_by_others(quick_run):
    before, mask = {file.name for file in quick_run.iterdir()}, os.umask(0o022)
    try:
        make_report(quick_run, "test")
    finally:
        os.umask(mask)
    assert {file.name for file in quick_run.iterdir()} - before == MADE
    assert all(stat.S_IMODE((quick_run / name).stat().st_mode) & 0o044 for name in MADE)


def test_a_second_report_has_the_same_values(quick_run):
    first, second = make_report(quick_run, "one"), make_report(quick_run, "two")
    assert (first.invocation, second.invocation) == ("one", "two")
    assert replace(first, invocation="two", created_at=second.created_at) == second


def test_returns_what_results_json_has(quick_run):
    results = make_report(quick_run, "test")
    assert read_results(quick_run) == results


def test_no_run_directory_is_an_error_by_name(tmp_path):
    with pytest.raises(StudyError, match="not a run directory"):
        make_report(tmp_path, "test")


def test_a_study_of_damaged_records_gets_a_report(quick_run):
    for file in [*(quick_run / "runs").iterdir(), *(quick_run / "latency").iterdir(), quick_run / "topology.json"]:
        file.write_text("{")
    results = make_report(quick_run, "test")
    assert results.counts.outcomes == {Outcome.MISSING: 3}
    page = (quick_run / "report.html").read_text()
    assert "topology.json" in page and "could not be used" in page


def test_one_model_on_two_nodes_without_any_trace(tmp_path):
    overrides = {"models": ["vit32x2x128"], "gpu_ids": [0], "repeats": 2}
    path = build_run_directory(tmp_path / "run", "numa_locality_study", overrides)
    for file in (path / "latency").iterdir():
        record = {"schema": 1, "status": "trace_failed", "reason": "no kernels", "advice": ""}
        file.write_text(json.dumps(record))
    assert make_report(path, "test").counts.outcomes == {Outcome.TRACE_FAILED: 2}


def test_a_two_by_two_design_is_split(tmp_path):
    overrides = {"models": ["vit0x0x0"], "gpu_ids": [0], "repeats": 6, "placements": [[0, 0], [0, 2], [2, 0], [2, 2]]}
    config = tmp_path / "two.yaml"
    config.write_text(json.dumps({"name": "two_by_two", **overrides}))
    path = build_run_directory(tmp_path / "run", str(config))
    make_report(path, "test")
    page = (path / "report.html").read_text()
    assert "CPU part and memory part" in page
    assert "CPU 0, memory 2" in page


def test_a_study_edited_by_hand_to_ask_for_more_is_not_complete(quick_run):
    edit_study(quick_run, repeats=3)
    assert make_report(quick_run, "test").counts.outcomes[Outcome.MISSING] == 3
    assert "Not complete" in (quick_run / "report.html").read_text()
