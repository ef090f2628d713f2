import json

import pytest

from bench.analysis.load import load, measured_at, read_results
from bench.errors import StudyError
from bench.records.base import plain
from bench.storage import write_json

RUN = "runs/pipeline_gpu0_numa0_vit0x0x0_r1.json"


def test_all_records_are_read(numa_run):
    data = load(numa_run)
    assert (len(data.cells), len(data.runs), len(data.metrics), len(data.exports)) == (48, 336, 48, 48)
    assert len(data.order) == 336
    assert not data.damaged


def test_runs_of_a_cell_are_in_order_of_repeat(numa_run):
    runs = load(numa_run).runs_of("pipeline_gpu0_numa0_vit0x0x0")
    assert [run.repeat for run in runs] == [1, 2, 3, 4, 5, 6, "traced"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "Input data was truncated"),
        ('{"run": "x", "cell"', "Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"run": "x", "cell": "y"}', "missing required field `status`"),
        ("[" * 100_000, "Expected `object`, got `array`"),
        ('{"status": "ok", "run": "a_r1", "cell": "a", "repeat": 1}', "status ok, but no result"),
    ],
)
def test_a_damaged_record_is_listed_and_the_rest_is_read(quick_run, text, what):
    (quick_run / RUN).write_text(text)
    data = load(quick_run)
    assert [damage.path for damage in data.damaged] == [RUN]
    assert what in data.damaged[0].what
    assert len(data.runs) == 5


@pytest.mark.parametrize("slow", ["abc", "0-99999999999", "1,,2"])
def test_a_probe_with_an_invalid_list_of_cpus_is_damaged(quick_run, slow):
    groups = {"fast": "0-3", "slow": slow, "centres_us": [1, 2], "rand_index": 1, "holds": True, "distance": "gpu"}
    gpu = {"index": 0, "pci_bus_id": "0000:01:00.0", "hidden_nodes": "found", "hidden_groups": groups}
    for when in ("before", "after"):
        (quick_run / f"probe_{when}.json").write_text(json.dumps({"status": "ok", "found": {"gpus": [gpu]}}))
    assert [damage.path for damage in load(quick_run).damaged] == ["probe_after.json", "probe_before.json"]


def test_malformed_utf8_is_damage(quick_run):
    (quick_run / RUN).write_bytes(b"\xff\xfe{")
    assert [damage.path for damage in load(quick_run).damaged] == [RUN]


def test_nan_is_damage(quick_run):
    record = json.loads((quick_run / RUN).read_text())
    record["wall_s"] = float("nan")
    (quick_run / RUN).write_text(json.dumps(record))
    assert [damage.path for damage in load(quick_run).damaged] == [RUN]


@pytest.mark.parametrize("text", ["{", '{"status": "ok"}'])
def test_a_damaged_extraction_gives_no_metrics(quick_run, text):
    path = "latency/pipeline_gpu0_numa0_vit0x0x0.json"
    (quick_run / path).write_text(text)
    data = load(quick_run)
    assert [damage.path for damage in data.damaged] == [path]
    assert len(data.metrics) == len(data.extractions) == 2


def test_a_folder_that_is_not_a_run_directory_is_refused(tmp_path):
    with pytest.raises(StudyError, match="not a run directory"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"cells": [], "order": []}', '{"cells": [1], "order": []}'])
def test_a_directory_without_grid_is_refused_by_name(quick_run, text):
    (quick_run / "grid.json").write_text(text)
    with pytest.raises(StudyError, match="grid") as error:
        load(quick_run)
    assert "--fresh" in error.value.advice


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00"])
def test_a_study_that_cannot_be_read_is_refused_by_name(quick_run, text):
    (quick_run / "study.yaml").write_text(text)
    with pytest.raises(StudyError, match="resolved study"):
        load(quick_run)


def test_results_are_read_back_as_they_were_written(quick_run, results_of):
    results = results_of(quick_run)
    write_json(quick_run / "results.json", plain(results))
    assert read_results(quick_run) == results


@pytest.mark.parametrize("text", [None, "{", '{"schema": 1, "cells": []}'])
def test_unusable_results_advise_to_regenerate_them(quick_run, text):
    if text is not None:
        (quick_run / "results.json").write_text(text)
    with pytest.raises(StudyError) as error:
        read_results(quick_run)
    assert error.value.advice == f"regenerate it: numastudy report {quick_run}"


def test_results_of_another_schema_without_records_are_named(tmp_path):
    (tmp_path / "results.json").write_text('{"schema": 1, "cells": []}')
    with pytest.raises(StudyError, match="have schema 1, this version reads 2") as error:
        read_results(tmp_path)
    assert "numastudy report" not in error.value.advice


def test_measured_at_is_the_start_of_the_first_run(quick_run, results_of):
    assert measured_at(results_of(quick_run)) == "2026-11-22T18:00:00+00:00"


def test_measured_at_without_runs_is_when_the_report_was_made(quick_run, results_of):
    for file in (quick_run / "runs").iterdir():
        file.unlink()
    results = results_of(quick_run)
    assert measured_at(results) == results.created_at
