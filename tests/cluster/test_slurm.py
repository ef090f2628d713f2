"""Slurm's words, as slurmctld 22.05 printed them on three nodes of which one never came. Slurm itself: tests/slurm."""

from functools import partial
from pathlib import Path

import pytest

from bench.cluster import slurm
from bench.errors import StudyError

JOBS = """\
JobId=1 JobName=numastudy-tiny UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901759 Nice=0 Account=(null) \
QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 \
RunTime=00:00:33 TimeLimit=365-00:00:00 ReqB:S:C:T=0:0:*:* NodeList=n1 CPUs/Task=1 WorkDir=/tmp/a
JobId=2 JobName=numastudy-tiny UserId=root(0) JobState=PENDING Reason=BeginTime Dependency=(null) Restarts=1 \
ExitCode=0:0 NodeList= StdOut=/tmp/JobState=FAILED/log
JobId=3 JobName=numastudy-tiny UserId=root(0) JobState=PENDING Reason=ReqNodeNotAvail,_UnavailableNodes:n4 \
Restarts=0 ExitCode=0:0
JobId=4 JobName=other UserId=root(0) JobState=FAILED Reason=NonZeroExitCode Restarts=0 ExitCode=30:0
JobId=5 JobName=held Priority=0 JobState=PENDING Reason=launch_failed_requeued_held Restarts=1 ExitCode=0:0
JobId=6 JobName=held JobState=REQUEUE_HOLD Reason=JobHoldMaxRequeue Restarts=5 ExitCode=0:0
"""


def test_jobs_are_read_from_one_line_each() -> None:
    found = slurm.parse_jobs(JOBS)
    assert {id: (job.state, job.reason, job.restarts, job.alive) for id, job in found.items()} == {
        "1": ("RUNNING", "", 0, True),
        "2": ("PENDING", "BeginTime", 1, True),
        "3": ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n4", 0, True),
        "4": ("FAILED", "NonZeroExitCode", 0, False),
        "5": ("PENDING", "launch failed requeued held", 1, False),
        "6": ("REQUEUE_HOLD", "JobHoldMaxRequeue", 5, False),
    }
    assert found["4"].exit_code == "30:0"
    assert [id for id, job in found.items() if job.held] == ["5", "6"]
    assert slurm.parse_jobs("No jobs in the system\n") == {}


def test_refusal_of_slurm_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("scontrol", "sbatch", "sinfo"):
        (tmp_path / command).write_text("#!/bin/sh\necho 'fatal: no configuration' >&2; exit 1\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    expand, submit = partial(slurm.expand, "n[1-2]"), partial(slurm.submit, "")
    for remedy, call in (("--nodes n1,n2", expand), ("--dry-run", submit), ("sinfo", slurm.nodes)):
        with pytest.raises(StudyError, match="Slurm refused: fatal: no configuration") as refused:
            call()
        assert remedy in refused.value.advice


def test_error_advises_a_login_node_when_slurm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StudyError, match="scontrol is not installed here"):
        slurm.jobs(["1"])
    assert slurm.jobs([]) == {}
