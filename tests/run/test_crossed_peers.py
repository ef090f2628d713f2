"""A group that is crossed while another process loads the host: its load lasts through all turns of all cells."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

import bench.run.child as child_module
import bench.run.crossing as crossing_module
from bench.records.run import Group, Outcome, Peer, PlacementVerdict, Result, Run, StartMethod, Window
from bench.run.crossing import execute_group
from bench.run.lock import HostLock
from bench.run.peers import during
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study

from .test_crossing import AGAIN, FIRST, TINY
from .test_peers import NOTING, is_load

pytestmark = pytest.mark.needs("numactl")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows as long as those of a study: some of the peer's lie inside.
    monkeypatch.setattr(crossing_module, "Group", partial(Group, measure_s=0.2))


def prepared(tmp_path: Path) -> RunDirectory:
    asked = TINY | {"repeats": 2, "concurrent_gpus": 2}
    directory = resolve(read_study(asked, "f"), tmp_path / "outputs", False, "now")
    assert directory.study().design == "crossing"
    return directory


def run(directory: RunDirectory, lock: HostLock, repeat: int | str = 1) -> list[Run]:
    grid = directory.grid()
    slots = grid.process(grid.slot(FIRST, repeat))
    return execute_group(directory, slots, "now", lock, lambda progress: None)


def crossed(tmp_path: Path, repeat: int | str = 1) -> list[Run]:
    """Of a process, with a peer each."""
    directory = prepared(tmp_path)
    runs = run(directory, HostLock(tmp_path), repeat)
    assert [(one.cell, one.status) for one in runs] == [(FIRST, "ok"), (AGAIN, "ok")], runs[0].reason
    assert runs[0].crossing == runs[1].crossing and runs[0].start is StartMethod.EXEC
    for one in runs:
        (peer,) = one.peers
        assert (peer.gpu, peer.cpu_node, peer.status, peer.exit_code) == (1, 0, "ok", 0)
        assert peer.result.certificate.verdict and "--trace" not in peer.command
        assert one.certificate.verdict is PlacementVerdict.PROVED
    assert (directory.path / "logs" / f"{runs[0].log}_peer_gpu1.stderr").exists()
    return runs


@pytest.mark.slow
def test_peer_loads_the_host_through_all_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[Peer] = []

    def kept(turns: list[Window], peer: Peer, batch_size: int) -> Peer:
        whole.append(peer)
        return during(turns, peer, batch_size)

    monkeypatch.setattr(crossing_module, "during", kept)
    monkeypatch.setattr(child_module, "python_module", lambda _, *words: [sys.executable, "-P", NOTING, *words])
    runs = crossed(tmp_path)
    (note,) = tmp_path.rglob("*.stopped")
    load = whole[0].result.windows
    for before, after in pairwise(load):
        assert after.start_ns == before.start_ns + round(1e9 * before.duration_s), "the load has a gap"
    for one in runs:
        turns, own = one.result.windows, one.peers[0].result
        # The last window of the load, in which the turns ended, is not kept.
        assert load[0].start_ns <= turns[0].start_ns
        assert turns[-1].start_ns + 1e9 * turns[-1].duration_s <= int(note.read_text())
        assert own.windows and own.throughput_samples_s > 0
    first, again = ({window.start_ns for window in one.peers[0].result.windows} for one in runs)
    assert first - again and again - first, "each cell has the windows of its own turns"


@pytest.mark.slow
def test_peer_loads_the_host_while_a_group_is_traced(tmp_path: Path) -> None:
    runs = crossed(tmp_path, "traced")
    assert runs[0].crossing.captured == [FIRST, AGAIN]


@pytest.mark.slow
def test_killed_peer_fails_all_cells_of_the_process(tmp_path: Path) -> None:
    directory, lock, runs = prepared(tmp_path), HostLock(tmp_path), list[Run]()
    call = threading.Thread(target=lambda: runs.extend(run(directory, lock)))
    call.start()
    killed = set[int]()
    while call.is_alive():
        for pid in {one for one in lock.sessions() if is_load(one)} - killed:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.01)
    assert [(one.status, one.attempts) for one in runs] == [("crashed", 2)] * 2
    assert {one.reason.split(" (")[0] for one in runs} == {"peer on GPU 1: killed by signal 9"}
    assert len(killed) == 2 and all(one.peers[0].exit_code == -9 for one in runs)


def window(start_ms: float, duration_ms: float, batches: int = 1) -> Window:
    return Window(batches=batches, duration_s=duration_ms / 1e3, start_ns=round(start_ms * 1e6))


def test_peers_throughput_is_that_during_the_turns_of_a_cell() -> None:
    load = [window(10 * number, 10, batches) for number, batches in enumerate((1, 2, 3, 4, 5))]
    peer = Peer(gpu=1, status=Outcome.OK, result=Result(throughput_samples_s=1.0, windows=load))
    # Half of one window, halves of two, and a turn that the load does not reach the end of.
    turns = [window(5, 5), window(15, 10), window(45, 10)]
    kept = during(turns, peer, 4).result
    assert [one.batches for one in kept.windows] == [1, 2, 3, 5]
    assert kept.throughput_samples_s == pytest.approx(4 * 2.5 / 0.01)
    assert during([window(60, 5)], peer, 4).result is None
