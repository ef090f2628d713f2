"""The job's own part, without Slurm. With it, and with luigi: tests/slurm."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec import structs

from bench.cluster import job
from bench.cluster.directory import ClusterDirectory, find_or_create
from bench.cluster.job import HostJob, final_state, lock_folder, newer_job, this_host
from bench.errors import StudyError
from bench.records.cluster import HostJobs, JobState, SubmittedJob
from bench.storage import write_json
from bench.study.load import load_study


@pytest.fixture
def directory(tmp_path: Path) -> ClusterDirectory:
    made = find_or_create(load_study("quick_test"), ["n1", "n2"], tmp_path, "", fresh=False)
    record = made.read()
    jobs = HostJobs(jobs=(SubmittedJob(id="3"), SubmittedJob(id="7")))
    made.write(structs.replace(record, hosts=record.hosts | {"n1": jobs}))
    made.host("n1").path.mkdir()
    return made


def test_only_the_last_job_of_a_host_measures(directory: ClusterDirectory) -> None:
    assert newer_job(directory, "n1", "7") == ""
    assert newer_job(directory, "n1", "3") == "7"
    assert newer_job(directory, "n2", "7") == "none"
    with pytest.raises(StudyError, match="n9 is not a host of this study"):
        newer_job(directory, "n9", "7")
    assert job.main(directory.path, "n1", "3") == 0
    assert not directory.job_record_path("n1").exists()


def test_two_jobs_never_use_one_folder(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "WAIT_FOR_FOLDER_S", 0.6)
    # Its clock moves when it is asked, so that it looks as often on every machine.
    clock = SimpleNamespace(monotonic=itertools.count(0, 0.25).__next__, sleep=lambda _: None)
    monkeypatch.setattr(job, "time", clock)
    program = (
        "import sys; from pathlib import Path; from bench.cluster.directory import ClusterDirectory as C;"
        "from bench.cluster.job import lock_folder; lock_folder(C(Path(sys.argv[1])), 'n1', '7');"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(directory.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StudyError, match=r'another job has used this folder for 0\.6 s: \{"job": "7"'):
            lock_folder(directory, "n1", "8")
        assert capfd.readouterr().out.count("waiting for") == 1
        # What died holds nothing.
        other.kill()
    assert lock_folder(directory, "n1", "8") > 0


@pytest.mark.parametrize(
    ("code", "stopped_by", "draining", "progress", "state"),
    [
        (0, 0, False, True, JobState.ENDED),
        (30, 0, False, True, JobState.ENDED),
        (138, 0, True, True, JobState.DRAINED),
        (143, 0, True, True, JobState.DRAINED),  # the run was longer than the time left
        (-signal.SIGUSR1, 0, True, True, JobState.DRAINED),
        (138, 0, True, False, JobState.STUCK),  # it would be queued again for ever
        (0, 0, True, False, JobState.ENDED),  # there was nothing left to do
        (30, 0, True, True, JobState.ENDED),
        (143, signal.SIGTERM, False, True, JobState.STOPPED),
        (143, signal.SIGTERM, True, True, JobState.STOPPED),
    ],
)
def test_final_state_of_a_job(code: int, stopped_by: int, draining: bool, progress: bool, state: JobState) -> None:
    assert final_state(code, stopped_by, draining, progress)[0] == state


@pytest.fixture
def start(directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], HostJob]]:
    """A start of the job, with a script in place of luigi."""
    monkeypatch.setattr(job, "LOOK_S", 0.02)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    lock = lock_folder(directory, "n1", "7")

    def made(script: str) -> HostJob:
        begun = HostJob(directory, "n1", "7", lock)
        monkeypatch.setattr(begun, "_command", lambda: ["bash", "-c", script, "luigi", str(directory.host("n1").path)])
        return begun

    yield made
    os.close(lock)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("made", "state"),
    [("runs/a_r1.json", JobState.DRAINED), ("latency/a.json", JobState.DRAINED), ("runs/known.json", JobState.STUCK)],
)
def test_job_is_queued_again_only_when_it_recorded_something(
    start: Callable[[str], HostJob], directory: ClusterDirectory, made: str, state: JobState
) -> None:
    """Metrics too: a study's last start may only have those to make. A run that is measured again is nothing new."""
    write_json(directory.host("n1").path / "runs" / "known.json", {})
    work = f"cd $1; mkdir -p latency; echo {{}} > {made}; touch drain; sleep 600 & wait"
    begun = start(f'trap "kill %1; exit 138" USR1; {work}')
    assert begun.run() == 138
    assert begun.state is directory.job_record("n1").state is state


def test_run_is_ended_when_it_exceeds_its_share_of_the_time(
    start: Callable[[str], HostJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(job.SIGNAL_BEFORE_VARIABLE, "0.3")
    begun = start("trap : USR1; trap 'kill %1; exit 143' TERM; cd $1; touch drain; sleep 600 & while :; do wait; done")
    began = time.monotonic()
    assert begun.run() == 143
    assert 0.2 < time.monotonic() - began < 300


def test_signal_before_luigi_starts_is_not_lost(start: Callable[[str], HostJob]) -> None:
    begun = start("sleep 600")
    command = begun._command
    # What the kernel may do at any moment.
    begun._command = lambda: (os.kill(os.getpid(), signal.SIGTERM), command())[1]
    assert begun.run() == 128 + signal.SIGTERM
    assert begun.state is JobState.STOPPED


def test_job_is_refused_outside_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(StudyError, match="not a job of Slurm"):
        this_host()
