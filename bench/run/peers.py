"""The processes that keep other GPUs busy while one is measured."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from bench.host.peers import FOUND, Peer, choose_peers
from bench.records.base import plain
from bench.records.study import Cell
from bench.run.child import ChildEnd, Process, workload_argv
from bench.run.lock import HostLock
from bench.run.record import CRASHED, OK, TIMEOUT, failure, read_record
from bench.storage import write_json
from bench.study.directory import RunDirectory

# For a peer to write its result when the measured process is through, and to end after a timeout of both.
FINISH_S = 60.0
LATER_S = 1.0


class PeerFailed(Exception):
    """A peer ended badly: there is nothing left to measure beside it."""


class Stop(Exception):
    """Raised in the thread of a peer that is to end at once."""


@dataclass(frozen=True)
class Ended:
    """at_s: since the epoch."""

    end: ChildEnd
    at_s: float


class Peers:
    """They live inside the with-block, each in a session of its own, and none of them outlives it.

    barrier: an empty folder where they and the measured process meet.
    """

    def __init__(self, peers: tuple[Peer, ...], directory: RunDirectory, cell: Cell, run: str, barrier: Path) -> None:
        self._peers, self._barrier = peers, barrier
        self._processes = [self._process(peer, directory, cell, run) for peer in peers]
        self._timeout_s = cell.timeout_s + LATER_S
        self._stop = threading.Event()
        self._ended: list[Future[Ended]] = []
        self._late: set[Future[Ended]] = set()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._pool:
            self._pool.shutdown()

    @property
    def options(self) -> list[str]:
        """What the workload is told of its peers."""
        return ["--barrier", str(self._barrier), "--peers", str(len(self._peers) + 1)] if self._peers else []

    def start(self, lock: HostLock, cpus: set[int], append_logs: bool) -> None:
        """cpus: what they may be bound to."""
        if not self._peers:
            return
        # The kernel ends a child with the thread that started it: each has a thread that waits for it.
        self._pool = ThreadPoolExecutor(len(self._peers), "peer")
        for process in self._processes:
            self._ended.append(self._pool.submit(self._run, process, lock, cpus, append_logs))

    def check(self) -> None:
        """Raise PeerFailed if one of them ended badly."""
        if self.failure():
            raise PeerFailed

    def finish(self) -> None:
        """Give them time to write their results."""
        self._late = wait(self._ended, FINISH_S).not_done
        self._stop.set()
        wait(self._ended)

    def failure(self) -> tuple[float, dict[str, Any]] | None:
        """When (seconds since the epoch) and how the first of them failed by itself; None if none did."""
        found = []
        for peer, process, ended in zip(self._peers, self._processes, self._ended, strict=True):
            outcome = self._outcome(process, ended)
            if outcome and outcome["status"] != OK:
                reason = f"peer on GPU {peer.gpu}: {outcome['reason']}"
                known = ended.done() and not ended.exception()
                at_s = failed_at(process, ended.result().at_s if known else time.time())
                found.append((at_s, outcome | {"reason": reason}))
        return min(found, key=lambda one: one[0], default=None)

    def records(self) -> list[dict[str, Any]]:
        """What is kept of each, once they have ended."""
        return [
            {
                "gpu": peer.gpu,
                "gpu_uuid": peer.gpu_uuid,
                "cpu_node": peer.node,
                "mem_node": peer.node,
                "command": process.command,
                **(self._outcome(process, ended) or failure(CRASHED, "ended because the run did")),
                "exit_code": ended.result().end.exit_code if ended.done() and not ended.exception() else None,
                "result": process.read_result(),
            }
            for peer, process, ended in zip(self._peers, self._processes, self._ended, strict=False)
        ]

    def _process(self, peer: Peer, directory: RunDirectory, cell: Cell, run: str) -> Process:
        name = f"{run}_peer_gpu{peer.gpu}"
        own = peer_cell(cell, peer)
        cell_file = directory.path / "cells" / f"{cell.name}_peer_gpu{peer.gpu}.json"
        write_json(cell_file, plain(own))
        result = self._barrier.parent / f"peer_gpu{peer.gpu}.json"
        logs = directory.log(name, "stdout"), directory.log(name, "stderr")
        return Process(own, workload_argv(cell_file, "load", result, *self.options), logs, result)

    def _run(self, process: Process, lock: HostLock, cpus: set[int], append_logs: bool) -> Ended:
        end = process.run(lock, cpus, self._raise_if_stopped, self._timeout_s, append_logs)
        return Ended(end, time.time())

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise Stop

    def _outcome(self, process: Process, ended: Future[Ended]) -> dict[str, Any] | None:
        """None while it runs, and if it was made to end because the run did."""
        if ended in self._late:
            return failure(TIMEOUT, f"did not end within {FINISH_S:g} s of the measured process", "see its log")
        if not ended.done() or isinstance(ended.exception(), Stop):
            return None
        error = ended.exception()
        if error:
            return failure(CRASHED, f"cannot be started: {error}", "see the log of the run")
        return process.outcome(ended.result().end)


def peers_of(directory: RunDirectory, cell: Cell) -> tuple[Peer, ...]:
    """Raise NoPeers where this host has none, or where nothing says which nodes are theirs."""
    if cell.concurrent_gpus == 1:
        return ()
    return choose_peers(
        directory.host(),
        cell.gpu,
        cell.concurrent_gpus - 1,
        cell.concurrent_placement,
        cell.device,
        probed_nodes(directory),
    )


def probed_nodes(directory: RunDirectory) -> dict[int, int | None]:
    """The nearest node of each GPU by the probe before the first run."""
    probe = read_record(directory.probe("before")) or {}
    return {gpu["index"]: gpu.get("measured_node") for gpu in (probe.get("found") or {}).get("gpus") or ()}


def peer_cell(cell: Cell, peer: Peer) -> Cell:
    """What a peer executes: the measured cell on another GPU and node. The workload knows of concurrent_load."""
    own = structs.replace(cell, gpu=peer.gpu, gpu_uuid=peer.gpu_uuid)
    if cell.concurrent_placement == FOUND:
        return structs.replace(own, binding="none")
    return structs.replace(own, cpu_node=peer.node, mem_node=peer.node)


def failed_at(process: Process, ended_at_s: float) -> float:
    """When it wrote its result, which names the failure; if it wrote none, when it ended.

    One failure makes the others fail too: the first of them is the cause.
    """
    return process.result.stat().st_mtime if process.result.exists() else ended_at_s
