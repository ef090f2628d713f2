"""The summary at the end of a call of luigi."""

import json
from pathlib import Path

import pytest

from bench.records.run import Outcome, ReportStage, write_record
from bench.report.build import make_report
from bench.study.directory import RunDirectory
from bench.units import duration, percent
from tasks.report import INVOCATION, WRITTEN, StudyReport, summary
from tests.run_directories import build_run_directory, topology_json


def test_summary_has_the_report_and_the_measured_share(tmp_path):
    one_node = topology_json(gpus=0, nodes=1)
    directory = RunDirectory(build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=one_node))
    assert summary(directory).startswith("no report yet: 6 runs have ended, 0 of them in this call")
    results = make_report(directory.path, "test")
    text = summary(directory)
    assert 0 < results.measured_s < results.busy_s
    share, busy = percent(results.measured_s / results.busy_s), duration(results.busy_s)
    assert f"measured windows: {share} of the {busy} that runs took" in text
    assert text.endswith(f"report: {directory.path / 'report.html'}")
    assert "the study is up to date" in text


def test_report_that_lacks_a_file_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_node = topology_json(gpus=0, nodes=1)
    path = build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=one_node)
    make_report(path, "test")
    task, state = StudyReport(run_dir=str(path), host="h"), RunDirectory(path).state()
    monkeypatch.setattr(task, "requires", list)
    write_record(task.record_path, ReportStage(status=Outcome.OK, invocation="i", state=state, in_history=True))
    for name in WRITTEN:
        assert task.complete(), name
        hidden = (path / name).rename(tmp_path / name)
        assert not task.complete(), name
        hidden.rename(path / name)


def test_summary_of_failed_runs_does_not_report_up_to_date(tmp_path):
    failed = {"pipeline_gpu0_numa0_vit0x0x0_1": {"status": "crashed", "reason": "exit code 1", "advice": ""}}
    one_node = topology_json(gpus=0, nodes=1)
    path = build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=one_node, failures=failed)
    make_report(path, "test")
    text = summary(RunDirectory(path))
    assert "Nothing was measured now" in text and "up to date" not in text


def test_summary_ends_with_the_first_screen_where_no_node_is_recommended(tmp_path):
    one_node = topology_json(gpus=0, nodes=1)
    path = build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=one_node)
    for file in path.glob("runs/*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"invocation": INVOCATION}))
    make_report(path, "test")
    last = summary(RunDirectory(path)).partition("report.html\n")[2]
    assert last.startswith("Yes: all 3 cells were measured. 6 of 6 runs ended well.")
    assert all(len(line) <= 80 for line in last.splitlines())
