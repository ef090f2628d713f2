import pytest

from bench.legacy.aggregate import is_untraced, told_outcome


def cell(outcome="missing", failed="c_traced", runs=((1, "ok"), (2, "ok")), **more):
    runs = [{"repeat": repeat, "status": status} for repeat, status in runs]
    return {"outcome": outcome, "failed_run": failed, "runs": runs} | more


@pytest.mark.parametrize(("given", "told"), [
    (cell("ok", None), "ok"),
    (cell("oom", "c_r2", ((1, "ok"), (2, "oom"))), "oom"),
    (cell(runs=()), "missing"),
    (cell(failed="c_r2", runs=((1, "ok"),)), "1 run so far"),
    (cell(failed="c_r3"), "2 runs so far"),
    (cell(), "not traced"),
    (cell(runs=((1, "ok"), ("traced", "ok"))), "trace not read"),
])  # fmt: skip
def test_what_is_missing_says_how_far_it_has_come(given, told):
    assert told_outcome(given) == told


def test_a_study_is_untraced_if_it_was_timed_and_no_trace_tells_anything():
    timed, traced = (
        {"throughput_samples_s": 1.0, "metrics": None},
        {"throughput_samples_s": 1.0, "metrics": {"h2d": {}}},
    )
    assert is_untraced([timed, timed])
    assert not is_untraced([timed, traced])
    assert not is_untraced([{"throughput_samples_s": None, "metrics": None}])
