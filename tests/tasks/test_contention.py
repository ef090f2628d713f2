"""A real contention study on the cpu device: two processes side by side, by luigi, from the command to the report."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.tasks.study_calls import TINY, Calls

CELL = "pipeline_gpu0_numa0_vit0x0x0"

pytestmark = pytest.mark.slow


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    study = TINY | {"models": ["vit0x0x0"], "concurrent_gpus": 2}
    return Calls(tmp_path / "work", ["--local-scheduler"], study)


@pytest.mark.timeout(1200)
def test_killed_study_leaves_no_process_and_continues(calls: Calls) -> None:
    luigi = calls.start()
    while len(calls.workloads()) < 2:
        assert luigi.poll() is None, luigi.communicate()
        time.sleep(0.02)
    os.killpg(luigi.pid, signal.SIGKILL)
    luigi.communicate()
    calls.wait_until_no_workload()

    done = calls.run()
    assert done.returncode == 0, done.stderr
    records = calls.records()
    assert sorted(records) == [f"{CELL}_r1", f"{CELL}_traced"]
    for run, record in records.items():
        (peer,) = record["peers"]
        assert (peer["gpu"], peer["status"], peer["exit_code"]) == (1, "ok", 0)
        assert peer["result"]["throughput_samples_s"] > 0 and peer["result"]["certificate"]["verdict"]
        assert (calls.run_directory() / "logs" / f"{run}_peer_gpu1.stderr").exists()
    monitor = records[f"{CELL}_r1"]["monitor"]
    assert monitor["samples"] > 0 and monitor["other_processes"] == []
    results = json.loads((calls.run_directory() / "results.json").read_text())
    assert results["cells"][0]["outcome"] == "ok"


def test_remote_placement_is_refused_on_one_node(calls: Calls) -> None:
    calls.study["concurrent_placement"] = "remote"
    calls.write()
    nodes = subprocess.run(["ls", "/sys/devices/system/node"], capture_output=True, text=True).stdout
    if "node1" in nodes.split():
        pytest.skip("this host has another node")
    refused = calls.run()
    assert refused.returncode == 2
    assert "concurrent_placement remote needs another node" in refused.stderr
    assert calls.run_directories() == []
