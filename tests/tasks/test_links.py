"""Links in a real study: measured between the probe and the first run; one that fails stops nothing."""

import json
from pathlib import Path

import pytest

from tests.tasks.study_calls import TINY, Calls

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1800)
def test_links_precede_runs_and_a_failed_one_stops_nothing(tmp_path: Path) -> None:
    study = TINY | {"models": ["vit0x0x0"], "measure_link": True}
    calls = Calls(tmp_path / "work", ["--local-scheduler"], study)
    calls.sabotage("link_gpu0_numa0")
    done = calls.run()
    assert done.returncode == 0, done.stderr
    path = calls.run_directory() / "links" / "gpu0_numa0.json"
    link = json.loads(path.read_bytes())
    assert link["status"] == "crashed" and "sabotaged for a test" in link["reason"] and link["result"] is None
    first = min(path.stat().st_mtime for path in calls.run_directory().glob("logs/pipeline*.stderr"))
    assert (calls.run_directory() / "probe_before.json").stat().st_mtime <= path.stat().st_mtime <= first

    # A call that has a run to measure measures the link again.
    calls.repair("link_gpu0_numa0")
    (calls.run_directory() / "runs" / "pipeline_gpu0_numa0_vit0x0x0_r1.json").unlink()
    again = calls.run()
    assert again.returncode == 0, again.stderr
    link = json.loads(path.read_bytes())
    assert link["status"] == "ok" and link["result"]["copies"]
    assert calls.times_measured() == {"pipeline_gpu0_numa0_vit0x0x0_r1": 2, "pipeline_gpu0_numa0_vit0x0x0_traced": 1}
