"""One attempt at a run: its processes are started, watched and judged, and their traces collected."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.files import write_json
from bench.host.monitor import Monitor
from bench.host.peers import Peer
from bench.host.topology import Topology
from bench.run.child import ChildEnd
from bench.run.forkserver import FORK, SERVERS, how_to_start, served
from bench.run.lock import HostLock
from bench.run.peers import PeerFailed, Peers, failed_at
from bench.run.process import Process, log_tail, scratch_folder, workload_argv
from bench.run.progress import Progress
from bench.run.record import CRASHED, OK, TRACE_FAILED, failure
from bench.run.step_aside import step_aside
from bench.study.cell import Cell
from bench.study.directory import RunDirectory, run_name
from bench.study.order import TRACED, Slot
from bench.trace.profilers import Profiler, get_profiler

Report = Callable[[str, int], None]
Outcome = dict[str, Any]

# Of a process that was ended because a peer had failed.
ENDED = ChildEnd(-signal.SIGTERM, False, 0.0, 0)


def attempt(
    directory: RunDirectory,
    cell: Cell,
    slot: Slot,
    peers: tuple[Peer, ...],
    lock: HostLock,
    number: int,
    report: Report,
) -> Outcome:
    """Start the cell, and what keeps other GPUs busy beside it; what became of it as the fields of its record."""
    with scratch_folder() as folder:
        scratch = Path(folder)
        barrier = scratch / "barrier"
        barrier.mkdir()
        with Peers(peers, directory, cell, run_name(cell.name, slot.repeat), barrier) as beside:
            measured = _Measured(directory, cell, slot, scratch, beside, append_logs=number > 1)
            outcome = measured.run(lock, report) | {"start": measured.start}
        return outcome | ({"peers": beside.records()} if peers else {})


class _Measured:
    """The measured process of one attempt."""

    def __init__(
        self, directory: RunDirectory, cell: Cell, slot: Slot, scratch: Path, peers: Peers, append_logs: bool
    ) -> None:
        self._directory, self._cell, self._peers, self._append_logs = directory, cell, peers, append_logs
        self._host, self._block = directory.host(), slot.block
        self.start = how_to_start(directory.study()["start"], slot, cell.concurrent_gpus)
        self._trace = directory.report(cell.name)
        self._profiler = get_profiler(cell.profiler) if slot.repeat == TRACED else None
        self._progress = Progress(scratch / "progress")
        run, result = run_name(cell.name, slot.repeat), scratch / "result.json"
        cell_file = directory.path / "cells" / f"{cell.name}.json"
        if not cell_file.exists():
            write_json(cell_file, cell.as_json())
        mode = "traced" if self._profiler else "timed"
        argv = workload_argv(cell_file, mode, result, "--progress", str(scratch / "progress"), *peers.options)
        self._process = Process(cell, argv, (directory.log(run, "stdout"), directory.log(run, "stderr")), result)

    def run(self, lock: HostLock, report: Report) -> Outcome:
        process, monitor, end = self._process, None, None
        try:
            if self._profiler:
                process = process.wrapped(lambda argv: self._profiler.command(argv, self._trace, self._cell.device))
            if self.start == FORK:
                process = process.wrapped(served)
            try:
                end, monitor = self._watched(process, lock, report)
                if end.exit_code == 0:
                    self._peers.finish()
            except PeerFailed:
                pass
        except StudyError as error:
            return failure(TRACE_FAILED, error.what, error.advice) | {"command": process.command}
        except OSError as error:
            return process.failed(error) | {"command": process.command}
        finally:
            if self._profiler:
                self._profiler.settle(self._trace)
        exit_code = end.exit_code if end else None
        facts = {"command": process.command, "exit_code": exit_code, "result": process.read_result()}
        facts["timed_out"] = bool(end and end.timed_out)
        return self._judged(process, end) | facts | {"monitor": monitor}

    def _watched(self, process: Process, lock: HostLock, report: Report) -> tuple[ChildEnd, Outcome | None]:
        def look() -> None:
            report(*self._progress.read())
            self._peers.check()

        forked = SERVERS.of_block(self._block, lock.record_child)
        with step_aside(self._host, self._cell.cpu_node, self._cell.binding) as cpus:
            # nsys works beside a traced run all the time; that is not a disturbance, and that run times nothing.
            watch = None if self._profiler else _watch(self._cell, self._host, cpus, lock)
            start = forked if self.start == FORK else None
            try:
                self._peers.start(lock, cpus, self._append_logs)
                end = process.run(lock, cpus, look, append_logs=self._append_logs, start=start)
            finally:
                seen = watch.summary() if watch else None
            return end, seen

    def _judged(self, process: Process, end: ChildEnd | None) -> Outcome:
        """end: None where a peer's failure ended it. The failure that came first is the reason of the others."""
        own, of_peer = process.outcome(end or ENDED), self._peers.failure()
        if of_peer and (own["status"] == OK or of_peer[0] <= failed_at(process, time.time())):
            return of_peer[1]
        if self._profiler and end and own["status"] in (OK, CRASHED):
            own = _collect(self._profiler, self._trace, end, own, log_tail(process.logs[1]))
        elif self._profiler and end and end.timed_out:
            own = _hung(self._profiler, self._cell, process.read_result(), own)
        return own


def _hung(profiler: Profiler, cell: Cell, result: Outcome | None, own: Outcome) -> Outcome:
    """The timed runs of the cell came before, and ended in time: what hung has to do with the profiler."""
    when = "did not end, though the run did" if result else "or the run under it hung"
    reason = f"{profiler.name} {when}: ended after {cell.timeout_s:g} s"
    advice = "see the end of the run's log; raise timeout_s, or use another profiler"
    return own | failure(TRACE_FAILED, reason, advice)


def _watch(cell: Cell, host: Topology, cpus: set[int], lock: HostLock) -> Monitor:
    """What else happens on the GPU and on the measured CPUs. Known from outside the run, never from its speed."""
    node = host.node(cell.cpu_node)
    measured = set(node.cpus) & cpus if node and cell.binding != "none" else cpus
    return Monitor(cell.gpu_uuid, measured, lock.sessions).start()


def _collect(profiler: Profiler, trace: Path, end: ChildEnd, outcome: Outcome, tail: list[str]) -> Outcome:
    """A run that went well but left no trace is trace_failed; so is one that the profiler itself ended."""
    try:
        profiler.collect(trace, end.exit_code, "\n".join(tail))
    except StudyError as error:
        return failure(TRACE_FAILED, error.what, error.advice) | {"log_tail": tail}
    return outcome
