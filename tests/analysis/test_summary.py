from bench.analysis.trust import busy_s, duration_s, experiment_summary, windows_s


def run(started_at, wall_s):
    return {"started_at": started_at, "wall_s": wall_s}


def test_duration_is_from_the_first_start_to_the_last_end():
    runs = [run("2026-11-22T10:00:10Z", 5), run("2026-11-22T10:00:00Z", 2.5), run(None, 100), run("garbage", 1)]
    assert duration_s(runs) == 15.0
    assert busy_s(runs) == 108.5


def test_no_runs_took_no_time():
    assert (duration_s([]), busy_s([])) == (0.0, 0.0)


def test_the_windows_are_those_of_timed_runs():
    windows = {"windows": [{"duration_s": 0.5}, {"duration_s": 0.25}]}
    runs = [{"repeat": 1, "result": windows}, {"repeat": 2, "result": None}, {"repeat": "traced", "result": windows}]
    assert windows_s(runs) == 0.75


def test_summary_counts_and_names_the_failures(numa_results):
    summary = experiment_summary(numa_results)
    assert summary["success_rate"] == 45 / 48
    assert {failure["outcome"] for failure in summary["failures"]} == {"oom", "timeout", "misplaced"}
    assert {failure["run"] for failure in summary["failures"]} >= {"pipeline_gpu3_numa0_vit32x2x128_r2"}
    assert summary["duration_s"] > 0
    assert 0 < summary["windows_s"] < summary["busy_s"]
