"""Synthetic nights, written and judged as NightlySweep does: through run directories and the history."""

import dataclasses
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from bench.history.database import open_history
from bench.history.page import into_history
from bench.nightly.night import NightlyStudy, judge_night
from bench.records.base import decode, plain
from bench.records.host import Fingerprint
from bench.records.nightly import NightlyVerdict, NightState, NightWarningKind
from bench.records.results import Measure
from bench.records.run import Outcome
from bench.storage import write_json
from tests.history.synthetic import (
    FINGERPRINT,
    HOST,
    cell_names,
    crossed,
    made_results,
    night_of,
    quiet_rates,
    rates_of,
    with_cell,
)

CELL = "pipeline_gpu2_numa0_vit32x6x512"
QUIET = "pipeline_gpu0_numa0_vit32x6x512"
OLD = Path(__file__).parents[1] / "fixtures/history/version_2.sql"
NOT_RUNNABLE = {"outcome": Outcome.NOT_RUNNABLE, "reason": "no GPU 0 here", "runs": ()}


class Nights:
    """A folder of outputs that grows by a night at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "history.db"

    def results(self, number, rates, **more):
        return made_results(self.folder, number, rates, **more)

    def write(self, results):
        Path(results.run_directory).mkdir(parents=True, exist_ok=True)
        write_json(Path(results.run_directory) / "results.json", plain(results))
        return NightlyStudy("NumaStudy", Path(results.run_directory))

    def measure(self, number, rates, **more):
        return self.write(self.results(number, rates, **more))

    def judge(self, number, *planned, since="", **more):
        return judge_night(night_of(number), HOST, planned, self.database, 28, since, **more)

    def night(self, number, rates, since="", **more):
        return self.judge(number, self.measure(number, rates, **more), since=since)


@pytest.fixture
def nights(tmp_path):
    return Nights(tmp_path)


@pytest.fixture(scope="module")
def quiet():
    """90 nights x 48 cells without a change."""
    return quiet_rates(90)


@pytest.mark.slow
def test_alarms_at_a_loss_of_5_percent_never_in_60_quiet_nights(nights, quiet):
    for number, row in enumerate(quiet[:29], 1):
        assert nights.night(number, rates_of(row)).ok
    rates = rates_of(quiet[29])
    night = nights.night(30, rates | {CELL: rates[CELL] * 0.95})
    assert (night.verdict, night.slower) == (NightState.SLOWER, (CELL,))
    assert CELL in night.text
    # The loss is fixed, and 60 quiet nights follow: 2,880 comparisons.
    compared = 0
    for number, row in enumerate(quiet[30:], 31):
        night = nights.night(number, rates_of(row))
        assert (night.verdict, night.slower) == (NightState.OK, ()), night.text
        compared += night.compared
    assert compared == 2880


def test_a_lasting_loss_is_reported_until_it_is_accepted(nights, quiet):
    for number, row in enumerate(quiet[:29], 1):
        into_history(nights.results(number, rates_of(row)), nights.folder)
    for number in range(30, 37):
        rates = rates_of(quiet[number - 1])
        assert nights.night(number, rates | {CELL: rates[CELL] * 0.95}).slower == (CELL,)
    rates = rates_of(quiet[36])
    assert nights.night(37, rates | {CELL: rates[CELL] * 0.95}, since=night_of(30)).ok


def test_a_night_that_was_slower_together_needs_a_second_one(month, quiet):
    def slower(number):
        return {name: rate * 0.93 for name, rate in rates_of(quiet[number - 1]).items()}

    first = month.night(21, slower(21))
    assert (first.verdict, first.slower) == (NightState.OK, ())
    assert NightWarningKind.HOST_SLOWER in [warning.kind for warning in first.warnings]
    assert month.judge(21, month.measure(21, slower(21))).verdict is NightState.OK
    second = month.night(22, slower(22))
    assert second.verdict is NightState.SLOWER and len(second.slower) == 48
    assert second.studies[0].unconfirmed == ()
    assert month.night(23, rates_of(quiet[22])).ok
    # Neither night is in the baseline.
    assert {cell.nights for cell in month.night(24, rates_of(quiet[23])).studies[0].cells} == {21}


def test_a_loss_that_creeps_is_reported_until_it_is_accepted(nights):
    rows = quiet_rates(70, gpus=1, spread=(0.002, 0.004))
    cell = cell_names(gpus=1)[3]
    reported = None
    for number, row in enumerate(rows, 1):
        rates = rates_of(row, gpus=1)
        rates[cell] *= 0.95 ** (max(number - 28, 0) / 30)
        if number < 36:
            into_history(nights.results(number, rates), nights.folder)
            continue
        night = nights.night(number, rates)
        if night.slower and reported is None:
            reported = number
            (own,) = (one for one in night.studies[0].cells if one.name == cell)
            assert own.creeping and own.reference_night == night_of(1) and night.slower == (cell,)
        assert bool(night.slower) is (reported is not None)
    assert reported is not None and reported < 60
    assert nights.night(71, rates, since=night_of(65)).ok


@pytest.fixture
def month(nights, quiet):
    """A history of 20 quiet nights, kept without verdicts."""
    for number, row in enumerate(quiet[:20], 1):
        into_history(nights.results(number, rates_of(row)), nights.folder)
    return nights


def test_a_loss_that_a_second_measurement_refutes_is_no_alarm(month, quiet):
    rates = rates_of(quiet[20])
    first = month.measure(21, rates | {CELL: rates[CELL] * 0.95})
    for factor, verdict, counted in ((0.999, "ok", True), (0.951, "slower", False)):
        results = month.results(21, {CELL: rates[CELL] * factor})
        second = Path(f"{results.run_directory}-again")
        month.write(replace(results, run_directory=str(second), created_at="2026-01-21T05:00:00+00:00"))
        night = month.judge(21, NightlyStudy(first.label, first.run_dir, second=second))
        assert night.verdict == verdict and night.studies[0].second_run_directory == str(second)
        after = month.judge(22, month.measure(22, rates_of(quiet[21])))
        (own,) = (cell for cell in after.studies[0].cells if cell.name == CELL)
        assert own.nights == (21 if counted else 20) and night_of(21) in after.studies[0].baseline.nights
        if counted:
            assert own.verdict is NightlyVerdict.SAME


def test_confirmed_loss_waits_for_the_next_night_if_asked(month, quiet):
    def judged(number, factor=0.95):
        rates = rates_of(quiet[number - 1])
        first = month.measure(number, rates | {CELL: rates[CELL] * factor})
        results = month.results(number, {CELL: rates[CELL] * factor})
        second = Path(f"{results.run_directory}-again")
        month.write(replace(results, run_directory=str(second)))
        return month.judge(number, NightlyStudy(first.label, first.run_dir, second=second), confirm_next_night=True)

    first = judged(21)
    assert (first.verdict, first.slower, first.confirm_next_night) == (NightState.OK, (), True)
    assert first.text == "1 of 48 cells slower, pending until the next night"
    # It is no slower host.
    assert NightWarningKind.HOST_SLOWER not in [warning.kind for warning in first.warnings]
    assert judged(22).slower == judged(23).slower == (CELL,)
    assert judged(24, 1.0).ok and judged(25).ok


def test_failed_and_vanished_cells_are_named(month, quiet):
    rates = rates_of(quiet[20]) | {CELL: None}
    gone = cell_names()[-1]
    del rates[gone]
    night = month.night(21, rates)
    assert (night.verdict, night.failed, night.not_measured) == (NightState.FAILED, (CELL,), (gone,))
    # What the night before had not either is no finding.
    assert month.night(22, rates | {CELL: 1000.0}).not_measured == ()


def test_a_study_without_results_is_named_and_the_rest_is_judged(month, quiet):
    measured = month.measure(21, rates_of(quiet[20]))
    night = month.judge(21, measured, NightlyStudy("ScalingStudy", None, "no cell can run on this host"))
    assert (night.verdict, night.not_measured) == (NightState.NOT_MEASURED, ("ScalingStudy",))
    assert night.compared == 48


def test_a_cell_that_can_no_longer_run_was_not_measured(month, quiet):
    planned = month.write(with_cell(month.results(21, rates_of(quiet[20])), 0, **NOT_RUNNABLE))
    assert month.judge(21, planned).not_measured == (cell_names()[0],)


@pytest.mark.parametrize("strict", [False, True])
def test_a_cell_that_never_ran_is_a_finding_only_if_strict(nights, strict):
    planned = nights.write(with_cell(nights.results(1, {CELL: 1000.0}), 0, **NOT_RUNNABLE))
    night = nights.judge(1, NightlyStudy("NumaStudy", planned.run_dir, strict=strict))
    assert night.verdict == ("not_measured" if strict else "ok")


def test_noisy_cells_are_named(nights):
    for number, row in enumerate(quiet_rates(20, spread=(0.012, 0.013)), 1):
        night = nights.night(number, rates_of(row))
    assert len(night.too_noisy) > 40
    assert night.ok


def test_driver_changes_are_reported_and_do_not_exclude_nights(month, quiet):
    rates = rates_of(quiet[20])
    facts = replace(FINGERPRINT, driver="590.2")
    night = month.night(21, rates | {CELL: rates[CELL] * 0.95}, fingerprint=facts)
    (change,) = night.studies[0].changes
    assert (change.fact, change.before, change.after) == ("driver", "580.1", "590.2")
    assert [warning.study for warning in night.warnings if warning.kind is NightWarningKind.HOST_CHANGED] == [
        "NumaStudy"
    ]
    assert night.slower == (CELL,)


def test_nights_on_other_hardware_do_not_count(month, quiet):
    facts = replace(FINGERPRINT, gpus="4 x Another GPU")
    night = month.night(21, {name: rate / 2 for name, rate in rates_of(quiet[20]).items()}, fingerprint=facts)
    assert (night.verdict, night.compared) == (NightState.OK, 0)
    excluded = night.studies[0].baseline.excluded
    assert len(excluded) == 20 and excluded[-1].changes[0].fact == "gpus"
    assert NightWarningKind.NIGHTS_EXCLUDED in [warning.kind for warning in night.warnings]


def test_a_pinned_run_directory(month, quiet):
    pinned = month.measure(1, {name: rate * 1.1 for name, rate in rates_of(quiet[0]).items()}).run_dir
    tonight = month.measure(21, rates_of(quiet[20]))
    night = month.judge(21, NightlyStudy("NumaStudy", tonight.run_dir, pinned=pinned))
    assert len(night.slower) == len(night.studies[0].slower) == 48
    assert night.studies[0].baseline.pinned == str(pinned)


def test_judging_twice_changes_nothing(month, quiet):
    rates = rates_of(quiet[20])
    planned = month.measure(21, rates | {CELL: rates[CELL] * 0.95})

    def rows():
        with open_history(month.database) as history:
            return history.conn.execute("select * from verdicts order by study_id, cell_id").fetchall()

    first, kept = month.judge(21, planned), rows()
    assert len(kept) == 48
    assert replace(month.judge(21, planned), created_at=first.created_at) == first
    assert rows() == kept


def test_later_nights_do_not_count(month, quiet):
    """A night that is judged again much later is compared with the nights before it."""
    (study,) = month.judge(10, month.measure(10, rates_of(quiet[9]))).studies
    assert study.baseline.nights == tuple(night_of(number) for number in range(1, 10))


def test_a_study_outside_of_a_night_is_no_night(month, quiet):
    into_history(month.results(40, rates_of(quiet[0]), night=""), month.folder)
    (study,) = month.night(41, rates_of(quiet[20])).studies
    assert len(study.baseline.nights) == 20


def test_studies_left_out_without_a_gpu_are_named(month, quiet):
    night = month.judge(21, month.measure(21, rates_of(quiet[20])), inputs="abc", without_gpu=["ScalingStudy"])
    assert (night.warnings[-1].kind, night.warnings[-1].study) == (NightWarningKind.NO_GPU, "ScalingStudy")
    assert night.inputs == "abc"


def test_nights_of_schema_version_2_count_and_raise_no_alarm(nights):
    """Its host, cells and rates again, one night later: the same series, nothing slower, the host unchanged."""
    with closing(sqlite3.connect(nights.database)) as old:
        old.executescript(OLD.read_text())
        cells = old.execute(
            "select cells.name, cells.key, avg(m.calm_samples_s) "
            "from cells join measurements m on m.cell_id = cells.id "
            "where m.outcome = 'ok' and m.study_id < 8 group by cells.id"
        ).fetchall()
        (facts,) = old.execute("select fingerprint from studies where id = 8").fetchone()
    results = made_results(
        nights.folder,
        1,
        {name: rate for name, _, rate in cells},
        fingerprint=decode(facts.encode(), Fingerprint),
        night="2026-11-09",
    )
    keyed = tuple(replace(cell, key=key) for cell, (_, key, _) in zip(results.cells, cells, strict=True))
    planned = nights.write(replace(results, study_name="numa_small", cells=keyed))
    night = judge_night("2026-11-09", HOST, [planned], nights.database, 28)
    assert (night.verdict, night.compared, night.studies[0].changes) == (NightState.OK, 8, ())
    assert {cell.nights for cell in night.studies[0].cells} == {7, 8}
    with open_history(nights.database) as history:
        assert history["cells"].count == 8


def test_another_design_begins_a_series_without_an_alarm(month, quiet):
    """All cells 10 % slower since they are measured by turns: nothing to compare with, until there are nights."""
    rates = {name: 0.9 * rate for name, rate in rates_of(quiet[20]).items()}
    night = month.judge(21, month.write(crossed(month.results(21, rates))))
    assert (night.verdict, night.compared) == (NightState.OK, 0)
    for number in range(22, 26):
        month.judge(number, month.write(crossed(month.results(number, rates))))
    assert month.judge(26, month.write(crossed(month.results(26, rates)))).compared == 48


def with_latencies(results, **factors):
    """p50, p99 and the spread of windows of every run; factors: of cell QUIET, by field."""
    noise = np.random.default_rng([3, *results.study.night.encode()])
    levels = {"latency_p50_us": 400.0, "latency_p99_us": 450.0, "window_spread": 0.004}

    def run(one, name):
        if one.repeat == "traced":
            return one
        own = {
            field: level * float(np.exp(0.004 * noise.normal())) * (factors.get(field, 1.0) if name == QUIET else 1.0)
            for field, level in levels.items()
        }
        return replace(one, **own)

    cells = tuple(replace(cell, runs=tuple(run(one, cell.name) for one in cell.runs)) for cell in results.cells)
    return replace(results, cells=cells)


def of_cell(night):
    return next(cell for cell in night.studies[0].cells if cell.name == QUIET)


class NightsWithLatencies(Nights):
    rows = quiet_rates(40, gpus=1)

    def measured(self, number, run=0, rate=1.0, **factors):
        """run: another measurement of the same night. rate: of QUIET, like the factors."""
        rates = rates_of(self.rows[number - 1], 1)
        rates[QUIET] *= rate
        return self.write(with_latencies(self.results(number + run, rates, night=night_of(number)), **factors))

    def confirmed(self, number, **factors):
        """A night that finds the same twice, and asks for the next night too."""
        first, second = self.measured(number, **factors), self.measured(number, 100, **factors)
        planned = dataclasses.replace(first, second=second.run_dir)
        return self.judge(number, planned, confirm_next_night=True)


@pytest.fixture(scope="module")
def month_with_latencies(tmp_path_factory):
    nights = NightsWithLatencies(tmp_path_factory.mktemp("latencies"))
    for number in range(1, 29):
        assert nights.judge(number, nights.measured(number)).ok
    return nights.database


@pytest.fixture
def latencies(tmp_path, month_with_latencies):
    """After 28 nights whose runs have latencies."""
    shutil.copy(month_with_latencies, tmp_path)
    return NightsWithLatencies(tmp_path)


def test_longer_latency_is_a_finding_if_measured_twice(latencies):
    planned = latencies.measured(29, latency_p99_us=1.1)
    first = latencies.judge(29, planned)
    p99 = of_cell(first).others[Measure.LATENCY_P99]
    assert (of_cell(first).verdict, p99.verdict) == (NightlyVerdict.SAME, NightlyVerdict.SLOWER)
    assert "longer" in p99.text and p99.tonight == pytest.approx(495, rel=0.02)
    assert (first.verdict, first.slower) == (NightState.SLOWER, (QUIET,))
    assert f"{QUIET} (p99) by" in first.text
    assert first.studies[0].unconfirmed == (QUIET,)
    assert (first.compared, first.compared_others) == (12, 36)
    assert first.level == pytest.approx(0.025 / 60 / 12) and first.level_of_others == pytest.approx(0.025 / 60 / 36)

    again = latencies.measured(29, 100, latency_p99_us=1.1).run_dir
    assert latencies.judge(29, dataclasses.replace(planned, second=again)).slower == (QUIET,)
    quiet = latencies.measured(29, 200).run_dir
    refuted = latencies.judge(29, dataclasses.replace(planned, second=quiet))
    assert refuted.ok and "not confirmed" in of_cell(refuted).others[Measure.LATENCY_P99].text


def test_lasting_loss_of_latency_stays_out_of_its_baseline(latencies):
    for number in (29, 30):
        assert latencies.judge(number, latencies.measured(number, latency_p50_us=1.08)).slower == (QUIET,)
    night = latencies.judge(31, latencies.measured(31))
    assert night.ok and of_cell(night).others[Measure.LATENCY_P50].nights == 28


def test_next_night_confirms_only_the_measure_that_was_lost(latencies):
    def verdicts(night):
        cell = of_cell(night)
        return cell.verdict, cell.others[Measure.LATENCY_P99].verdict

    same, slower, pending = NightlyVerdict.SAME, NightlyVerdict.SLOWER, NightlyVerdict.PENDING
    assert verdicts(latencies.confirmed(29, latency_p99_us=1.1)) == (same, pending)
    night = latencies.confirmed(30, rate=0.93)
    assert (verdicts(night), night.slower) == ((pending, same), ())
    night = latencies.confirmed(31, rate=0.93, latency_p99_us=1.1)
    assert (verdicts(night), night.slower) == ((slower, pending), (QUIET,))
    assert verdicts(latencies.confirmed(32, rate=0.93, latency_p99_us=1.1)) == (slower, slower)


def test_pending_verdict_of_an_older_history_is_of_all_measures(latencies):
    latencies.confirmed(29, latency_p99_us=1.1)
    with closing(sqlite3.connect(latencies.database)) as history:
        history.execute("update verdicts set lost = NULL")
        history.commit()
    assert latencies.confirmed(30, rate=0.93).slower == (QUIET,)


def test_cell_that_is_only_less_steady_is_no_finding(latencies):
    night = latencies.judge(29, latencies.measured(29, window_spread=3.0))
    steadiness = of_cell(night).others[Measure.SPREAD_IN_RUNS]
    assert night.ok and night.studies[0].unconfirmed == ()
    assert steadiness.verdict is NightlyVerdict.SLOWER and "more" in steadiness.text


def test_first_nights_with_latencies_raise_no_alarm(month, quiet):
    """The nights before have none: the series begins."""
    for number in range(21, 26):
        results = with_latencies(month.results(number, rates_of(quiet[number - 1])), latency_p99_us=float(number))
        night = month.judge(number, month.write(results))
        p99 = of_cell(night).others[Measure.LATENCY_P99]
        assert night.ok and (p99.verdict, p99.nights) == (None, number - 21)
    assert night.level == pytest.approx(0.05 / 60 / 48)


def test_slower_cell_is_measured_again_though_it_was_slower_before(month, quiet):
    def lost(number):
        rates = rates_of(quiet[number - 1])
        return month.night(number, rates | {CELL: rates[CELL] * 0.9})

    assert lost(21).studies[0].unconfirmed == lost(22).studies[0].unconfirmed == (CELL,)


def test_host_that_is_slower_for_long_stays_slower_also_for_a_cell_found_before(month, quiet):
    rates = rates_of(quiet[20])
    assert month.night(21, rates | {CELL: rates[CELL] * 0.9}).slower == (CELL,)
    for number, found in ((22, 0), (23, 48), (24, 48)):
        night = month.night(number, {name: rate * 0.93 for name, rate in rates_of(quiet[number - 1]).items()})
        assert len(night.slower) == found
