"""The start barrier and its end: first the files, then real processes that load the host together."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.records.base import read
from bench.records.run import ChildReport, Mode
from bench.workload.barrier import Barrier
from bench.workload.failures import RunFailure

from .cells import NO_COMPUTE, raw_cell


def test_peer_that_is_not_ready_in_time_is_reported(tmp_path):
    with pytest.raises(RunFailure, match=r"in time: 1 of 3 processes were ready after 0\.02 s") as raised:
        Barrier(tmp_path, 3, 0.02).wait()
    assert raised.value.status == "crashed"


def test_barrier_opens_when_the_last_process_is_ready(tmp_path):
    (tmp_path / "ready-1").touch()
    waiting = threading.Thread(target=Barrier(tmp_path, 3, 60).wait)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    (tmp_path / "ready-2").touch()
    waiting.join(60)
    assert not waiting.is_alive()


def test_barrier_does_not_wait_for_a_failed_process(tmp_path):
    (tmp_path / "failed-77").touch()
    barrier = Barrier(tmp_path, 2, 60)
    for wait in (barrier.wait, barrier.finish):
        with pytest.raises(RunFailure, match="pid 77"):
            wait()
    assert barrier.is_done()


def test_peer_that_ended_early_is_detected(tmp_path):
    barrier = Barrier(tmp_path, 2, 60, stop_timeout_s=0.02)
    assert not barrier.is_done()
    with pytest.raises(RunFailure, match="a peer ended before the windows: 0 of 1"):
        barrier.finish()
    assert barrier.is_done()


NOTING = str(Path(__file__).with_name("noting_load.py"))


def start(folder: Path, name: str, mode: str, peers: int, **changes) -> subprocess.Popen:
    (folder / "meeting").mkdir(exist_ok=True)
    (folder / f"{name}.cell").write_text(json.dumps(raw_cell(**changes)))
    argv = [sys.executable, NOTING, "--cell", str(folder / f"{name}.cell"), "--mode", mode]
    argv += ["--result", str(folder / f"{name}.json"), "--barrier", str(folder / "meeting"), "--peers", str(peers)]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def report(folder: Path, name: str) -> ChildReport:
    return read(folder / f"{name}.json", ChildReport)


@pytest.mark.slow
def test_peer_loads_the_host_while_the_other_is_measured(tmp_path):
    children = [
        start(tmp_path, "measured", "timed", 2, model=NO_COMPUTE),
        start(tmp_path, "peer", "load", 2, concurrent_load="copies"),
    ]
    assert [child.wait(240) for child in children] == [0, 0]
    measured, peer = report(tmp_path, "measured").result, report(tmp_path, "peer").result
    assert peer.mode is Mode.LOAD
    assert peer.bytes_in_per_batch == peer.bytes_out_per_batch  # it copies and computes nothing
    assert peer.latency_us is None
    assert peer.throughput_samples_s > 0
    assert peer.certificate.cpus_seen
    assert peer.windows[0].start_ns < measured.windows[0].start_ns
    # The peer's last window, in which the other stopped, is not kept.
    end = measured.windows[-1]
    assert end.start_ns + end.duration_s * 1e9 <= int((tmp_path / "peer.stopped").read_text())


@pytest.mark.slow
def test_failed_peer_ends_the_measured_run(tmp_path):
    children = [
        start(tmp_path, "measured", "timed", 2, model=NO_COMPUTE),
        start(tmp_path, "peer", "load", 2, model=NO_COMPUTE, image_size=512, memory_size_mb=2**20),
    ]
    assert [child.wait(240) for child in children] == [3, 3]
    assert report(tmp_path, "peer").failure.status == "oom"
    failure = report(tmp_path, "measured").failure
    assert failure.status == "crashed"
    assert f"pid {children[1].pid}" in failure.reason


@pytest.mark.parametrize("arguments", [["--mode", "load"], ["--mode", "timed", "--peers", "2"]])
def test_half_a_barrier_is_refused(tmp_path, arguments):
    argv = [sys.executable, "-m", "bench.workload", "--cell", "c", "--result", str(tmp_path / "r"), *arguments]
    child = subprocess.run(argv, capture_output=True, text=True)
    assert child.returncode == 2
    assert "--barrier and --peers go together" in child.stderr
