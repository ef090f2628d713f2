"""The summary at the end of a call of luigi."""

import json

from bench.report.build import make_report
from bench.study.directory import RunDirectory
from tasks.report import summary
from tests.run_directories import build_run_directory, topology_json


def test_summary_has_the_report_and_the_measured_share(tmp_path):
    one_node = topology_json(gpus=0, nodes=1)
    directory = RunDirectory(build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=one_node))
    assert summary(directory).startswith("no report yet: 6 runs have ended, 0 of them in this call")
    results = make_report(directory.path, "test")
    text = summary(directory)
    share = 100 * results["windows_s"] / results["busy_s"]
    assert 0 < share < 100
    assert f"measured windows: {share:.0f} % of the {results['busy_s']:.0f} s that runs took" in text
    assert text.endswith(f"report: {directory.path / 'report.html'}")
    assert "the study is up to date" in text
    # As versions before this one left it.
    del results["windows_s"]
    directory.results.write_text(json.dumps(results))
    assert "measured windows" not in summary(directory)


def test_summary_of_failed_runs_does_not_report_up_to_date(tmp_path):
    failed = {"pipeline_gpu0_numa0_vit0x0x0_1": {"status": "crashed", "reason": "exit code 1", "advice": ""}}
    one_node = topology_json(gpus=0, nodes=1)
    path = build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=one_node, failures=failed)
    make_report(path, "test")
    text = summary(RunDirectory(path))
    assert "Nothing was measured now" in text and "up to date" not in text
