import pytest

from bench.analysis.aggregate import penalty_class, remarks

QUIET = {"metrics": {"remarks": []}, "clocks": {"disagree": []}, "perturbation": 0.97, "bound": {"reason": ""}}


def run(settled=True, spread=0.004, repeat=1, status="ok"):
    return {"repeat": repeat, "status": status, "result": {"warmup": {"settled": settled, "spread": spread}}}


def test_nothing_is_said_where_all_is_well():
    assert remarks(QUIET, [run(), run(settled=False, repeat="traced"), run(settled=False, status="oom")]) == []
    assert remarks(QUIET | {"metrics": None, "perturbation": None, "bound": None}, []) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": {"remarks": ["3 of 9 H2D copies use pageable host memory"]}}, "pageable"),
        ({"clocks": {"disagree": ["the host's timer"]}}, "host's timer"),
        ({"perturbation": 0.54}, "54 % of the timed throughput"),
        ({"perturbation": 1.06}, "106 % of the timed throughput"),
        ({"bound": {"reason": "alone, compute took longer"}}, "no efficiency against the bound: alone"),
    ],
)
def test_each_trouble_is_said_once(change, said):
    (found,) = remarks(QUIET | change, [run()])
    assert said in found


def test_warm_ups_that_did_not_settle_are_counted():
    (found,) = remarks(QUIET, [run(), run(False, 0.02), run(False, 0.097), run(False, None)])
    assert found.startswith("the warm-up of 3 of 4 timed runs") and "9.7 %" in found


def test_classes_follow_the_regime_and_not_the_model():
    assert [penalty_class(regime) for regime in ("transfer-bound", "balanced", "compute-bound")] == [
        "memory-bound", "balanced", "compute-bound",
    ]  # fmt: skip
    assert [penalty_class(regime) for regime in ("launch-bound", "stalled", None)] == [None] * 3
