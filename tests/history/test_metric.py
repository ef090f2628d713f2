"""A command in the history and in a night: its own value and unit, whichever way it is better."""

import numpy as np
import pytest

from bench.compare import compare
from bench.history.database import add_study, open_history
from bench.history.page import render
from bench.history.query import studies, with_cells
from bench.history.trends import series
from bench.nightly.judge import Tonight, judge_cells
from bench.records.metric import Better, Metric
from bench.records.results import NoiseClass, Verdict
from bench.records.run import Outcome
from bench.report.text.studies import cell_text
from tests.report.made import cell, results

MODEL = {"name": "bench", "patch_size": 0, "depth": 0, "dim": 0, "heads": 0, "command": {"run": ["bench"]}}


def study(tmp_path, number, value):
    metric = {"value": value, "unit": "ms", "better": "lower"}
    run = {
        "run": "a_r1", "repeat": 1, "status": "ok", "reason": "", "block": 1, "position": 0, "attempts": 1,
        "wall_s": 1.0, "throughput_samples_s": None, "placement": None, "disturbed": False, "started_at": None,
        "metric": metric,
    }  # fmt: skip
    measured = {"metric": metric | {"name": "latency", "runs": [value]}, "runs": [run]} if value else {}
    one = cell("a", model=MODEL, **measured) if value else cell("a", model=MODEL, outcome="crashed")
    return results((one,), run_directory=str(tmp_path / str(number)), created_at=f"2026-01-0{number}T00:00:00+00:00")


def test_history_has_value_and_unit(tmp_path):
    path = tmp_path / "history.db"
    for number, value in enumerate((None, 12.5, 10.0), 1):
        add_study(study(tmp_path, number, value), path)
    with open_history(path) as history:
        measured = [with_cells(history, [one])[0].measured[0] for one in studies(history)]
        (trend,) = series(history)[0].trends
        page = render(series(history), path)
    assert [(one.value, one.unit, one.throughput_samples_s) for one in measured] == [
        (pytest.approx(10.0), "ms", None), (pytest.approx(12.5), "ms", None), (None, "ms", None)
    ]  # fmt: skip
    assert trend.unit == "ms" and [point.value for point in trend.points] == [None, pytest.approx(12.5), 10.0]
    assert "the last 10.00 ms" in page


def test_night_states_how_much_longer(tmp_path):
    quiet = dict(enumerate(1 / value for value in (10.0, 10.01, 9.99, 10.0, 10.02, 9.98, 10.0, 10.01)))
    tonight = Tonight(
        name="a", outcome=Outcome.OK, reason="", noise_class=NoiseClass.UNKNOWN, samples_s=1 / 12.5, before=quiet,
        metric=Metric(value=12.5, unit="ms", better=Better.LOWER),
    )  # fmt: skip
    (judged,) = judge_cells([tonight])
    assert judged.tonight == pytest.approx(12.5) and judged.baseline == pytest.approx(10.0, abs=0.01)
    assert cell_text(judged, 5, 0.05).startswith("25 % longer")


# Of a time: longer is worse. The margin of 2 % is that of the rate: 2.04 % longer, or 1.96 % shorter.
SIGNS = [(1.015, "SAME"), (0.985, "SAME"), (1.0195, "SAME"), (1.03, "SLOWER"), (0.97, "FASTER"), (0.975, "FASTER")]


@pytest.mark.parametrize(("factor", "verdict"), SIGNS)
def test_margin_of_a_time_has_the_sign_of_a_loss_in_a_night(factor, verdict):
    before = dict(enumerate(1 / (10.0 * np.exp(1e-5 * at)) for at in (-2, -1, 0, 1, 2, -1, 1, 0)))
    tonight = Tonight(
        name="a", outcome=Outcome.OK, reason="", noise_class=NoiseClass.UNKNOWN, samples_s=1 / (10 * factor),
        before=before, metric=Metric(value=10 * factor, unit="ms", better=Better.LOWER),
    )  # fmt: skip
    (judged,) = judge_cells([tonight])
    assert judged.verdict == verdict and judged.change == pytest.approx(factor - 1, abs=1e-4)
    assert (judged.effect < 0) is (factor > 1)


@pytest.mark.parametrize(("factor", "verdict"), SIGNS)
def test_margin_of_a_time_has_the_sign_of_a_loss_in_compare(tmp_path, factor, verdict):
    def side(number, level):
        runs = [
            {
                "run": f"a_r{at}", "repeat": at, "status": "ok", "reason": "", "block": at, "position": at,
                "attempts": 1, "wall_s": 1.0, "throughput_samples_s": None, "placement": None, "disturbed": False,
                "started_at": None, "metric": {"value": level * (1 + 1e-5 * (at % 2)), "unit": "ms", "better": "lower"},
            }
            for at in range(1, 7)
        ]  # fmt: skip
        metric = {"value": level, "unit": "ms", "better": "lower", "name": "latency", "runs": [level] * 6}
        return results((cell("a", model=MODEL, metric=metric, runs=runs),), run_directory=str(tmp_path / str(number)))

    (compared,) = compare([side(1, 10.0)], [side(2, 10.0 * factor)]).cells
    assert compared.verdict is Verdict(verdict)
    assert compared.effect == pytest.approx(1 / factor - 1, abs=1e-4)
    assert (compared.base_value, compared.new_value) == pytest.approx((10.0, 10.0 * factor), abs=1e-3)
    if verdict != "SAME":
        word = "longer" if factor > 1 else "shorter"
        assert f"{100 * abs(factor - 1):.2f} % {word}" in compared.text
