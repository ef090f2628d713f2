import pytest

from bench.records.results import Claims
from bench.report.text.trust import claims_text, concerns
from tests.report.made import results, trust


def found(**changes):
    return concerns(results(**changes))


def doubt(text, kind="pages"):
    return [{"kind": kind, "text": text}]


def test_a_quiet_study_has_no_concerns():
    assert found() == []
    assert found(preflight=[{"name": "mig", "state": "ok", "fact": "off"}]) == []


def test_runs_with_one_reason_are_grouped():
    reasons = {"b": doubt("no pages"), "a": doubt("no pages"), "c": doubt("no thread", "threads")}
    first, second = found(trust=trust(unproved_reasons=reasons))
    assert (first.text, first.runs) == ("no pages", ("a", "b"))
    assert (second.text, second.runs) == ("no thread", ("c",))


def test_an_unbound_study_has_nothing_to_prove():
    assert found(binding="none", trust=trust(unproved_reasons={"a": doubt("nothing was bound", "not_bound")})) == []


def test_a_disturbed_run_is_not_named_twice():
    reasons = [{"kind": "throttled", "text": "throttled (thermal)"}, {"kind": "other_processes", "text": "a process"}]
    disturbed, reduced = found(trust=trust(throttled=["a", "b"], disturbed_by={"a": reasons}))
    assert (disturbed.text, disturbed.runs) == ("throttled (thermal); a process", ("a",))
    assert reduced.runs == ("b",)


@pytest.mark.parametrize(
    ("locality", "text"),
    [
        ({"error": "no CUDA"}, "no CUDA"),
        ({"can_hold": False}, "cannot be held on this machine: CPUs changed groups between two scans"),
        ({"changes": [{"kind": "groups_vanished", "gpu": 0}]}, "GPU 0: hidden groups"),
    ],
)
def test_findings_of_the_probes_are_shown(locality, text):
    (one,) = found(locality=locality)
    assert text in one.text


def test_a_warning_keeps_its_remedy_unless_the_study_followed_it():
    check = {"name": "gpu_node", "state": "warning", "fact": "unknown", "remedy": "probe"}
    (warned,) = found(preflight=[check])
    (probed,) = found(preflight=[check], locality={"gpus": [{"index": 0, "hidden_nodes": "one_group"}]})
    assert (warned.title, warned.remedy, probed.remedy) == ("gpu node", "probe", "")
    (error,) = found(preflight=[check | {"state": "error"}])
    assert error.state == "error"


def test_reasons_of_one_kind_are_one_line_with_each_runs_own():
    disturbed = {f"r{number}": doubt(f"other processes on the GPU: {1000 + number}, 7", "other_processes")
                 for number in range(18)}  # fmt: skip
    disturbed["x"] = doubt("SM clock fell from 1980 to 1200 MHz", "clock")
    others, clock = found(trust=trust(disturbed_by=disturbed))
    assert (clock.text, clock.named) == ("SM clock fell from 1980 to 1200 MHz", [("x", "")])
    assert (others.text, len(others.runs)) == ("other processes used the GPU", 18)
    assert ("r3", "other processes on the GPU: 1003, 7") in others.named


def test_one_level_is_stated_for_all_claims():
    text = claims_text(Claims(tests=60, hold=7, level=0.05))
    assert text.startswith("7 of 60 tests of a difference hold at one level of 5 % for all of them together")
    assert claims_text(None) == claims_text(Claims(tests=0, hold=0, level=0.05)) == ""
