import pytest
from msgspec.structs import replace

from bench.analysis.load import load
from bench.analysis.pairs import undisturbed_throughput
from bench.history.database import add_study, open_history, stored_path
from bench.history.query import studies, with_cells
from bench.report.build import build_results
from tests.history.synthetic import made_results, quiet_rates, rates_of
from tests.run_directories import build_run_directory


def dump(path):
    with open_history(path) as history:
        return [line for line in history.conn.iterdump() if "INSERT" in line]


def test_a_run_directory_is_added_completely(tmp_path):
    run = build_run_directory(tmp_path / "numa" / "2026-11-22" / "01-30-00", "numa_locality_study", {"repeats": 2})
    results = build_results(load(run), "test")
    add_study(results, tmp_path / "history.db")
    with open_history(tmp_path / "history.db") as history:
        (study,) = with_cells(history, studies(history))
        assert history["runs"].count == 48 * 3
        assert history["penalties"].count == len(results.penalties) == 24
    assert (study.study_name, study.cells, study.cells_ok, study.driver) == ("numa_locality_study", 48, 48, "580.00")
    assert study.run_directory == "numa/2026-11-22/01-30-00"
    assert {cell.name: (cell.key, cell.throughput_samples_s, cell.regime) for cell in study.measured} == {
        cell.name: (cell.key, cell.throughput_samples_s, cell.metrics.regime) for cell in results.cells
    }


def test_adding_a_run_directory_again_changes_nothing(tmp_path):
    results = made_results(tmp_path, 1, rates_of(quiet_rates(1)[0]))
    add_study(results, tmp_path / "history.db")
    before = dump(tmp_path / "history.db")
    assert add_study(results, tmp_path / "history.db") == 1
    after = dump(tmp_path / "history.db")
    assert len(after) == len(before)
    assert [line for line in after if '"studies"' in line] == [line for line in before if '"studies"' in line]


def test_a_repeated_study_replaces_the_failed_one(tmp_path):
    path, rates = tmp_path / "history.db", rates_of(quiet_rates(1)[0])
    name = next(iter(rates))
    first = add_study(made_results(tmp_path, 1, rates | {name: None}), path)
    assert add_study(made_results(tmp_path, 1, rates), path) == first
    with open_history(path) as history:
        (study,) = with_cells(history, studies(history))
    assert study.cells_ok == 48
    assert {cell.outcome for cell in study.measured} == {"ok"}


def test_another_run_directory_is_another_study(tmp_path):
    for number in (1, 2):
        add_study(made_results(tmp_path, number, rates_of(quiet_rates(1)[0])), tmp_path / "history.db")
    with open_history(tmp_path / "history.db") as history:
        assert [study.night for study in studies(history)] == ["2026-01-02", "2026-01-01"]


@pytest.mark.parametrize(("place", "stored"), [("out/a/b", "a/b"), ("elsewhere/b", None)])
def test_run_directories_below_the_database_are_relative(tmp_path, place, stored):
    assert stored_path(str(tmp_path / place), tmp_path / "out/history.db") == (stored or str(tmp_path / place))


def test_a_night_counts_the_median_of_its_undisturbed_runs(tmp_path):
    (cell,) = made_results(tmp_path, 1, {"pipeline_gpu0_numa0_vit0x0x0": 1.0}, repeats=5).cells
    rates = [(100.0, False), (102.0, False), (64.0, False), (10.0, True), (103.0, False)]
    runs = [
        replace(run, throughput_samples_s=rate, disturbed=disturbed)
        for run, (rate, disturbed) in zip(cell.runs, rates, strict=True)
    ]
    assert undisturbed_throughput(replace(cell, runs=tuple(runs))) == 101.0
