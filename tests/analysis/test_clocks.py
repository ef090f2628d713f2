import pytest

from bench.analysis.aggregate import clocks


def told(host_s=1.0, trace_s=1.0, events_us=100.0, trace_us=100.0, perturbation=1.0):
    traced = {"result": {"windows": [{"duration_s": host_s}]}}
    metrics = {"window_ns": round(trace_s * 1e9), "latency_us": {"p50": trace_us}}
    return clocks(traced, metrics, {"p50": events_us}, perturbation)


def test_clocks_that_agree():
    found = told(host_s=1.001, events_us=99.0)
    assert (found["host_over_trace"], found["events_over_trace"]) == (pytest.approx(1.001), pytest.approx(0.99))
    assert found["events_comparable"] and found["disagree"] == []


@pytest.mark.parametrize("host_s", [1.03, 0.97])
def test_a_timer_that_runs_otherwise_than_the_trace_is_named(host_s):
    (said,) = told(host_s=host_s)["disagree"]
    assert "host's timer" in said and "3.0 %" in said and ("longer" if host_s > 1 else "shorter") in said


def test_the_ends_of_a_short_pass_are_no_disagreement_and_more_than_them_is():
    assert told(host_s=0.0104, trace_s=0.0100)["disagree"] == []
    assert told(host_s=0.0108, trace_s=0.0100)["disagree"]
    assert told(host_s=0.0097, trace_s=0.0100)["disagree"]


def test_events_are_judged_only_where_the_profiler_left_the_pace_alone():
    (said,) = told(events_us=110.0)["disagree"]
    assert "events of the timed runs" in said and "10.0 % longer" in said
    perturbed = told(events_us=110.0, perturbation=0.94)
    assert perturbed["disagree"] == [] and not perturbed["events_comparable"]
    assert perturbed["events_over_trace"] == pytest.approx(1.1)


def test_what_is_not_known_is_no_agreement():
    found = clocks(None, None, None, None)
    assert (found["host_over_trace"], found["events_over_trace"], found["events_comparable"]) == (None, None, False)
