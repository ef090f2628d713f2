"""Contention: several real processes that load the host together, and each way in which one of them can end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import structs

import bench.run.child as child_module
from bench.host.peers import PeerPlacement
from bench.host.processes import session_members
from bench.records.base import plain
from bench.records.host import HiddenNodes, Probe, Probed
from bench.records.run import Outcome, ProbeStage, Run, Window, write_record
from bench.records.study import Cell, Grid
from bench.run.attempt import execute
from bench.run.lock import HostLock
from bench.run.peers import peer_cell, peers_of, probed_nodes
from bench.storage import write_json
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study

TINY = {
    "name": "tiny", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0"], "image_size": 32, "num_samples": 20,
    "warmup_samples": 2, "batch_size": 2, "memory_size_mb": 1, "timeout_s": 600, "device": "cpu", "binding": "none",
    "disturbed_repeats": 0, "concurrent_gpus": 2,
}  # fmt: skip


NOTING = str(Path(__file__).parents[1] / "workload" / "noting_load.py")


def resolved(tmp_path: Path, **changes: object) -> tuple[RunDirectory, Grid]:
    directory = resolve(read_study(TINY | changes, "f"), tmp_path / "outputs", False, "now")
    return directory, directory.grid()


class NotingLock(HostLock):
    """started: the sessions of all that it was given, those too that ended before a busy machine looked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.started: list[int] = []

    def record_child(self, pid: int) -> None:
        super().record_child(pid)
        self.started.append(pid)


class Call:
    """execute() in a thread of its own, so that the test can interfere."""

    def __init__(self, tmp_path: Path, repeat: int | str = 1, **changes: object) -> None:
        self.directory, grid = resolved(tmp_path, **changes)
        (self.cell,) = grid.cells
        self.lock = NotingLock(tmp_path)
        self.record: Run | None = None
        slot = grid.slot(self.cell.name, repeat)

        def run() -> None:
            self.record = execute(self.directory, self.cell, slot, "now", self.lock, lambda *_: None)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def sessions(self, count: int) -> list[int]:
        """When so many processes were started."""
        while len(self.lock.started) < count and self._thread.is_alive():
            time.sleep(0.01)
        assert len(self.lock.started) >= count, self.record
        return self.lock.started[:count]

    def ended(self) -> Run:
        self._thread.join(600)
        return self.record


def is_load(pid: int) -> bool:
    try:
        return "load" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return False


def span_s(windows: list[Window]) -> tuple[float, float]:
    """Begin and end of consecutive windows, in s on the monotonic counter that all processes share."""
    return windows[0].start_ns / 1e9, windows[-1].start_ns / 1e9 + windows[-1].duration_s


@pytest.mark.slow
def test_peer_runs_during_all_windows_and_has_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "python_module", lambda _, *words: [sys.executable, "-P", NOTING, *words])
    call = Call(tmp_path)
    own, peer = call.sessions(2)
    record = call.ended()
    assert record.status == "ok", record
    assert own != peer and session_members(own, 0) == session_members(peer, 0) == []
    (kept,) = record.peers
    assert (kept.gpu, kept.cpu_node, kept.mem_node, kept.status) == (1, 0, 0, "ok")
    assert kept.exit_code == 0 and kept.command != record.command and "load" in kept.command
    begin_s, end_s = span_s(record.result.windows)
    peer_begin_s, peer_end_s = span_s(kept.result.windows)
    # Its window in which the others stopped is not kept.
    (note,) = (call.directory.path / "cells").glob("*.stopped")
    assert peer_begin_s <= begin_s and end_s <= int(note.read_text()) / 1e9
    worked_s = sum(window.duration_s for window in kept.result.windows)
    assert worked_s > 0.9 * (peer_end_s - peer_begin_s)
    assert kept.result.throughput_samples_s > 0 and kept.result.certificate.verdict
    log = call.directory.log(f"{record.run}_peer_gpu1", "stdout").read_text()
    assert "load:" in log
    assert not [one for one in record.monitor.disturbed if "GPU" in one.text]


@pytest.mark.slow
def test_peers_of_a_traced_run_are_not_traced(tmp_path: Path) -> None:
    call = Call(tmp_path, "traced")
    record = call.ended()
    assert record.status == "ok", record
    (kept,) = record.peers
    assert kept.status == "ok" and "--trace" in record.command and "--trace" not in kept.command
    assert len(list((call.directory.path / "nsys_reports").iterdir())) == 1


def test_killed_peer_fails_the_run_and_is_tried_twice(tmp_path: Path) -> None:
    # No attempt is over before its peer is killed.
    call = Call(tmp_path, num_samples=2_000_000)
    killed: set[int] = set()
    for _ in range(2):
        while not (new := [pid for pid in call.lock.sessions() if is_load(pid) and pid not in killed]):
            time.sleep(0.01)
        killed.update(new)
        os.killpg(new[0], signal.SIGKILL)
    record = call.ended()
    assert (record.status, record.attempts) == ("crashed", 2)
    assert record.reason.startswith("peer on GPU 1: killed by signal 9 (SIGKILL)")
    assert record.peers[0].exit_code == -9


TOO_MUCH_MB = 2**20
# A ring holds a limited number of batches: large ones, so that it is as large as it says.
LARGE = {"image_size": 1024, "batch_size": 4}


@pytest.mark.slow
def test_failure_of_a_peer_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(cell: Cell, peer: PeerPlacement) -> Cell:
        return structs.replace(peer_cell(cell, peer), memory_size_mb=TOO_MUCH_MB)

    monkeypatch.setattr("bench.run.peers.peer_cell", too_large)
    record = Call(tmp_path, memory_size_mb=256, **LARGE).ended()
    assert (record.status, record.attempts) == ("oom", 1)
    assert record.reason.startswith("peer on GPU 1: ") and "memory_size_mb" in record.advice
    assert record.peers[0].status == "oom"


@pytest.mark.slow
def test_first_failure_is_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(cell: Cell, peer: PeerPlacement) -> Cell:
        return structs.replace(peer_cell(cell, peer), memory_size_mb=256)

    monkeypatch.setattr("bench.run.peers.peer_cell", small)
    # As on a host with enough memory, which other processes use.
    monkeypatch.setattr("bench.study.grid._check_memory", lambda *_: None)
    record = Call(tmp_path, memory_size_mb=TOO_MUCH_MB, **LARGE).ended()
    assert record.status == "oom" and "peer" not in record.reason


def test_timeout_ends_all_sessions(tmp_path: Path) -> None:
    call = Call(tmp_path, timeout_s=3, num_samples=2_000_000, concurrent_gpus=3)
    sessions = call.sessions(3)
    record = call.ended()
    assert record.status == "timeout", record
    assert all(session_members(session, 0) == [] for session in sessions)
    assert len(record.peers) == 2


@pytest.mark.slow
def test_stopped_peers_are_ended_with_the_run(tmp_path: Path) -> None:
    call = Call(tmp_path, timeout_s=2, num_samples=2_000_000, concurrent_gpus=3)
    sessions = call.sessions(3)
    for session in sessions:
        # On a busy machine the time may be over by then.
        with suppress(ProcessLookupError):
            os.killpg(session, signal.SIGSTOP)
    record = call.ended()
    assert record.status == "timeout", record
    assert all(session_members(session, 0) == [] for session in sessions)


def test_unknown_peer_node_is_not_runnable(tmp_path: Path) -> None:
    directory, grid = resolved(tmp_path)
    (cell,) = grid.cells
    here = directory.host()
    nodes = (here.nodes[0], structs.replace(here.nodes[0], id=5))
    write_json(directory.path / "topology.json", plain(structs.replace(here, nodes=nodes)))
    slot = grid.slot(cell.name, 1)
    record = execute(directory, cell, slot, "now", HostLock(tmp_path), lambda *_: None)
    assert (record.status, record.attempts) == ("not_runnable", 0)
    assert "no GPU to be near to" in record.reason and "concurrent_placement" in record.advice


def test_peer_is_the_measured_cell_on_another_gpu_and_node(tmp_path: Path) -> None:
    _, grid = resolved(tmp_path)
    (cell,) = grid.cells
    bound = peer_cell(structs.replace(cell, binding="numactl"), PeerPlacement(3, "GPU-3", 7))
    assert (bound.gpu, bound.gpu_uuid, bound.cpu_node, bound.mem_node) == (3, "GPU-3", 7, 7)
    assert (bound.binding, bound.model, bound.concurrent_gpus) == ("numactl", cell.model, 2)
    found = structs.replace(cell, binding="numactl", concurrent_placement="found")
    assert peer_cell(found, PeerPlacement(3, None, None)).binding == "none"


def test_probed_nodes_are_read(tmp_path: Path) -> None:
    directory, grid = resolved(tmp_path)
    assert probed_nodes(directory) == {}
    gpus = tuple(
        Probed(index=index, measured_node=node, hidden_nodes=HiddenNodes.ONE_GROUP)
        for index, node in enumerate((2, None, None))
    )
    write_record(directory.probe("before"), ProbeStage(status=Outcome.OK, found=Probe(gpus=gpus)))
    assert probed_nodes(directory) == {0: 2, 1: None, 2: None}
    (cell,) = grid.cells
    assert peers_of(directory, structs.replace(cell, concurrent_gpus=1)) == ()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """A server of forks, which an earlier test may have started, lives as long as the process."""
    before = own_children()
    yield
    assert own_children() <= before


def own_children() -> set[str]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    return {line for line in listed.splitlines() if "bench.workload" in line and line.split()[1] == str(os.getpid())}
