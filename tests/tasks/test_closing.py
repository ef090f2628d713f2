"""The last words of a call of luigi."""

import json

from bench.report.build import make_report
from bench.study.directory import RunDirectory
from tasks.luigi_runtime import closing_words
from tests.results.builder import build_run_directory, topology_json


def test_it_says_where_the_report_is_and_what_share_of_the_time_was_measured(tmp_path):
    one_node = topology_json(gpus=0, nodes=1)
    directory = RunDirectory(build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=one_node))
    assert closing_words(directory).startswith("no report yet: 0 runs measured")
    results = make_report(directory.path, "test")
    words = closing_words(directory)
    share = 100 * results["windows_s"] / results["busy_s"]
    assert 0 < share < 100
    assert f"measured windows: {share:.0f} % of the {results['busy_s']:.0f} s that runs took" in words
    assert words.endswith(f"report: {directory.path / 'report.html'}")
    assert "all of it is there already" in words
    # As versions before this one left it.
    del results["windows_s"]
    directory.results.write_text(json.dumps(results))
    assert "measured windows" not in closing_words(directory)


def test_a_call_that_was_stopped_before_it_mended_anything_does_not_say_that_all_is_there(tmp_path):
    failed = {"pipeline_gpu0_numa0_vit0x0x0_1": {"status": "crashed", "reason": "exit code 1", "advice": ""}}
    one_node = topology_json(gpus=0, nodes=1)
    path = build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=one_node, failures=failed)
    make_report(path, "test")
    words = closing_words(RunDirectory(path))
    assert "Nothing was measured now" in words and "all of it is there" not in words
