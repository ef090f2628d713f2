import json

import pytest

from bench.analysis.load import load, read_results
from bench.errors import StudyError
from bench.report.build import make_report

RUN = "runs/pipeline_gpu0_numa0_vit0x0x0_r1.json"


def test_all_records_are_read(numa_run):
    stored = load(numa_run)
    assert (len(stored.cells), len(stored.runs), len(stored.metrics), len(stored.exports)) == (48, 336, 48, 48)
    assert len(stored.order) == 336
    assert not stored.damaged


def test_runs_of_a_cell_are_in_order_of_repeat(numa_run):
    runs = load(numa_run).runs_of("pipeline_gpu0_numa0_vit0x0x0")
    assert [run["repeat"] for run in runs] == [1, 2, 3, 4, 5, 6, "traced"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ('{"run": "x", "cell"', "not valid JSON"),
        ("[]", "not a record but a list"),
        ('{"run": "x", "cell": "y"}', "a damaged record: status is missing"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_damaged_record_is_named_and_the_rest_is_read(quick_run, text, said):
    (quick_run / RUN).write_text(text)
    stored = load(quick_run)
    assert [damage.path for damage in stored.damaged] == [RUN]
    assert said in stored.damaged[0].what
    assert len(stored.runs) == 5


@pytest.mark.parametrize("slow", ["abc", "0-99999999999", "1,,2", ""])
def test_cpus_of_a_probe_that_are_none_are_damage(quick_run, slow):
    gpu = {"index": 0, "text": "two groups", "pci_bus_id": "0000:01:00.0", "measured_node": None}
    gpu["hidden_groups"] = {"fast": "0-3", "slow": slow}
    for when in ("before", "after"):
        (quick_run / f"probe_{when}.json").write_text(json.dumps({"status": "ok", "found": {"gpus": [gpu]}}))
    assert [damage.path for damage in load(quick_run).damaged] == ["probe_after.json", "probe_before.json"]


def test_bytes_that_are_no_text_are_damage(quick_run):
    (quick_run / RUN).write_bytes(b"\xff\xfe{")
    assert [damage.path for damage in load(quick_run).damaged] == [RUN]


def test_nan_is_read_as_unknown(quick_run):
    record = json.loads((quick_run / RUN).read_text())
    record["wall_s"] = float("nan")
    (quick_run / RUN).write_text(json.dumps(record))
    assert load(quick_run).runs[record["run"]]["wall_s"] is None


def test_a_folder_that_is_no_run_directory_is_refused(tmp_path):
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


def test_results_are_read_back_as_they_were_made(quick_run):
    made = make_report(quick_run, "test")
    assert read_results(quick_run) == made


def test_results_that_are_not_there_say_how_to_make_them(quick_run):
    with pytest.raises(StudyError) as error:
        read_results(quick_run)
    assert error.value.advice == f"make it again: numastudy report {quick_run}"
