import pytest

from bench.report.text import doubts

TRUST = {"doubts": {}, "disturbed_by": {}, "throttled": [], "strangers": []}
LOCALITY = {"error": None, "can_hold": True, "changes": [], "texts": []}
QUIET = {"binding": "numactl", "trust": TRUST, "locality": LOCALITY, "preflight": []}


def test_a_quiet_study_leaves_nothing_to_say():
    assert doubts(QUIET) == []
    assert doubts(QUIET | {"preflight": [{"name": "mig", "state": "ok", "fact": "off"}]}) == []


def test_runs_with_one_reason_stand_together():
    trust = TRUST | {"doubts": {"b": "no pages", "a": "no pages", "c": "no thread"}}
    first, second = doubts(QUIET | {"trust": trust})
    assert (first.text, first.runs) == ("no pages", ("a", "b"))
    assert (second.text, second.runs) == ("no thread", ("c",))


def test_an_unbound_study_has_nothing_to_prove():
    assert doubts(QUIET | {"binding": "none", "trust": TRUST | {"doubts": {"a": "nothing was bound"}}}) == []


def test_a_disturbed_run_is_not_named_twice():
    trust = TRUST | {"throttled": ["a", "b"], "disturbed_by": {"a": ["throttled (thermal)", "another process"]}}
    disturbed, held = doubts(QUIET | {"trust": trust})
    assert (disturbed.text, disturbed.runs) == ("throttled (thermal); another process", ("a",))
    assert held.runs == ("b",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"error": "no CUDA"}, "no CUDA"),
        ({"can_hold": False}, "cannot be held on this machine: CPUs changed groups between two scans"),
        ({"changes": ["GPU 0: hidden groups were seen at the start only"]}, "GPU 0: hidden groups"),
    ],
)
def test_what_the_probes_found_is_said(change, said):
    (found,) = doubts(QUIET | {"locality": LOCALITY | change})
    assert said in found.text


def test_a_warning_keeps_its_remedy_unless_the_study_followed_it():
    checks = [{"name": "gpu_node", "state": "warning", "fact": "unknown", "remedy": "probe"}]
    (alone,) = doubts(QUIET | {"preflight": checks})
    (probed,) = doubts(QUIET | {"preflight": checks, "locality": LOCALITY | {"texts": ["GPU 0: 6.5 us"]}})
    assert (alone.what, alone.remedy, probed.remedy) == ("gpu node", "probe", "")
    (error,) = doubts(QUIET | {"preflight": [checks[0] | {"state": "error"}]})
    assert error.state == "error"


def test_reasons_that_differ_in_numbers_only_are_one_line_and_each_run_keeps_its_own():
    disturbed = {f"r{number}": [f"other processes on the GPU: {1000 + number}, 7"] for number in range(18)}
    disturbed["x"] = ["SM clock fell from 1980 to 1200 MHz"]
    others, clock = doubts(QUIET | {"trust": TRUST | {"disturbed_by": disturbed}})
    assert (clock.text, clock.named) == ("SM clock fell from 1980 to 1200 MHz", [("x", "")])
    assert (others.text, len(others.runs)) == ("other processes on the GPU", 18)
    assert ("r3", "other processes on the GPU: 1003, 7") in others.named
