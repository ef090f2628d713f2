"""The job's own part, without Slurm. With it, and with luigi: tests/slurm."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cluster import job
from bench.cluster.directory import ClusterDirectory, find_or_make
from bench.cluster.job import DRAINED, ENDED, STOPPED, STUCK, how_it_ended, lock_folder, newer_job, this_host
from bench.errors import StudyError
from bench.study.study import load_study


@pytest.fixture
def directory(tmp_path: Path) -> ClusterDirectory:
    made = find_or_make(load_study("quick_test"), ["n1", "n2"], tmp_path, "", fresh=False)
    record = made.read()
    record["hosts"]["n1"]["jobs"] = [{"id": "3"}, {"id": "7"}]
    made.write(record)
    made.host("n1").path.mkdir()
    return made


def test_only_the_last_job_of_a_host_measures(directory: ClusterDirectory) -> None:
    assert newer_job(directory, "n1", "7") == ""
    assert newer_job(directory, "n1", "3") == "7"
    assert newer_job(directory, "n2", "7") == "none"
    with pytest.raises(StudyError, match="n9 is no host of this study"):
        newer_job(directory, "n9", "7")
    assert job.main(directory.path, "n1", "3") == 0
    assert not directory.job_record("n1").exists()


def test_two_jobs_never_measure_into_one_folder(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "WAIT_FOR_FOLDER_S", 0.6)
    program = (
        "import sys; from pathlib import Path; from bench.cluster.directory import ClusterDirectory as C;"
        "from bench.cluster.job import lock_folder; lock_folder(C(Path(sys.argv[1])), 'n1', '7');"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(directory.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StudyError, match=r'another job measures into this folder for 0\.6 s: \{"job": "7"'):
            lock_folder(directory, "n1", "8")
        assert capfd.readouterr().out.count("waiting for") == 1
        # What died holds nothing.
        other.kill()
    assert lock_folder(directory, "n1", "8") > 0


@pytest.mark.parametrize(
    ("code", "stopped_by", "draining", "progress", "state"),
    [
        (0, 0, False, True, ENDED),
        (30, 0, False, True, ENDED),
        (138, 0, True, True, DRAINED),
        (143, 0, True, True, DRAINED),  # the run was longer than the time left
        (-signal.SIGUSR1, 0, True, True, DRAINED),
        (138, 0, True, False, STUCK),  # it would be queued again for ever
        (0, 0, True, False, ENDED),  # there was nothing left to do
        (30, 0, True, True, ENDED),
        (143, signal.SIGTERM, False, True, STOPPED),
        (143, signal.SIGTERM, True, True, STOPPED),
    ],
)
def test_how_a_job_ended(code: int, stopped_by: int, draining: bool, progress: bool, state: str) -> None:
    assert how_it_ended(code, stopped_by, draining, progress)[0] == state


def test_outside_of_slurm_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(StudyError, match="this is no job of Slurm"):
        this_host()
