import json
import math
from pathlib import Path

import pytest

from bench.analysis.aggregate import cell_entry, merge_latencies
from bench.analysis.load import load
from bench.analysis.verdicts import noise_class

CELL = "pipeline_gpu0_numa0_vit0x0x0"


@pytest.fixture
def entry(quick_run):
    """The entry of one cell after `change(run, export, metrics records)`."""

    def make(change=None, repeats=1):
        stored = load(quick_run)
        cell = next(cell for cell in stored.cells if cell["name"] == CELL)
        parts = {run["run"]: run for run in stored.runs_of(CELL)}
        parts |= {"export": stored.exports[CELL], "metrics": stored.metrics[CELL]}
        if change:
            change(parts)
        runs = [part for name, part in parts.items() if name.startswith(CELL)]
        return cell_entry(cell, runs, parts.get("export"), parts.get("metrics"), repeats)

    return make


def fail(status, reason="why"):
    return {"status": status, "reason": reason, "advice": "do", "log_tail": ["last"], "result": None}


def test_a_good_cell(entry):
    found = entry()
    assert (found["outcome"], found["reason"], found["failed_run"]) == ("ok", "", None)
    assert found["throughput_samples_s"] == pytest.approx(found["throughput_runs"][0])
    assert found["throughput_spread"] is None
    assert found["metrics"]["window_ns"] > 0
    assert set(found["metrics"]).isdisjoint({"status", "schema", "invocation"})


def test_throughput_is_the_geometric_mean_of_the_runs(entry):
    def twice(parts):
        first = parts[f"{CELL}_r1"]
        first["result"]["throughput_samples_s"] = 100.0
        second = json.loads(json.dumps(first)) | {"run": f"{CELL}_r2", "repeat": 2}
        second["result"]["throughput_samples_s"] = 400.0
        parts[f"{CELL}_r2"] = second

    found = entry(twice, repeats=2)
    assert found["throughput_samples_s"] == pytest.approx(200.0)
    assert found["throughput_spread"] == pytest.approx(math.sqrt(2) * 150 / 250)


def test_a_disturbed_run_does_not_count_where_two_calm_ones_are_left(entry):
    """As in its comparisons: a page shows one throughput of a cell."""

    def three(parts):
        first = parts[f"{CELL}_r1"]
        for repeat, rate in ((1, 100.0), (2, 200.0), (3, 100.0)):
            monitor = {"disturbed": ["another process"] if repeat == 2 else []}
            result = first["result"] | {"throughput_samples_s": rate}
            own = {"run": f"{CELL}_r{repeat}", "repeat": repeat, "block": repeat, "monitor": monitor}
            parts[f"{CELL}_r{repeat}"] = first | own | {"result": result}

    found = entry(three)
    assert found["throughput_runs"] == [100.0, 100.0] and found["throughput_samples_s"] == pytest.approx(100.0)
    assert [run["disturbed"] for run in found["runs"]][:3].count(True) == 1
    assert "1 of 3 timed runs were disturbed and are not counted" in found["remarks"]

    def two(parts):
        three(parts)
        del parts[f"{CELL}_r3"]

    assert entry(two)["throughput_runs"] == [100.0, 200.0], "one calm run is no spread"


def test_a_failed_timed_run_names_the_cell_and_keeps_its_log(entry):
    found = entry(lambda parts: parts[f"{CELL}_r1"].update(fail("oom")))
    assert (found["outcome"], found["reason"], found["advice"]) == ("oom", "why", "do")
    assert (found["log_tail"], found["failed_run"]) == (["last"], f"{CELL}_r1")
    assert found["throughput_samples_s"] is None
    assert found["perturbation"] is None


@pytest.mark.parametrize("stage", ["export", "metrics"])
def test_a_failed_stage_of_the_trace_fails_the_cell_but_keeps_its_throughput(entry, stage):
    found = entry(lambda parts: parts[stage].update(status="trace_failed", reason="no table"))
    assert (found["outcome"], found["failed_run"]) == ("trace_failed", f"{CELL}_traced")
    assert found["throughput_samples_s"] > 0


@pytest.mark.parametrize("gone", [f"{CELL}_r1", f"{CELL}_traced", "export", "metrics"])
def test_what_is_not_there_yet_is_missing(entry, gone):
    assert entry(lambda parts: parts.pop(gone))["outcome"] == "missing"


def test_a_repeat_that_the_study_asks_for_and_nobody_ran_is_missing(entry):
    found = entry(repeats=2)
    assert (found["outcome"], found["failed_run"]) == ("missing", f"{CELL}_r2")


def test_perturbation_is_traced_over_timed(entry):
    def rates(parts):
        parts[f"{CELL}_r1"]["result"]["throughput_samples_s"] = 200.0
        parts[f"{CELL}_traced"]["result"]["throughput_samples_s"] = 150.0

    assert entry(rates)["perturbation"] == pytest.approx(0.75)


def test_perturbation_takes_no_forked_run(entry):
    def forked_too(parts):
        executed = parts[f"{CELL}_r1"]
        executed["result"]["throughput_samples_s"] = 200.0
        forked = executed | {"run": f"{CELL}_r2", "repeat": 2, "start": "fork"}
        parts[f"{CELL}_r2"] = forked | {"result": executed["result"] | {"throughput_samples_s": 300.0}}
        parts[f"{CELL}_traced"]["result"]["throughput_samples_s"] = 150.0

    found = entry(forked_too)
    assert found["throughput_runs"] == [200.0, 300.0]
    assert found["perturbation"] == pytest.approx(0.75)
    assert entry(lambda parts: parts[f"{CELL}_r1"].update(start="fork"))["perturbation"] is None


def test_the_time_to_compile_is_that_of_all_processes_that_compiled(entry):
    assert entry()["compile_s"] is None

    def compiled(parts):
        for run, compile_s, reason in ((f"{CELL}_r1", 13.8, ""), (f"{CELL}_traced", 3.8, "")):
            parts[run]["result"]["compile"] = {"mode": "default", "compile_s": compile_s, "reason": reason}

    assert entry(compiled)["compile_s"] == {"least": 3.8, "most": 13.8}

    def nothing_to_compile(parts):
        parts[f"{CELL}_r1"]["result"]["compile"] = {"mode": "default", "compile_s": None, "reason": "no compute"}

    assert entry(nothing_to_compile)["compile_s"] is None


def test_noise_class_follows_the_measured_regime(entry):
    assert entry(lambda parts: parts["metrics"].update(regime="launch-bound"))["noise_class"] == "launch-bound"
    assert entry(lambda parts: parts["metrics"].update(regime="balanced"))["noise_class"] == "rest"


def test_without_a_trace_the_noise_class_follows_what_limits_by_times_alone(entry):
    def untraced(issue_us):
        def change(parts):
            parts["metrics"] = None
            parts[f"{CELL}_r1"]["result"] |= {
                "solo_us": {"h2d": 100.0, "compute": 50.0, "d2h": 90.0}, "issue_us": issue_us,
            }  # fmt: skip
        return change

    assert entry(untraced(20.0))["noise_class"] == "rest"
    assert entry(untraced(140.0))["noise_class"] == "launch-bound"


def test_limit_and_trace_give_one_noise_class_wherever_a_gpu_said_both():
    both = [
        (noise_class(regime), noise_class(None, limit))
        for file in (Path(__file__).parents[2] / "docs" / "reference").glob("h?00_*/results.json")
        for cell in json.loads(file.read_text())["cells"]
        if (regime := (cell["metrics"] or {}).get("regime")) and (limit := (cell["bound"] or {}).get("limit"))
    ]
    assert len(both) > 25 and {"launch-bound", "rest"} == {by_trace for by_trace, _ in both}
    assert all(by_trace == by_limit for by_trace, by_limit in both)


def test_latencies_merge_by_the_median_and_the_largest_maximum():
    runs = [{"count": 10, "p50": p50, "p90": None, "p99": None, "max": 2 * p50, "quantiles": []} for p50 in (1, 5, 2)]
    merged = merge_latencies([*runs, None])
    assert merged == {"count": 30, "p50": 2, "p90": None, "p99": None, "max": 10, "quantiles": []}
    assert merge_latencies([None]) is None
    curve = [None if step in (1, 99) else float(step) for step in range(101)]
    assert merge_latencies([run | {"quantiles": curve} for run in runs])["quantiles"] == curve


def test_a_run_on_demand_counts_and_its_failure_is_the_cells(entry):
    def more(parts):
        first = parts[f"{CELL}_r1"]
        parts[f"{CELL}_r2"] = json.loads(json.dumps(first)) | {"run": f"{CELL}_r2", "repeat": 2}
        parts[f"{CELL}_r3"] = first | {"run": f"{CELL}_r3", "repeat": 3} | fail("crashed")

    found = entry(more)
    assert len(found["throughput_runs"]) == 2
    assert (found["outcome"], found["failed_run"]) == ("crashed", f"{CELL}_r3")
