"""A study on three schedulers: order, failed cells, exit codes, a second call that resumes, nothing measured twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tasks.study_calls import PROJECT_CONFIG, Calls, luigid

FIRST, SECOND = "pipeline_gpu0_numa0_vit0x0x0", "pipeline_gpu0_numa0_vit0x0x0_again"

pytestmark = pytest.mark.slow


@pytest.fixture(params=["local", "luigid with the project's settings", "luigid with its defaults"])
def calls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Calls]:
    if request.param == "local":
        yield Calls(tmp_path / "work", ["--local-scheduler"])
        return
    config = PROJECT_CONFIG if "project" in request.param else None
    with luigid(tmp_path / "luigid", config) as port:
        yield Calls(tmp_path / "work", ["--scheduler-host", "127.0.0.1", "--scheduler-port", str(port)])


@pytest.mark.timeout(1800)
def test_second_call_repeats_only_failed_runs(calls: Calls) -> None:
    calls.study["repeats"] = 2
    calls.write()
    calls.sabotage(SECOND)

    first = calls.run("--workers", "2")
    assert first.returncode == 30, first.stderr
    assert "Traceback" not in first.stderr + first.stdout
    assert calls.measured() == calls.order()
    records = calls.records()
    assert {run for run, record in records.items() if record["status"] != "ok"} == {
        f"{SECOND}_r1", f"{SECOND}_r2", f"{SECOND}_traced",
    }  # fmt: skip
    failed = records[f"{SECOND}_r1"]
    assert (failed["status"], failed["attempts"]) == ("crashed", 2)
    assert "exit code 7" in failed["reason"] and "sabotaged for a test" in failed["reason"]
    report = calls.run_directory() / "report.html"
    assert "sabotaged for a test" in report.read_text()

    calls.repair(SECOND)
    before = (calls.run_directory() / "runs" / f"{FIRST}_r1.json").read_bytes()
    second = calls.run("--workers", "1")
    assert second.returncode == 0, second.stderr
    times = calls.times_measured()
    assert {run: times[run] for run in calls.order()} == {
        run: 2 if run.startswith(SECOND) else 1 for run in calls.order()
    }
    assert (calls.run_directory() / "runs" / f"{FIRST}_r1.json").read_bytes() == before
    assert all(record["status"] == "ok" for record in calls.records().values())

    third = calls.run()
    assert third.returncode == 0, third.stderr
    assert calls.times_measured() == times
    assert "--fresh" in third.stdout


@pytest.mark.timeout(1800)
def test_fresh_measures_in_a_new_directory(calls: Calls) -> None:
    calls.study["models"] = ["vit0x0x0"]
    calls.write()
    assert calls.run().returncode == 0
    for count in (2, 3):
        again = calls.run("--fresh")
        assert again.returncode == 0, again.stderr
        assert len(calls.run_directories()) == count
