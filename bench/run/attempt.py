"""One run with its attempts, from the host lock to the record. Nothing that can happen to a run is raised."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from msgspec import structs

from bench.errors import StudyError
from bench.host.binding import trial_bind
from bench.host.monitor import Sessions, Watch
from bench.host.peers import NoPeers, PeerPlacement
from bench.records.base import plain
from bench.records.host import Topology, format_cpulist, parse_cpulist
from bench.records.run import (
    LASTING,
    RETRIED,
    CommandResult,
    CrossedCell,
    Crossing,
    Failure,
    Mode,
    Monitor,
    Outcome,
    Peer,
    Result,
    Run,
    StartMethod,
    read_head,
    read_record,
    write_record,
)
from bench.records.study import Cell, Slot
from bench.run.child import ChildEnd, Process, Start, log_tail, scratch_folder, workload_argv
from bench.run.experiment_log import log_runs
from bench.run.free_gpu import wait_until_free
from bench.run.lock import HostLock
from bench.run.peers import PeerFailed, Peers, peers_of
from bench.run.progress import BatchCounter, Progress, Report
from bench.storage import boot_id, utc_now, write_json, write_text
from bench.study.directory import RunDirectory
from bench.trace.profilers import Profiler, get_profiler
from bench.units import exact_seconds

ATTEMPTS = 2
STARTS_THAT_TOOK_THE_HOST_DOWN = 3

# The end of a process that was ended because a peer had failed.
ENDED = ChildEnd(-signal.SIGTERM, False, 0.0, 0)


def execute(
    directory: RunDirectory,
    cell: Cell,
    slot: Slot,
    invocation: str,
    lock: HostLock,
    report: Report,
    is_done: Callable[[], bool] = lambda: False,
    attempt_once: "AttemptOnce | None" = None,
) -> Run:
    """Execute the cell and write runs/<run>.json. report is called with the progress.

    attempt_once: what one attempt does, by default that of the pipeline.

    is_done: asked once the host is free. Another call of the same study may have written the record meanwhile.
    """
    path, begin = directory.record(cell.name, slot.repeat), Begin()
    number, attempt = 0, without_start(directory, cell, slot, invocation)
    if attempt is None:
        lock.acquire(str(directory.path), report)
        if is_done() and (existing := read_record(path, Run)):
            return existing
        # Waiting for the host is not part of the run: estimates are made from wall_s.
        begin = Begin()
        number, attempt = _attempts(directory, cell, slot, lock, report, attempt_once or _attempt)
    run = run_of(directory, cell, slot, invocation, begin, number, attempt)
    write_record(path, run)
    _starts(path).unlink(missing_ok=True)
    log_runs(directory, [run])
    return run


@dataclass(frozen=True)
class Begin:
    """When a run began: seconds of the monotonic clock, and UTC."""

    monotonic_s: float = field(default_factory=time.monotonic)
    utc: str = field(default_factory=utc_now)


@dataclass(frozen=True)
class Attempt:
    """What became of one attempt. end: of the measured process, None if it was not started or a peer ended it.

    crossed: of a crossing, what it gave for each cell; `failure` and `result` are then of the whole process.
    final: another attempt would end alike. full: the cell whose memory was being allocated when the kernel killed it.
    before: why the attempt before it failed.
    """

    failure: Failure | None = None
    start: StartMethod = StartMethod.EXEC
    command: list[str] = field(default_factory=list)
    end: ChildEnd | None = None
    result: Result | None = None
    monitor: Monitor | None = None
    peers: list[Peer] = field(default_factory=list)
    crossing: Crossing | None = None
    crossed: list[CrossedCell] = field(default_factory=list)
    of_command: CommandResult | None = None
    final: bool = False
    full: str = ""
    before: str = ""

    @property
    def timed_out(self) -> bool:
        return bool(self.end and self.end.timed_out)

    @property
    def failed_by_chance(self) -> bool:
        """So that another attempt may succeed. One that hung would take its whole time again. A cell of a crossing that
        failed alone would fail again, for the same reason; but a profiler may have lost its trace."""
        lost_trace = any(one.failure and one.failure.status is Outcome.TRACE_FAILED for one in self.crossed)
        failed = self.failure is not None and self.failure.status in RETRIED
        return (failed or lost_trace) and not (self.timed_out or self.final)


def run_of(
    directory: RunDirectory, cell: Cell, slot: Slot, invocation: str, begin: Begin, number: int, attempt: Attempt
) -> Run:
    """The record of a run that has just ended with this attempt, the last of `number`."""
    failure = attempt.failure
    return Run(
        status=failure.status if failure else Outcome.OK,
        reason=failure.reason if failure else "",
        advice=failure.advice if failure else "",
        log_tail=failure.log_tail if failure else [],
        invocation=invocation,
        by_grid=bool(cell.reason),
        run=slot.run,
        cell=cell.name,
        repeat=slot.repeat,
        position=slot.position,
        block=slot.block,
        group=slot.group,
        log=slot.process,
        attempts=number,
        failed_before=attempt.before,
        started_at=begin.utc,
        ended_at=utc_now(),
        wall_s=round(time.monotonic() - begin.monotonic_s, 3),
        start=attempt.start,
        command=attempt.command,
        exit_code=attempt.end.exit_code if attempt.end else None,
        timed_out=attempt.timed_out,
        fingerprint=directory.host().fingerprint,
        result=attempt.result,
        of_command=attempt.of_command,
        monitor=attempt.monitor,
        peers=attempt.peers,
        crossing=attempt.crossing,
    )


def without_start(directory: RunDirectory, cell: Cell, slot: Slot, invocation: str) -> Attempt | None:
    """An outcome that is certain before anything is started, or None."""
    if cell.reason:
        advice = "choose a GPU and nodes that numastudy doctor lists"
        return Attempt(Failure(status=Outcome.NOT_RUNNABLE, reason=cell.reason, advice=advice))
    timed = directory.study().repeats if isinstance(slot.repeat, str) else slot.repeat - 1
    for earlier in range(1, timed + 1):
        head = read_head(directory.record(cell.name, earlier))
        if head and head.status in LASTING and head.invocation == invocation:
            return Attempt(
                Failure(status=head.status, reason=f"as repeat {earlier}: {head.reason}", advice=head.advice)
            )
    if cell.binding in ("none", "self"):
        return None
    refused = trial_bind(cell.cpu_node, cell.mem_node, cell.binding, cell.cpus)
    return Attempt(refused) if refused else None


def _attempts(
    directory: RunDirectory, cell: Cell, slot: Slot, lock: HostLock, report: Report, attempt_once: "AttemptOnce"
) -> tuple[int, Attempt]:
    """The number of the last attempt, and what became of it."""
    try:
        peers = peers_of(directory, cell)
    except NoPeers as error:
        return 0, without_peers(error)
    gpus = [cell.gpu_uuid, *(peer.gpu_uuid for peer in peers)] if cell.device == "cuda" else []

    def start(number: int, report: Report) -> Attempt:
        return attempt_once(directory, cell, slot, peers, lock, number, report)

    return attempts(directory.record(cell.name, slot.repeat), gpus, start, report)


def without_peers(error: NoPeers) -> Attempt:
    advice = "choose another concurrent_placement, or fewer concurrent_gpus"
    return Attempt(Failure(status=Outcome.NOT_RUNNABLE, reason=error.what, advice=advice))


def attempts(
    record: Path, gpu_uuids: Iterable[str | None], start: Callable[[int, Report], Attempt], report: Report
) -> tuple[int, Attempt]:
    """Start a run until it succeeds or fails for good. Return the number of the last attempt, and what became of it.

    record: of the run; its starts are counted beside it. gpu_uuids: GPUs that must be free before.
    """
    gpus, attempt = [*gpu_uuids], Attempt()
    for number in range(1, ATTEMPTS + 1):
        if count_start(record) >= STARTS_THAT_TOOK_THE_HOST_DOWN:
            reason = f"the host went down during {STARTS_THAT_TOOK_THE_HOST_DOWN} starts of this run"
            advice = "look at the kernel's log; the next call tries it again"
            return 0, Attempt(Failure(status=Outcome.CRASHED, reason=reason, advice=advice))

        def report_attempt(progress: Progress, number: int = number) -> None:
            report(replace(progress, attempt=(number, ATTEMPTS)))

        not_free = wait_until_free(gpus, report)
        before = attempt.failure.reason if attempt.failure else ""
        attempt = replace(start(number, report_attempt), before=before)
        if attempt.monitor and not_free:
            disturbed = [*attempt.monitor.disturbed, *not_free]
            attempt = replace(attempt, monitor=structs.replace(attempt.monitor, disturbed=disturbed))
        _starts(record).unlink(missing_ok=True)
        if not attempt.failed_by_chance:
            break
    return number, attempt


def _attempt(
    directory: RunDirectory,
    cell: Cell,
    slot: Slot,
    peers: tuple[PeerPlacement, ...],
    lock: HostLock,
    number: int,
    report: Report,
) -> Attempt:
    """Start the cell and its peers."""
    with scratch_folder() as folder:
        scratch = Path(folder)
        barrier = scratch / "barrier"
        barrier.mkdir()
        with Peers(peers, directory, cell, slot.run, barrier) as beside:
            attempt = _Measured(directory, cell, slot, scratch, beside, append_logs=number > 1).run(lock, report)
        return replace(attempt, peers=beside.records())


AttemptOnce = Callable[[RunDirectory, Cell, Slot, tuple[PeerPlacement, ...], HostLock, int, Report], Attempt]


class _Measured:
    """The measured process of one attempt."""

    def __init__(
        self, directory: RunDirectory, cell: Cell, slot: Slot, scratch: Path, peers: Peers, append_logs: bool
    ) -> None:
        self._cell, self._peers, self._append_logs = cell, peers, append_logs
        self._host = directory.host()
        self._trace = directory.report(cell.name)
        self._profiler = get_profiler(cell.profiler) if slot.is_traced else None
        self._counter = BatchCounter(scratch / "progress")
        cell_file = directory.path / "cells" / f"{cell.name}.json"
        if not cell_file.exists():
            write_json(cell_file, plain(cell))
        mode, file = Mode.TRACED if self._profiler else Mode.TIMED, scratch / "result.json"
        argv = workload_argv(cell_file, mode, file, "--progress", str(scratch / "progress"), *peers.options)
        self._process = Process(
            cell, argv, (directory.log(slot.run, "stdout"), directory.log(slot.run, "stderr")), file
        )

    def run(self, lock: HostLock, report: Report) -> Attempt:
        process, profiler = self._process, self._profiler
        try:
            if profiler:
                process = process.wrapped(lambda argv: profiler.command(argv, self._trace, self._cell.device))
            seen = run_watched(
                process, [self._cell], self._host, lock, self._peers, lambda: report(self._counter.read()),
                traced=profiler is not None, append_logs=self._append_logs,
            )  # fmt: skip
        except StudyError as error:
            failure = Failure(status=Outcome.TRACE_FAILED, reason=error.what, advice=error.advice)
            return Attempt(failure, command=process.command)
        except OSError as error:
            return Attempt(process.not_run(error), command=process.command)
        finally:
            if profiler:
                profiler.settle(self._trace)
        written = process.read_report()
        return Attempt(
            failure=self._judged(process, seen.end),
            command=process.command,
            end=seen.end,
            result=written.result if written else None,
            monitor=seen.monitor,
        )

    def _judged(self, process: Process, end: ChildEnd | None) -> Failure | None:
        """end: None where a peer's failure ended it."""
        own = process.failure(end or ENDED)
        reason = self._peers.reason(process, own)
        if reason is not own:
            return reason
        if not self._profiler or end is None:
            return own
        if own is None or own.status is Outcome.CRASHED:
            return collected(self._profiler, self._trace, end, own, log_tail(process.logs[1]))
        if end.timed_out:
            return hung(self._profiler, self._cell, process.report.exists(), own)
        return own


@dataclass(frozen=True)
class Watched:
    """end: None where a peer's failure ended it. observer_cpus: where this program was meanwhile."""

    end: ChildEnd | None
    monitor: Monitor | None
    observer_cpus: str


def run_watched(
    process: Process,
    cells: Sequence[Cell],
    host: Topology,
    lock: HostLock,
    peers: Peers,
    report: Callable[[], None],
    traced: bool,
    append_logs: bool,
    start: Start | None = None,
) -> Watched:
    """Run a process that measures these cells, beside its peers, until it ends or one of them fails.

    report: called now and then. Otherwise as Process.run.
    """

    def poll() -> None:
        report()
        peers.check()

    end: ChildEnd | None = None
    monitor: Monitor | None = None
    with avoid_measured_cpus(host, cells) as cpus:
        # nsys works beside a traced process all the time; that is not a disturbance, and it times nothing.
        watch = None if traced else watched(host, cells, cpus, lock.sessions)
        observer_cpus = format_cpulist(os.sched_getaffinity(0))
        try:
            peers.start(lock, cpus, append_logs)
            end = process.run(lock, cpus, poll, append_logs=append_logs, start=start)
        except PeerFailed:
            pass
        finally:
            monitor = watch.summary() if watch else None
    if end and end.exit_code == 0:
        peers.finish()
    return Watched(end, monitor, observer_cpus)


def hung(profiler: Profiler, cell: Cell, wrote_result: bool, own: Failure) -> Failure:
    """The timed runs of the cell came before, and ended in time: so the profiler is involved."""
    what = "did not end, though the run did" if wrote_result else "or the run under it hung"
    return structs.replace(
        own,
        status=Outcome.TRACE_FAILED,
        reason=f"{profiler.name} {what}: ended after {exact_seconds(cell.timeout_s)}",
        advice="see the end of the run's log; raise timeout_s, or use another profiler",
    )


def collected(profiler: Profiler, trace: Path, end: ChildEnd, own: Failure | None, tail: list[str]) -> Failure | None:
    """A run that succeeded but left no trace is trace_failed; so is one that the profiler itself ended."""
    try:
        profiler.collect(trace, end.exit_code, "\n".join(tail))
    except StudyError as error:
        return Failure(status=Outcome.TRACE_FAILED, reason=error.what, advice=error.advice, log_tail=tail)
    return own


def watched(host: Topology, cells: Sequence[Cell], cpus: set[int], sessions: Sessions) -> Watch:
    """Watch the GPU and the measured CPUs for other work. It is known from outside the run, never from its speed.

    cells: of the process. sessions: gives those of the run itself.
    """
    measured = _measured_cpus(host, cells) & cpus
    return Watch(cells[0].gpu_uuid, measured or cpus, sessions).start()


def _measured_cpus(host: Topology, cells: Iterable[Cell]) -> set[int]:
    """To which these cells are bound."""
    found: set[int] = set()
    for cell in cells:
        node = host.node(cell.cpu_node)
        if cell.binding != "none":
            found.update(parse_cpulist(cell.cpus) if cell.cpus else node.cpu_ids if node else ())
    return found


@contextmanager
def avoid_measured_cpus(host: Topology, cells: Iterable[Cell]) -> Iterator[set[int]]:
    """Move this process to allowed CPUs outside those of all these cells, if there are any, and back at the end.

    Yields the CPUs that it could use before.
    """
    before = os.sched_getaffinity(0)
    measured = _measured_cpus(host, cells)
    elsewhere = before - measured if measured else set()
    if elsewhere:
        os.sched_setaffinity(0, elsewhere)
    try:
        yield before
    finally:
        os.sched_setaffinity(0, before)


# Starts of a run are counted on disk: a cell that takes the host down is given up.


def _starts(record: Path) -> Path:
    """The starts of a run that has no record yet."""
    return record.with_suffix(".starts")


def count_start(record: Path) -> int:
    """Note this start on disk, before the child starts; return how many earlier ones ended with the host going down.

    A start of the same boot without a record was only killed, which does not depend on the cell.
    """
    path, boot = _starts(record), boot_id()
    boots = path.read_text().split() if path.exists() else []
    write_text(path, "\n".join([*boots, boot]))
    return sum(earlier != boot for earlier in boots)
