"""The state of a host: from its records, its job in Slurm, and the job's own record."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bench.cluster.directory import ClusterDirectory, find_or_create
from bench.cluster.slurm import Job
from bench.cluster.status import Runs, cluster_status, count_runs, host_state, render, status
from bench.errors import StudyError
from bench.records.base import convert
from bench.records.cluster import HostJobs, JobRecord, SubmittedJob
from bench.storage import write_json
from bench.study.load import load_study
from tests.run_directories import build_run_directory, topology_json

WHOLE = Runs(done=6, failed=0, expected=6, last_record_s=1.0, reported=True)
HALF = Runs(done=3, failed=1, expected=6, last_record_s=1.0, reported=False)
NONE = Runs(done=0, failed=0, expected=None, last_record_s=None, reported=False)


def job(state: str, reason: str = "", restarts: int = 0, exit_code: str = "0:0") -> Job:
    return Job(state, reason, restarts, exit_code)


@pytest.mark.parametrize(
    ("runs", "known", "own", "state", "reason"),
    [
        (WHOLE, None, {}, "done", ""),
        (WHOLE, job("FAILED"), {}, "done", ""),
        (HALF, job("RUNNING"), {}, "measuring", ""),
        (HALF, job("COMPLETING"), {}, "measuring", "job 7 is completing"),
        (NONE, job("PENDING", "Resources"), {}, "waiting", "job 7 not started yet: Resources"),
        (HALF, job("PENDING", "BeginTime", 1), {}, "waiting", "job 7 queued again (start 2): BeginTime"),
        (NONE, job("CANCELLED"), {}, "incomplete", "job 7 is cancelled (exit code 0:0); it never started on the host"),
        (NONE, job("PENDING", "launch failed requeued held", 1), {}, "incomplete", "0:0, launch failed requeued held)"),
        (HALF, job("NODE_FAIL"), {"state": "running", "started_at": "10:00"}, "incomplete", "the node failed"),
        (HALF, job("FAILED", "NonZeroExitCode", 0, "30:0"), {"state": "ended", "exit_code": 30}, "incomplete",
         "exit code 30:0, NonZeroExitCode); luigi ended with exit code 30"),
        (HALF, job("FAILED"), {"state": "stuck", "reason": "no run ended before"}, "incomplete", "stuck: no run ended"),
        (HALF, None, {"state": "stopped", "reason": "by SIGTERM"}, "incomplete",
         "Slurm has forgotten job 7; stopped: by SIGTERM"),
        (HALF, None, {"state": "ended", "job_id": "6"}, "incomplete", "it never started on the host"),
    ],
)  # fmt: skip
def test_state_of_a_host(runs: Runs, known: Job | None, own: dict[str, Any], state: str, reason: str) -> None:
    record = convert({"job_id": "7"} | own, JobRecord) if own else None
    found, why = host_state(runs, known, "7", record, "")
    assert found == state
    assert reason in why if reason else not why


def test_failed_runs_are_counted_when_a_host_is_done() -> None:
    failed = Runs(done=6, failed=2, expected=6, last_record_s=1.0, reported=True)
    assert host_state(failed, None, "7", None, "") == ("done", "2 runs failed")


@pytest.fixture
def directory(tmp_path: Path) -> ClusterDirectory:
    """n1 measured half of its runs, n2 nothing."""
    made = find_or_create(load_study("quick_test"), ["n1", "n2"], tmp_path, "", fresh=False)
    record = made.read()
    jobs = HostJobs(jobs=(SubmittedJob(id="3"), SubmittedJob(id="7")))
    made.write(structs.replace(record, hosts=record.hosts | {"n1": jobs}))
    build_run_directory(made.host("n1").path, "quick_test", topology=topology_json(gpus=0, nodes=1))
    for path in sorted(made.host("n1").path.glob("runs/*.json"))[3:]:
        path.unlink()
    write_json(made.job_record_path("n1"), {"job_id": "7", "state": "running", "started_at": "2026-11-22T10:00:00Z"})
    return made


def test_records_are_reported_without_slurm(directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = cluster_status(directory)
    first, second = found.hosts
    assert (first.state, first.runs_done, first.runs) == ("incomplete", 3, 6)
    assert first.reason.startswith("Slurm does not answer; it started at 2026-11-22T10:00:00Z")
    assert second.reason == "no job was submitted for it: submit the study again"
    text = render(found)
    assert "3/6 runs" in text and "scontrol is not installed here" in text
    assert "quick_test: 2 hosts (2 incomplete)" in text


def test_failed_and_damaged_runs_are_counted(directory: ClusterDirectory) -> None:
    first, second, _ = sorted(directory.host("n1").path.glob("runs/*.json"))
    write_json(first, json.loads(first.read_text()) | {"status": "oom", "reason": "too large"})
    second.write_text("{")
    runs = count_runs(directory.host("n1"))
    assert (runs.done, runs.failed, runs.expected, runs.reported) == (2, 1, 6, False)


def test_damaged_host_does_not_affect_others(directory: ClusterDirectory) -> None:
    (directory.host("n1").path / "grid.json").write_text("{")
    first, second = cluster_status(directory).hosts
    assert (first.state, first.runs_done, first.runs) == ("incomplete", 3, None)
    assert "grid.json: the grid of the study is damaged" in first.reason
    assert second.reason == "no job was submitted for it: submit the study again"
    assert "grid.json: the grid of the study is damaged" in status(directory.host("n1").path).hosts[0].reason


def test_records_that_cannot_be_listed_are_an_error_of_their_host(directory: ClusterDirectory) -> None:
    runs = directory.host("n1").path / "runs"
    shutil.rmtree(runs)
    runs.touch()
    with pytest.raises(StudyError, match="cannot be listed: Not a directory") as error:
        status(runs.parent)
    assert error.value.where == str(runs) and "ls -ld" in error.value.advice
    first, second = cluster_status(directory).hosts
    assert first.runs is None and f"{runs}: the records of runs cannot be listed" in first.reason
    assert second.reason == "no job was submitted for it: submit the study again"


@pytest.mark.parametrize("facts", ["[]", "{}", '{"fingerprint": []}', '{"fingerprint": {}}'])
def test_folder_without_a_host_is_not_a_run_directory(directory: ClusterDirectory, facts: str) -> None:
    (directory.host("n1").path / "topology.json").write_text(facts)
    with pytest.raises(StudyError, match="not a run directory"):
        status(directory.host("n1").path)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no study.yaml: this is not a run directory"), ("[]", "the resolved study is damaged")],
)
def test_damaged_study_is_named(directory: ClusterDirectory, text: str | None, message: str) -> None:
    file = directory.host("n1").path / "study.yaml"
    file.write_text(text) if text else file.unlink()
    with pytest.raises(StudyError, match=message):
        status(file.parent)


def test_run_directory_of_one_host_has_a_status(directory: ClusterDirectory) -> None:
    command = [str(Path(sys.executable).with_name("numastudy")), "status"]
    said = subprocess.run([*command, str(directory.host("n1").path), "--json"], capture_output=True, text=True)
    (host,) = json.loads(said.stdout)["hosts"]
    assert (host["runs_done"], host["runs"], host["job_id"]) == (3, 6, "")
    assert "quick_test: 1 host (" in render(status(directory.host("n1").path))
    refused = subprocess.run([*command, str(directory.path.parent)], capture_output=True, text=True)
    assert refused.returncode == 2 and "not a run directory" in refused.stderr
    with pytest.raises(StudyError):
        status(directory.path.parent)


def test_damaged_job_record_is_ignored(directory: ClusterDirectory) -> None:
    directory.job_record_path("n1").write_text("[")
    assert directory.job_record("n1") is None
