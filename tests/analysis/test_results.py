"""The whole analysis of a run directory, as results.json holds it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.analysis.load import load
from bench.records.base import decode, plain
from bench.records.results import Counts, LocalSource, Results
from bench.records.run import Outcome
from bench.report.build import build_results
from tests.run_directories import build_run_directory, topology_json


def test_counts_are_of_cells_and_runs(numa_results):
    failed = {Outcome.OOM: 1, Outcome.TIMEOUT: 1, Outcome.MISPLACED: 1}
    assert numa_results.counts == Counts(cells=48, ok=45, runs=336, runs_ok=333, outcomes=failed)


def test_results_survive_strict_json(numa_results):
    assert decode(json.dumps(plain(numa_results), allow_nan=False).encode(), Results) == numa_results


def test_cells_have_the_keys_of_the_grid(numa_run, numa_results):
    assert [cell.key for cell in numa_results.cells] == [cell.key for cell in load(numa_run).cells]


def test_the_synthetic_loss_of_the_copies_is_found_on_every_gpu(numa_results):
    found = [entry for entry in numa_results.penalties if entry.model == "vit0x0x0"]
    assert [(entry.gpu, entry.local_node) for entry in found] == [(0, 0), (1, 0), (2, 2), (3, 2)]
    assert all(entry.penalty == pytest.approx(1 - 38 / 54, abs=0.01) for entry in found)
    assert {entry.local_source for entry in found} == {LocalSource.REPORTED}


def test_device_and_names(numa_results, quick_run, results_of):
    assert numa_results.device == "cuda"
    assert numa_results.device_names["2"] == "Synthetic GPU 80GB"
    assert numa_results.host == "synthetic-host"
    assert results_of(quick_run).device == "cpu"


def test_a_cell_that_cannot_run_here_has_the_reason(tmp_path, results_of):
    path = build_run_directory(
        tmp_path / "run", "numa_locality_study", {"gpu_ids": [0, 7]}, topology=topology_json(gpus=2, near=(0, 2))
    )
    results = results_of(path)
    assert results.counts.outcomes == {Outcome.NOT_RUNNABLE: 12}
    refused = [cell for cell in results.cells if cell.gpu == 7]
    assert all(cell.outcome is Outcome.NOT_RUNNABLE and cell.reason for cell in refused)


def test_a_directory_without_any_run_has_results(quick_run, results_of):
    for folder in ("runs", "latency", "nsys_reports"):
        for file in (quick_run / folder).iterdir():
            file.unlink()
    results = results_of(quick_run)
    assert results.counts == Counts(cells=3, ok=0, runs=6, runs_ok=0, outcomes={Outcome.MISSING: 3})
    assert (results.duration_s, results.penalties) == (0.0, ())


@pytest.mark.parametrize("path", ["latency/pipeline_gpu0_numa0_vit0x0x0.json", "topology.json"])
def test_a_damaged_record_is_in_the_results(quick_run, results_of, path):
    (quick_run / path).write_text("{")
    assert [damage.path for damage in results_of(quick_run).damaged] == [path]


def test_a_damaged_link_costs_only_itself(tmp_path, results_of):
    study = {"name": "one", "gpu_ids": [0], "numa_nodes": [0, 1], "models": ["vit0x0x0"], "repeats": 2}
    (tmp_path / "one.yaml").write_text(json.dumps(study))
    topology = topology_json(gpus=1, near=(0,), nodes=2)
    run = build_run_directory(tmp_path / "run", str(tmp_path / "one.yaml"), topology=topology, links=True)
    assert [link.name for link in results_of(run).links] == ["gpu0_numa0", "gpu0_numa1"]
    (run / "links/gpu0_numa0.json").write_text("{")
    results = results_of(run)
    assert [damage.path for damage in results.damaged] == ["links/gpu0_numa0.json"]
    assert len(results.links) == 1 and results.counts.ok == 2


def test_the_noise_floor_of_an_earlier_self_check_is_quoted(tmp_path, results_of):
    path = tmp_path / "outputs" / "quick_test" / "2026-11-22" / "18-00-00"
    build_run_directory(path, "quick_test", topology=topology_json(gpus=0, nodes=1))
    assert results_of(path).trust.noise_floor is None
    spread = {"gpu": 0, "cpu_node": 0, "mem_node": 0, "model": "m", "runs": 6, "spread": 0.001}
    spreads = [
        spread | {"noise_class": "device-bound", "upper": 0.008},
        spread | {"noise_class": "launch-bound", "upper": 0.1},
    ]
    check = {"comparisons": [], "false_differences": [], "intervals_without_zero": 0, "noise_floor": {}}
    known = {"synthetic-host": check | {"spreads": spreads}}
    (tmp_path / "outputs" / "noise_floor.json").write_text(json.dumps(known))
    assert results_of(path).trust.noise_floor == 0.008


def test_a_run_directory_near_the_root_has_no_noise_floor(quick_run):
    data = replace(load(quick_run), path=Path("/run"))
    assert build_results(data, "test").trust.noise_floor is None
