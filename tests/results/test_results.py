import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.legacy.build import build_results
from bench.legacy.load import load
from tests.run_directories import build_run_directory, topology_json


def test_counts_are_of_cells_and_runs(numa_results):
    assert numa_results["counts"] == {
        "cells": 48, "ok": 45, "runs": 336, "runs_ok": 333, "oom": 1, "timeout": 1, "misplaced": 1,
    }  # fmt: skip


def test_the_keys_of_the_contract_are_there(numa_results):
    wanted = """schema study study_name run_directory created_at invocation host fingerprint device device_names
        binding counts duration_s cells penalties"""
    assert set(wanted.split()) <= set(numa_results)
    of_cells = """name key gpu cpu_node mem_node model settings outcome reason advice log_tail failed_run
        throughput_samples_s throughput_spread throughput_runs noise_class latency_us metrics efficiency_solo
        perturbation runs"""
    assert all(set(of_cells.split()) <= set(cell) for cell in numa_results["cells"])


def test_results_are_strict_json(numa_results):
    assert json.loads(json.dumps(numa_results, allow_nan=False)) == numa_results


def test_the_keys_of_cells_are_those_of_the_grid(numa_run, numa_results):
    grid = json.loads((numa_run / "grid.json").read_text())["cells"]
    assert [cell["key"] for cell in numa_results["cells"]] == [cell["key"] for cell in grid]


def test_the_synthetic_loss_of_the_copies_is_found_on_every_gpu(numa_results):
    found = [entry for entry in numa_results["penalties"] if entry["model"] == "vit0x0x0"]
    assert [entry["gpu"] for entry in found] == [0, 1, 2, 3]
    assert [entry["local_node"] for entry in found] == [0, 0, 2, 2]
    assert all(entry["penalty"] == pytest.approx(1 - 38 / 54, abs=0.01) for entry in found)


def test_device_and_names(numa_results, quick_run, results_of):
    assert numa_results["device"] == "cuda"
    assert numa_results["device_names"]["2"] == "Synthetic GPU 80GB"
    assert numa_results["host"]["name"] == "synthetic-host"
    assert results_of(quick_run)["device"] == "cpu"


def test_a_cell_that_cannot_run_here_says_why(tmp_path, results_of):
    path = build_run_directory(
        tmp_path / "run", "numa_locality_study", {"gpu_ids": [0, 7]}, topology=topology_json(gpus=2, near=(0, 2))
    )
    results = results_of(path)
    assert results["counts"]["not_runnable"] == 12
    refused = [cell for cell in results["cells"] if cell["gpu"] == 7]
    assert all(cell["outcome"] == "not_runnable" and cell["reason"] for cell in refused)


def test_a_directory_without_any_run_still_gives_results(quick_run, results_of):
    for folder in ("runs", "latency", "nsys_reports"):
        for file in (quick_run / folder).iterdir():
            file.unlink()
    results = results_of(quick_run)
    assert results["counts"] == {"cells": 3, "ok": 0, "runs": 6, "runs_ok": 0, "missing": 3}
    assert (results["duration_s"], results["penalties"]) == (0.0, [])


def test_a_damaged_record_is_in_the_results(quick_run, results_of):
    (quick_run / "latency/pipeline_gpu0_numa0_vit0x0x0.json").write_text("{")
    results = results_of(quick_run)
    assert results["damaged"][0]["path"] == "latency/pipeline_gpu0_numa0_vit0x0x0.json"
    assert results["counts"]["missing"] == 1


def test_the_noise_floor_of_an_earlier_self_check_is_quoted(tmp_path, results_of):
    path = tmp_path / "outputs" / "quick_test" / "2026-11-22" / "18-00-00"
    path.parent.mkdir(parents=True)
    build_run_directory(path, "quick_test", topology=topology_json(gpus=0, nodes=1))
    assert results_of(path)["trust"]["noise_floor"] is None
    spreads = [{"noise_class": "rest", "upper": 0.008}, {"noise_class": "launch-bound", "upper": 0.1}]
    known = {"synthetic-host": {"spreads": spreads}, "another": {"spreads": [{"noise_class": "rest", "upper": 0.5}]}}
    (tmp_path / "outputs" / "noise_floor.json").write_text(json.dumps(known))
    assert results_of(path)["trust"]["noise_floor"] == 0.008


def test_a_run_directory_near_the_root_has_no_noise_floor(quick_run):
    stored = replace(load(quick_run), path=Path("/run"))
    assert build_results(stored, "test")["trust"]["noise_floor"] is None


@pytest.mark.parametrize("damage", ["[]", '{"synthetic-host": {"spreads": [{"upper": "x"}]}}', '{"synthetic-host": 3}'])
def test_a_damaged_noise_floor_is_none(tmp_path, results_of, damage):
    path = build_run_directory(tmp_path / "outputs/quick_test/2026-11-22/18-00-00", "quick_test", {"repeats": 1},
                               topology=topology_json(gpus=0, nodes=1))  # fmt: skip
    (tmp_path / "outputs" / "noise_floor.json").write_text(damage)
    assert results_of(path)["trust"]["noise_floor"] is None
