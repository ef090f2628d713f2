"""Synthetic nights, written and judged as NightlySweep does: through run directories and the history."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.history.database import open_history
from bench.history.page import into_history
from bench.nightly.judge import Asked, judge_night
from bench.storage import write_json
from tests.results.history.synthetic import FINGERPRINT, HOST, cell_names, made_results, night_of, quiet_rates, rates_of

CELL = "pipeline_gpu2_numa0_vit32x6x512"


class Nights:
    """A folder of outputs that grows by a night at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "history.db"

    def results(self, number, rates, **more):
        return made_results(self.folder, number, rates, **more)

    def measure(self, number, rates, **more):
        results = self.results(number, rates, **more)
        write_json(Path(results["run_directory"]) / "results.json", results)
        return Asked("NumaStudy", Path(results["run_directory"]))

    def judge(self, number, *asked, since=""):
        return judge_night(night_of(number), HOST, asked, self.database, 28, since)

    def night(self, number, rates, since="", **more):
        return self.judge(number, self.measure(number, rates, **more), since=since)


@pytest.fixture
def nights(tmp_path):
    return Nights(tmp_path)


@pytest.fixture(scope="module")
def quiet():
    """90 nights x 48 cells without a change."""
    return quiet_rates(90)


def test_none_of_60_quiet_nights_alarms_and_a_loss_of_5_percent_in_night_30_does(nights, quiet):
    for number, row in enumerate(quiet[:29], 1):
        assert nights.night(number, rates_of(row))["verdict"] == "ok"
    rates = rates_of(quiet[29])
    verdict = nights.night(30, rates | {CELL: rates[CELL] * 0.95})
    assert (verdict["verdict"], verdict["slower"]) == ("slower", [CELL])
    assert CELL in verdict["text"]
    # The loss is mended, and 60 quiet nights follow: 2,880 comparisons.
    compared = 0
    for number, row in enumerate(quiet[30:], 31):
        verdict = nights.night(number, rates_of(row))
        assert (verdict["verdict"], verdict["slower"]) == ("ok", []), verdict["text"]
        compared += verdict["compared"]
    assert compared == 2880


def test_a_loss_that_stays_is_told_every_night_until_it_is_accepted(nights, quiet):
    for number, row in enumerate(quiet[:29], 1):
        into_history(nights.results(number, rates_of(row)), nights.folder)
    for number in range(30, 37):
        rates = rates_of(quiet[number - 1])
        assert nights.night(number, rates | {CELL: rates[CELL] * 0.95})["slower"] == [CELL]
    rates = rates_of(quiet[36])
    accepted = nights.night(37, rates | {CELL: rates[CELL] * 0.95}, since=night_of(30))
    assert accepted["verdict"] == "ok"


@pytest.fixture
def month(nights, quiet):
    """A history of 20 quiet nights, kept without verdicts."""
    for number, row in enumerate(quiet[:20], 1):
        into_history(nights.results(number, rates_of(row)), nights.folder)
    return nights


def test_a_loss_that_a_second_measurement_does_not_find_is_no_alarm(month, quiet):
    rates = rates_of(quiet[20])
    first = month.measure(21, rates | {CELL: rates[CELL] * 0.95})
    for factor, verdict, counted in ((0.999, "ok", True), (0.951, "slower", False)):
        results = month.results(21, {CELL: rates[CELL] * factor})
        again = Path(f"{results['run_directory']}-again")
        results |= {"run_directory": str(again), "created_at": "2026-01-21T05:00:00+00:00"}
        write_json(again / "results.json", results)
        told = month.judge(21, replace(first, again=again))
        assert told["verdict"] == verdict and told["studies"][0]["again"] == str(again)
        before = month.judge(22, month.measure(22, rates_of(quiet[21])))
        known = before["studies"][0]["baseline"]["nights"]
        (own,) = (cell for cell in before["studies"][0]["cells"] if cell["name"] == CELL)
        assert own["nights"] == (21 if counted else 20) and night_of(21) in known
        if counted:
            assert own["verdict"] == "SAME"


def test_failed_and_vanished_cells_are_named(month, quiet):
    rates = rates_of(quiet[20]) | {CELL: None}
    gone = cell_names()[-1]
    del rates[gone]
    verdict = month.night(21, rates)
    assert (verdict["verdict"], verdict["failed"], verdict["not_measured"]) == ("failed", [CELL], [gone])
    # What the night before had not either is no news.
    assert month.night(22, rates | {CELL: 1000.0})["not_measured"] == []


def test_a_study_that_could_not_be_measured_is_named_and_the_rest_is_judged(month, quiet):
    measured = month.measure(21, rates_of(quiet[20]))
    verdict = month.judge(21, measured, Asked("ScalingStudy", None, "no cell can run on this host"))
    assert (verdict["verdict"], verdict["not_measured"]) == ("not measured", ["ScalingStudy"])
    assert verdict["compared"] == 48


def test_a_cell_that_cannot_run_here_any_more_was_not_measured(month, quiet):
    asked = month.measure(21, rates_of(quiet[20]))
    results = month.results(21, rates_of(quiet[20]))
    results["cells"][0] |= {"outcome": "not_runnable", "reason": "no GPU 0 here", "runs": []}
    write_json(asked.run_dir / "results.json", results)
    assert month.judge(21, asked)["not_measured"] == [cell_names()[0]]


@pytest.mark.parametrize("strict", [False, True])
def test_a_cell_that_never_ran_here_is_a_finding_of_a_strict_study_only(nights, strict):
    results = nights.results(1, {CELL: 1000.0})
    results["cells"][0] |= {"outcome": "not_runnable", "reason": "no GPU 2 here", "runs": []}
    write_json(Path(results["run_directory"]) / "results.json", results)
    verdict = nights.judge(1, Asked("NumaStudy", Path(results["run_directory"]), strict=strict))
    assert verdict["verdict"] == ("not measured" if strict else "ok")


def test_noisy_cells_are_named(nights):
    for number, row in enumerate(quiet_rates(20, spread=(0.012, 0.013)), 1):
        verdict = nights.night(number, rates_of(row))
    assert len(verdict["too_noisy"]) > 40
    assert verdict["verdict"] == "ok"


def test_driver_changes_are_told_and_compared_across(month, quiet):
    rates = rates_of(quiet[20])
    facts = FINGERPRINT | {"driver": "590.2"}
    verdict = month.night(21, rates | {CELL: rates[CELL] * 0.95}, fingerprint=facts)
    assert any("driver was 580.1, is 590.2" in warning for warning in verdict["warnings"])
    assert verdict["slower"] == [CELL]


def test_nights_on_other_silicon_do_not_count(month, quiet):
    facts = FINGERPRINT | {"gpus": "4 x Another GPU"}
    verdict = month.night(21, {name: rate / 2 for name, rate in rates_of(quiet[20]).items()}, fingerprint=facts)
    assert (verdict["verdict"], verdict["compared"]) == ("ok", 0)
    assert any("20 nights on other hardware left out" in warning for warning in verdict["warnings"])


def test_a_pinned_run_directory(month, quiet):
    pinned = month.measure(1, {name: rate * 1.1 for name, rate in rates_of(quiet[0]).items()}).run_dir
    tonight = month.measure(21, rates_of(quiet[20]))
    verdict = month.judge(21, Asked("NumaStudy", tonight.run_dir, pinned=pinned))
    assert len(verdict["slower"]) == 48
    assert verdict["studies"][0]["baseline"]["kind"] == f"pinned: {pinned}"


def test_judging_again_changes_nothing(month, quiet):
    rates = rates_of(quiet[20])
    asked = month.measure(21, rates | {CELL: rates[CELL] * 0.95})

    def rows():
        with open_history(month.database) as history:
            return history.conn.execute("select * from verdicts order by study_id, cell_id").fetchall()

    first, kept = month.judge(21, asked), rows()
    assert len(kept) == 48
    assert month.judge(21, asked) | {"created_at": first["created_at"]} == first
    assert rows() == kept


def test_later_nights_do_not_count(month, quiet):
    """A night that is judged again much later is compared with the nights before it."""
    asked = month.measure(10, rates_of(quiet[9]))
    (study,) = month.judge(10, asked)["studies"]
    assert study["baseline"]["nights"] == [night_of(number) for number in range(1, 10)]


def test_a_single_study_outside_of_a_night_is_no_night(month, quiet):
    into_history(month.results(40, rates_of(quiet[0]), night=""), month.folder)
    (study,) = month.night(41, rates_of(quiet[20]))["studies"]
    assert len(study["baseline"]["nights"]) == 20
