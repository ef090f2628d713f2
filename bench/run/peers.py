"""The processes that keep other GPUs busy while one is measured."""

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from bench.host.peers import PeerPlacement, choose_peers
from bench.records.base import plain
from bench.records.run import Failure, Mode, Outcome, Peer, ProbeStage, Window, read_record
from bench.records.study import Cell
from bench.run.child import ChildEnd, Process, workload_argv
from bench.run.lock import HostLock
from bench.storage import write_json
from bench.study.directory import RunDirectory
from bench.units import exact_seconds

# For a peer to write its result when the measured process is through, and to end after a timeout of both.
FINISH_S = 60.0
LATER_S = 1.0


class PeerFailed(Exception):
    """A peer failed: there is nothing to measure beside it."""


class Stop(Exception):
    """Raised in the thread of a peer that is to end at once."""


@dataclass(frozen=True)
class Ended:
    """at_s: since the epoch."""

    end: ChildEnd
    at_s: float


@dataclass(frozen=True)
class PeerFailure:
    """at_s: when it failed, since the epoch."""

    at_s: float
    failure: Failure


class Peers:
    """They run inside the with-block, each in a session of its own, and none of them outlives it.

    barrier: an empty folder by which they and the measured process wait for each other.
    """

    def __init__(
        self, peers: tuple[PeerPlacement, ...], directory: RunDirectory, cell: Cell, run: str, barrier: Path
    ) -> None:
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
        """Options of the workload."""
        return ["--barrier", str(self._barrier), "--peers", str(len(self._peers) + 1)] if self._peers else []

    def start(self, lock: HostLock, cpus: set[int], append_logs: bool) -> None:
        """cpus: those that they may be bound to."""
        if not self._peers:
            return
        # The kernel ends a child with the thread that started it: each has a thread that waits for it.
        self._pool = ThreadPoolExecutor(len(self._peers), "peer")
        for process in self._processes:
            self._ended.append(self._pool.submit(self._run, process, lock, cpus, append_logs))

    def check(self) -> None:
        """Raise PeerFailed if one of them failed."""
        if self.failure():
            raise PeerFailed

    def finish(self) -> None:
        """Give them time to write their results."""
        self._late = wait(self._ended, FINISH_S).not_done
        self._stop.set()
        wait(self._ended)

    def failure(self) -> PeerFailure | None:
        """The first one that failed by itself."""
        failures = []
        for peer, process, ended in zip(self._peers, self._processes, self._ended, strict=True):
            failure = self._failure(process, ended)
            if failure:
                known = ended.done() and not ended.exception()
                at_s = failed_at(process, ended.result().at_s if known else time.time())
                reason = f"peer on GPU {peer.gpu}: {failure.reason}"
                failures.append(PeerFailure(at_s, replace(failure, reason=reason)))
        return min(failures, key=lambda one: one.at_s, default=None)

    def reason(self, process: Process, own: Failure | None) -> Failure | None:
        """Why a run failed, by why its measured process did: the failure that came first is the reason of the others.

        None if neither it nor a peer failed.
        """
        of_peer = self.failure()
        if of_peer and (own is None or of_peer.at_s <= failed_at(process, time.time())):
            return of_peer.failure
        return own

    def records(self) -> list[Peer]:
        """What is stored of each, once they have ended."""
        return [
            self._record(peer, process, ended)
            for peer, process, ended in zip(self._peers, self._processes, self._ended, strict=False)
        ]

    def _record(self, peer: PeerPlacement, process: Process, ended: Future[Ended]) -> Peer:
        failure = self._failure(process, ended)
        if isinstance(ended.exception(), Stop) and ended not in self._late:
            failure = Failure(status=Outcome.CRASHED, reason="ended because the run did")
        written = process.read_report()
        return Peer(
            gpu=peer.gpu,
            gpu_uuid=peer.gpu_uuid,
            cpu_node=peer.node,
            mem_node=peer.node,
            command=process.command,
            status=failure.status if failure else Outcome.OK,
            reason=failure.reason if failure else "",
            advice=failure.advice if failure else "",
            log_tail=failure.log_tail if failure else [],
            exit_code=None if ended.exception() else ended.result().end.exit_code,
            result=written.result if written else None,
        )

    def _process(self, peer: PeerPlacement, directory: RunDirectory, cell: Cell, run: str) -> Process:
        name = f"{run}_peer_gpu{peer.gpu}"
        own = peer_cell(cell, peer)
        cell_file = directory.path / "cells" / f"{cell.name}_peer_gpu{peer.gpu}.json"
        write_json(cell_file, plain(own))
        result = self._barrier.parent / f"peer_gpu{peer.gpu}.json"
        logs = directory.log(name, "stdout"), directory.log(name, "stderr")
        return Process(own, workload_argv(cell_file, Mode.LOAD, result, *self.options), logs, result)

    def _run(self, process: Process, lock: HostLock, cpus: set[int], append_logs: bool) -> Ended:
        end = process.run(lock, cpus, self._raise_if_stopped, self._timeout_s, append_logs)
        return Ended(end, time.time())

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise Stop

    def _failure(self, process: Process, ended: Future[Ended]) -> Failure | None:
        """None while it runs, if it succeeded, and if it was ended because the run did."""
        if ended in self._late:
            reason = f"did not end within {exact_seconds(FINISH_S)} of the measured process"
            return Failure(status=Outcome.TIMEOUT, reason=reason, advice="see its log")
        if not ended.done() or isinstance(ended.exception(), Stop):
            return None
        if error := ended.exception():
            reason = f"cannot be started: {error}"
            return Failure(status=Outcome.CRASHED, reason=reason, advice="see the log of the run")
        return process.failure(ended.result().end)


def peers_of(directory: RunDirectory, cell: Cell) -> tuple[PeerPlacement, ...]:
    """Raise NoPeers where this host has none, or where their nodes are not known."""
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
    """The nearest node of each GPU by the probe before the first run; of several near ones the nearest."""
    record = read_record(directory.probe("before"), ProbeStage)
    return {gpu.index: next(iter(gpu.near_nodes), gpu.measured_node) for gpu in record.found.gpus} if record else {}


def peer_cell(cell: Cell, peer: PeerPlacement) -> Cell:
    """What a peer executes: the measured cell on another GPU and node, of which the workload makes the load."""
    own = replace(cell, gpu=peer.gpu, gpu_uuid=peer.gpu_uuid)
    if peer.node is None:
        return replace(own, binding="none")
    return replace(own, cpu_node=peer.node, mem_node=peer.node)


def during(turns: Sequence[Window], peer: Peer, batch_size: int) -> Peer:
    """The peer with its windows during these turns of one side, and the median of its throughput in each turn.

    Without a result where it has none. All processes of a host have one monotonic clock.
    """
    if not peer.result:
        return peer
    # A turn begins with its lead-in, so that it ends later than this, by the lead-in's unknown length.
    spans = [(turn.start_ns, turn.start_ns + round(1e9 * turn.duration_s)) for turn in turns]
    windows = [window for window in peer.result.windows if any(_shared_s(window, span) for span in spans)]
    paces = [pace for span in spans if (pace := _batches_s(windows, span))]
    if not paces:
        return replace(peer, result=None)
    rate = batch_size * statistics.median(paces)
    return replace(peer, result=replace(peer.result, windows=windows, throughput_samples_s=rate))


def _batches_s(windows: Sequence[Window], span: tuple[int, int]) -> float:
    """Batches per second while a span (in ns) lasts, where a window has one pace; 0 without a window in it.

    Whole windows inside it would not do: the slower a window is, the less likely it is to fit.
    """
    shared_s = [_shared_s(window, span) for window in windows]
    batches = sum(shared / window.batch_s for shared, window in zip(shared_s, windows, strict=True))
    return batches / sum(shared_s) if batches else 0.0


def _shared_s(window: Window, span: tuple[int, int]) -> float:
    end_ns = window.start_ns + 1e9 * window.duration_s
    return max(0.0, (min(end_ns, span[1]) - max(window.start_ns, span[0])) / 1e9)


def failed_at(process: Process, ended_at_s: float) -> float:
    """When it wrote its report, which names the failure; without one, when it ended.

    One failure makes the others fail too: the first of them is the cause.
    """
    return process.report.stat().st_mtime if process.report.exists() else ended_at_s
