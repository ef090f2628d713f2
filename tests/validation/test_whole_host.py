"""The command for a whole host: its figures and its table, and a rank job that `numastudy where` sees."""

import argparse
import json

import pytest

from bench.report.build import make_report
from tests.run_directories import build_run_directory, crossed_process, topology_json
from tests.validation import whole_host


def test_table_has_the_comparisons_of_a_study(tmp_path):
    run = tmp_path / "null/study/2025-01-01/00-00-00"
    overrides = {"gpu_ids": [0], "numa_nodes": [0, 1], "repeats": 6, "models": ["vit0x0x0"]}
    process = crossed_process(penalty=0.041)
    build_run_directory(run, "numa_locality_study", overrides, topology=topology_json(1, (0,), 2), crossed=process)
    make_report(run, "test")
    found = whole_host.figures(tmp_path / "null")
    assert found and found["cells"] == 2 and found["outcomes"] == {"ok": 2}
    assert json.loads(json.dumps(found))["comparisons"][0]["verdict"] == "SLOWER"
    assert "| null | pipeline_gpu0_numa1_vit0x0x0 | 4.1 % |" in whole_host.page({"null": found})


@pytest.mark.slow
def test_job_of_ranks_is_seen_and_ends(tmp_path):
    whole_host.where(tmp_path / "where", argparse.Namespace(device="cpu"))
    found = whole_host.figures(tmp_path / "where")
    assert found and found["exit_code"] == 0
    assert len(found["answer"]["gpus"][0]["processes"]) >= 3
    assert "GPU None local" in whole_host.page({"where": found})
