"""One run with its attempts, from host lock to record."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.host.binding import trial_bind
from bench.host.monitor import Watch
from bench.host.peers import NoPeers, Peer
from bench.records.base import plain
from bench.records.host import Topology
from bench.records.study import TRACED, Cell, Slot, run_name
from bench.run.child import ChildEnd, Process, log_tail, scratch_folder, workload_argv
from bench.run.experiment_log import Progress, log_runs
from bench.run.forkserver import FORK, SERVERS, how_to_start, served
from bench.run.lock import HostLock
from bench.run.peers import PeerFailed, Peers, failed_at, peers_of
from bench.run.processes import boot_id
from bench.run.record import (
    CRASHED,
    LASTING,
    NOT_RUNNABLE,
    OK,
    RETRIED,
    TRACE_FAILED,
    failure,
    read_head,
    read_record,
    write_record,
)
from bench.storage import write_json, write_text
from bench.study.directory import RunDirectory
from bench.trace.profilers import Profiler, get_profiler

# --- starts
# Starts of a run, counted on disk: a cell that takes the host down is given up.

STARTS_THAT_TOOK_THE_HOST_DOWN = 3


def unended(record: Path) -> Path:
    """Where the starts of a run are noted until its record is there."""
    return record.with_suffix(".starts")


def count_start(record: Path) -> int:
    """Note this start on disk, before the child starts; return how many earlier ones ended with the host going down.

    A start that wrote no record in the same boot was only killed, and says nothing about the cell.
    """
    path, boot = unended(record), boot_id()
    boots = path.read_text().split() if path.exists() else []
    write_text(path, "\n".join([*boots, boot]))
    return sum(earlier != boot for earlier in boots)


# --- free_gpu
# A GPU is seen free before a run starts on it: a context that is being torn down, or a neighbour, would slow it.

LIMIT_S = 20.0
INTERVAL_S = 0.2

# Processes that were waited for in vain: a neighbour that stays costs a study LIMIT_S once, not once a run.
_stayed: set[int] = set()


def wait_until_free(
    gpu_uuids: Iterable[str | None],
    on_wait: Callable[[str], None],
    limit_s: float = LIMIT_S,
    nvml: Any = None,
) -> list[str]:
    """Wait until no process computes on these GPUs, for limit_s at most. To be called while none of one's own does.

    Returns in words who is still there; [] where NVML cannot tell. nvml: a stand-in for pynvml in tests.
    """
    wanted = [uuid for uuid in gpu_uuids if uuid]
    if not wanted:
        return []
    deadline = time.monotonic() + limit_s
    while True:
        found = {uuid: compute_processes(uuid, nvml) for uuid in wanted}
        new = {pid for pids in found.values() for pid in pids} - _stayed
        if not new or time.monotonic() > deadline:
            break
        on_wait(f"waiting for the GPU to be free of {', '.join(map(_words, sorted(new)))}")
        time.sleep(INTERVAL_S)
    _stayed.update(new)
    return [f"{', '.join(map(_words, pids))} on {uuid}" for uuid, pids in found.items() if pids]


def compute_processes(gpu_uuid: str, nvml: Any = None) -> list[int]:
    """Ids of the processes with a compute context on the GPU; in a container they may be those of the host."""
    try:
        if nvml is None:
            import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # no library, no driver
        return []
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(gpu_uuid)
        return sorted(int(process.pid) for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except Exception:  # NVML refuses, or has no such GPU
        return []
    finally:
        with suppress(Exception):
            nvml.nvmlShutdown()


def _words(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm") as file:
        return f"process {pid} ({file.read().strip()})"
    return f"process {pid}"


# --- step_aside
# Keep the process that waits off the CPUs where the measured one runs.


@contextmanager
def step_aside(host: Topology, cpu_node: int, binding: str) -> Iterator[set[int]]:
    """Move this process to allowed CPUs outside cpu_node, if there are any; back at the end. Yields where it was."""
    before = os.sched_getaffinity(0)
    node = host.node(cpu_node) if binding != "none" else None
    elsewhere = before - set(node.cpu_ids) if node else set()
    if elsewhere:
        os.sched_setaffinity(0, elsewhere)
    try:
        yield before
    finally:
        os.sched_setaffinity(0, before)


# --- attempt
# One attempt at a run: its processes are started, watched and judged, and their traces collected.

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
        self.start = how_to_start(directory.study().start, slot, cell.concurrent_gpus)
        self._trace = directory.report(cell.name)
        self._profiler = get_profiler(cell.profiler) if slot.repeat == TRACED else None
        self._progress = Progress(scratch / "progress")
        run, result = run_name(cell.name, slot.repeat), scratch / "result.json"
        cell_file = directory.path / "cells" / f"{cell.name}.json"
        if not cell_file.exists():
            write_json(cell_file, plain(cell))
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
                seen = plain(watch.summary()) if watch else None
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


def _watch(cell: Cell, host: Topology, cpus: set[int], lock: HostLock) -> Watch:
    """What else happens on the GPU and on the measured CPUs. Known from outside the run, never from its speed."""
    node = host.node(cell.cpu_node)
    measured = set(node.cpu_ids) & cpus if node and cell.binding != "none" else cpus
    return Watch(cell.gpu_uuid, measured, lock.sessions).start()


def _collect(profiler: Profiler, trace: Path, end: ChildEnd, outcome: Outcome, tail: list[str]) -> Outcome:
    """A run that went well but left no trace is trace_failed; so is one that the profiler itself ended."""
    try:
        profiler.collect(trace, end.exit_code, "\n".join(tail))
    except StudyError as error:
        return failure(TRACE_FAILED, error.what, error.advice) | {"log_tail": tail}
    return outcome


# --- execute
# One run of one cell, from the frozen grid to its record. Never raises for what can happen to a run.

ATTEMPTS = 2


def execute(
    directory: RunDirectory,
    cell: Cell,
    slot: Slot,
    invocation: str,
    lock: HostLock,
    report: Report,
    is_done: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run the cell and write runs/<run>.json. report(message, percent) is called while it goes on.

    is_done: asked once the host is free. Another call of the same study may have made the record meanwhile.
    """
    run = run_name(cell.name, slot.repeat)
    path = directory.record(cell.name, slot.repeat)
    head = {
        "run": run,
        "cell": cell.name,
        "repeat": slot.repeat,
        "invocation": invocation,
        "position": slot.position,
        "block": slot.block,
        "group": slot.group,
        "started_at": _now(),
        "fingerprint": directory.topology()["fingerprint"],
    }
    begin = time.monotonic()
    outcome = _before_the_start(directory, cell, slot, invocation)
    if outcome is None:
        lock.acquire(str(directory.path), lambda holder: report(holder, 1))
        if is_done() and (made := read_record(path)):
            return made
        # Waiting for the host is no part of the run: estimates are made from wall_s.
        begin, head["started_at"] = time.monotonic(), _now()
        outcome = _attempts(directory, cell, slot, lock, report)
    record = {"result": None, "monitor": None, "log_tail": [], "attempts": 0, "command": [], "exit_code": None}
    end = {"ended_at": _now(), "wall_s": round(time.monotonic() - begin, 3)}
    record = write_record(path, head | record | end | outcome)
    unended(path).unlink(missing_ok=True)
    log_runs(directory, [record])
    return record


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _before_the_start(directory: RunDirectory, cell: Cell, slot: Slot, invocation: str) -> dict[str, Any] | None:
    """An outcome that is certain without starting anything, or None."""
    if cell.reason:
        advice = "choose a GPU and nodes that numastudy doctor lists"
        return failure(NOT_RUNNABLE, cell.reason, advice) | {"by_grid": True}
    for earlier in range(1, slot.repeat if slot.repeat != TRACED else directory.study().repeats + 1):
        record = read_head(directory.record(cell.name, earlier))
        if record and record["status"] in LASTING and record["invocation"] == invocation:
            return failure(record["status"], f"as repeat {earlier}: {record['reason']}", record["advice"])
    if cell.binding == "numactl":
        refused = trial_bind(cell.cpu_node, cell.mem_node)
        if refused:
            return failure(refused.status, refused.reason, refused.advice)
    return None


def _attempts(directory: RunDirectory, cell: Cell, slot: Slot, lock: HostLock, report: Report) -> dict[str, Any]:
    try:
        peers = peers_of(directory, cell)
    except NoPeers as error:
        return failure(NOT_RUNNABLE, error.what, "choose another concurrent_placement, or fewer concurrent_gpus")
    outcome: dict[str, Any] = {}
    path = directory.record(cell.name, slot.repeat)
    for number in range(1, ATTEMPTS + 1):
        if count_start(path) >= STARTS_THAT_TOOK_THE_HOST_DOWN:
            return failure(
                CRASHED,
                f"the host went down during {STARTS_THAT_TOOK_THE_HOST_DOWN} starts of this run",
                "look at the kernel's log; the next call tries it again",
            )
        what = f"attempt {number}/{ATTEMPTS}, " if number > 1 else ""

        def say(text: str, percent: int, what: str = what) -> None:
            report(what + text, percent)

        gpus = [cell.gpu_uuid, *(peer.gpu_uuid for peer in peers)] if cell.device == "cuda" else []
        not_free = wait_until_free(gpus, lambda text: report(text, 1))
        outcome = attempt(directory, cell, slot, peers, lock, number, say)
        if outcome.get("monitor"):
            outcome["monitor"]["disturbed"] += [
                {"kind": "gpu_not_free", "text": f"the GPU was not free: {who}"} for who in not_free
            ]
        outcome["attempts"] = number
        unended(path).unlink(missing_ok=True)
        # What hung once takes its whole time again.
        if outcome["status"] not in RETRIED or outcome.get("timed_out"):
            break
    return outcome
