"""A study that is killed or stopped continues: nothing is measured twice, nothing is left running."""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bench.run.lock import HostLock
from bench.study.directory import resolve
from bench.study.load import load_study
from tests.tasks.study_calls import Calls


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "work", ["--local-scheduler"])


def wait_for_workload(calls: Calls, luigi: subprocess.Popen[str]) -> None:
    while not calls.workloads() and luigi.poll() is None:
        time.sleep(0.05)


def stopped_workload(calls: Calls, luigi: subprocess.Popen[str]) -> int:
    """A process that executes a cell, and waits for SIGCONT. One may end by itself before it is stopped."""
    while True:
        for pid in calls.workloads():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                return pid
        assert luigi.poll() is None, luigi.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_study_completes_and_repeats_no_finished_run(calls: Calls) -> None:
    moments = random.Random(20261122)
    calls.study["repeats"] = 2
    calls.write()
    kills = 0
    for _ in range(6):
        luigi = calls.start()
        time.sleep(moments.uniform(0.3, 9.0))
        if luigi.poll() is None:
            kills += 1
            os.killpg(luigi.pid, signal.SIGKILL)
        _, stderr = luigi.communicate()
        # A fast machine has done all of it before the last moment comes.
        assert luigi.returncode in (-signal.SIGKILL, 0), stderr
        calls.wait_until_no_workload()
    done = calls.run()
    assert done.returncode == 0, done.stderr
    assert kills >= 1
    assert sorted(calls.records()) == sorted(calls.order())
    assert all(count == 1 for count in calls.times_measured().values())
    assert set(calls.measured()) == set(calls.order())
    assert not list(calls.run_directory().rglob("*.part"))
    again = calls.run()
    assert again.returncode == 0
    assert "Nothing was measured now" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_signal_ends_the_child_first(calls: Calls, number: int, workers: str) -> None:
    # No measurement is over before the signal comes.
    calls.study["window_s"] = 60
    calls.write()
    luigi = calls.start("--workers", workers)
    wait_for_workload(calls, luigi)
    # It is known to luigi, by the lock of the host, a moment after it is there.
    lock = HostLock()
    while not lock.sessions() and luigi.poll() is None:
        time.sleep(0.05)
    luigi.send_signal(number)
    stdout, stderr = luigi.communicate(timeout=240)
    assert luigi.returncode == 128 + number, stderr
    assert calls.workloads() == []
    assert "Traceback" not in stderr + stdout
    assert "the running measurement was ended; repeat the command to continue" in stderr + stdout


def test_signal_without_a_measurement_reports_it(calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study waits for another one, which has the host."""
    monkeypatch.setenv("NUMASTUDY_LOCK_DIR", str(tmp_path))
    other = HostLock()
    other.acquire("another study", lambda progress: None)
    running = subprocess.Popen(["sleep", "600"], start_new_session=True)
    other.record_child(running.pid)
    try:
        luigi = subprocess.Popen(
            calls.command(), cwd=calls.folder, env=calls.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        text = next(line for line in luigi.stdout if "waiting for another study" in line)
        luigi.send_signal(signal.SIGINT)
        text += luigi.communicate(timeout=240)[0]
    finally:
        running.kill()
        running.wait()
        other.release()
    assert luigi.returncode == 128 + signal.SIGINT, text
    assert "stopped by SIGINT: nothing was being measured; repeat the command to continue" in text


@pytest.mark.slow
def test_second_call_of_a_running_study_is_refused(calls: Calls) -> None:
    luigi = calls.start()
    # The first call is not through before the second one has started, however long that takes.
    measured = stopped_workload(calls, luigi)
    second = calls.run("--workers", "2")
    os.kill(measured, signal.SIGCONT)
    assert second.returncode == 10, second.stderr
    assert second.stderr.startswith("refused: already running; this call started nothing\n  where: ")
    luigi.communicate(timeout=600)
    assert luigi.returncode == 0
    assert all(count == 1 for count in calls.times_measured().values())


@pytest.mark.slow
def test_advice_after_a_change_of_the_host_works_as_pasted(calls: Calls) -> None:
    """As after a pull that changes constraints.txt, for a user of make, who has no numastudy or luigi on the PATH."""
    directory = resolve(load_study(calls.write(), {}), calls.folder / "outputs", False, "before")
    path = directory.path / "topology.json"
    host = json.loads(path.read_text())
    host["fingerprint"]["constraints"] = "of another day"
    path.write_text(json.dumps(host))
    refused = calls.run()
    assert refused.returncode == 2 and "constraints.txt" in refused.stderr
    pasted = refused.stderr.partition("start a new one with --fresh: ")[2].strip()
    assert pasted.endswith(" --fresh")
    # It is found and understood: only what is added to it is refused.
    asked = {"cwd": calls.folder, "env": calls.environment() | {"PATH": "/usr/bin:/bin"}, "timeout": 240}
    done = subprocess.run(f"{pasted} --num-samples 0", shell=True, capture_output=True, text=True, **asked)
    assert done.returncode == 2 and "--num-samples" in done.stderr and "host has changed" not in done.stderr
