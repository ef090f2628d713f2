"""One process that measures the cells of a group by turns, from the host lock to a record for each of them.

Nothing that can happen to it is raised. Its records name the same process; they are written together, one by one.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from msgspec import structs

from bench.errors import StudyError
from bench.host.binding import KILLED, trial_bind
from bench.host.peers import NoPeers
from bench.records.base import plain
from bench.records.run import (
    ChildReport,
    CrossedCell,
    Crossing,
    Failure,
    Group,
    Mode,
    Outcome,
    Run,
    StartMethod,
    read_record,
    write_record,
)
from bench.records.study import Cell, Placement, Slot
from bench.run.attempt import (
    ENDED,
    Attempt,
    Begin,
    attempts,
    collected,
    hung,
    run_of,
    run_watched,
    without_peers,
    without_start,
)
from bench.run.child import ChildEnd, Process, log_tail, misplacement, scratch_folder, workload_argv
from bench.run.experiment_log import log_runs
from bench.run.forkserver import SERVERS, served
from bench.run.lock import HostLock
from bench.run.peers import Peers, during, peers_of
from bench.run.progress import BatchCounter, Report
from bench.storage import write_json
from bench.study.directory import RunDirectory
from bench.trace.profilers import get_profiler

# A turn has several of these: it takes 20 ms or four batches at least.
PEERS_WINDOW_S = 0.005


def execute_group(
    directory: RunDirectory,
    slots: Sequence[Slot],
    invocation: str,
    lock: HostLock,
    report: Report,
    is_done: Callable[[], bool] = lambda: False,
) -> list[Run]:
    """Cross the cells of these runs of one process and write runs/<run>.json for each. Arguments as of execute()."""
    grid, begin = directory.grid(), Begin()
    cells = {slot: grid.cell(slot.cell) for slot in slots}
    excluded: dict[Slot, Attempt] = {}
    for slot, cell in cells.items():
        if attempt := without_start(directory, cell, slot, invocation):
            excluded[slot] = attempt
    measured = {slot: cell for slot, cell in cells.items() if slot not in excluded}
    asked = _crossing(slots[0], [*measured.values()])
    number, whole, full = 0, Attempt(crossing=asked), dict[Slot, Attempt]()
    if measured:
        lock.acquire(str(directory.path), report)
        if is_done():
            existing = [read_record(directory.record(slot.cell, slot.repeat), Run) for slot in slots]
            if all(existing):
                return [run for run in existing if run]
        begin = Begin()
        number, whole, full = _attempts(directory, measured, asked, lock, report)
        whole = replace(whole, crossing=whole.crossing or asked)
    runs = []
    for slot, cell in cells.items():
        apart = excluded.get(slot) or full.get(slot)
        own = replace(apart, crossing=whole.crossing) if apart else _own(whole, cell)
        runs.append(run_of(directory, cell, slot, invocation, begin, 0 if slot in excluded else number, own))
    # One process: one end, and one time.
    runs = [structs.replace(run, ended_at=runs[0].ended_at, wall_s=runs[0].wall_s) for run in runs]
    for run in runs:
        write_record(directory.record(run.cell, run.repeat), run)
    log_runs(directory, runs)
    return runs


def _crossing(slot: Slot, cells: Sequence[Cell]) -> Crossing:
    """What this program decides of a crossing: its id, and where it starts."""
    assert slot.birth is not None
    cpu_node, mem_node = _birth(slot.birth, cells)
    return Crossing(
        group=slot.group,
        process=slot.block,
        id=uuid.uuid4().hex,
        birth_cpu_node=cpu_node,
        birth_mem_node=mem_node,
    )


def _birth(planned: Placement, cells: Sequence[Cell]) -> Placement:
    """Where planned, or at the first cell's nodes if nothing can be bound there now."""
    own = next((cell for cell in cells if cell.cpu_node == planned[0]), None)
    if cells and cells[0] is not own and trial_bind(*planned, cpus=own.cpus if own else ""):
        return cells[0].placement
    return planned


def _attempts(
    directory: RunDirectory, measured: Mapping[Slot, Cell], asked: Crossing, lock: HostLock, report: Report
) -> tuple[int, Attempt, dict[Slot, Attempt]]:
    """The number of the last attempt, and what became of it; and of a cell that it was started again without."""
    first, cell = next(iter(measured.items()))
    try:
        # Of all its cells: where a cell is measured decides nothing about them.
        peers = peers_of(directory, cell)
    except NoPeers as error:
        return 0, without_peers(error), {}
    gpus = [cell.gpu_uuid, *(peer.gpu_uuid for peer in peers)] if cell.device == "cuda" else []
    file = directory.path / "cells" / f"{first.process}.json"
    # The stages in isolation, once for each birth.
    solo = not first.is_traced and asked.process <= len(_births(directory, first))
    full: dict[Slot, Attempt] = {}

    def start_once(report: Report, append_logs: bool) -> Attempt:
        cells = [cell for slot, cell in measured.items() if slot not in full]
        write_json(file, plain(Group(crossing=asked, cells=cells, seed=cell.seed, solo=solo)))
        with scratch_folder() as folder:
            scratch = Path(folder)
            barrier = scratch / "barrier"
            barrier.mkdir()
            with Peers(peers, directory, _load_of(first, cells), first.process, barrier) as beside:
                crossed = _Crossed(directory, first, cells, asked, file, scratch, beside)
                attempt = crossed.run(lock, report, append_logs)
            return replace(attempt, peers=beside.records())

    def start(number: int, report: Report) -> Attempt:
        attempt = start_once(report, number > 1)
        slot = next((slot for slot in measured if slot.cell == attempt.full), None)
        if slot and not full and len(measured) > 1:
            full[slot] = replace(attempt, failure=_full(attempt.failure))
            attempt = start_once(report, append_logs=True)
        return attempt

    return *attempts(directory.record(first.cell, first.repeat), gpus, start, report), full


def _full(failure: Failure | None) -> Failure:
    """Of the cell whose pool was being allocated."""
    return Failure(
        status=Outcome.OOM,
        reason="killed by the kernel: out of memory while the pool of this cell was allocated; the process was then "
        "started without it",
        advice="reduce memory_size_mb, or set design: processes, which needs one pool at a time",
        log_tail=failure.log_tail if failure else [],
    )


def _load_of(slot: Slot, cells: Sequence[Cell]) -> Cell:
    """What peers run beside a process of these cells."""
    whole_s = len(cells) * cells[0].timeout_s
    return structs.replace(cells[0], name=slot.process, timeout_s=whole_s, window_s=PEERS_WINDOW_S)


def _births(directory: RunDirectory, slot: Slot) -> set[Placement]:
    return {one.birth for one in directory.grid().order if one.group == slot.group and one.birth}


class _Crossed:
    """The process of one attempt."""

    def __init__(
        self,
        directory: RunDirectory,
        slot: Slot,
        cells: Sequence[Cell],
        asked: Crossing,
        group_file: Path,
        scratch: Path,
        peers: Peers,
    ) -> None:
        self._cells, self._asked, self._host, self._peers = cells, asked, directory.host(), peers
        self._profiler = get_profiler(cells[0].profiler) if slot.is_traced else None
        self._reports = {cell.name: directory.report(cell.name) for cell in cells}
        # Of a profiler that writes the traces of all cells under one name.
        self._report = directory.report(slot.process)
        # nsys starts the process itself. A program of the user is imported by an interpreter of its own. Peers have
        # theirs too, so that a fork would save no time.
        own = self._profiler or peers.options or cells[0].model.kind in ("python", "pt2")
        self._start = StartMethod.EXEC if own else StartMethod(directory.study().start)
        self._counter = BatchCounter(scratch / "progress")
        file = scratch / "result.json"
        mode = Mode.TRACED if self._profiler else Mode.CROSSED
        options = ("--progress", str(scratch / "progress"), *peers.options)
        argv = workload_argv(group_file, mode, file, *options, of_group=True)
        # It binds itself: a fork server is bound to no node.
        unbound = structs.replace(cells[0], binding="none", timeout_s=len(cells) * cells[0].timeout_s)
        logs = directory.log(slot.process, "stdout"), directory.log(slot.process, "stderr")
        process = Process(unbound, argv, logs, file)
        self._process = process.wrapped(served) if self._start is StartMethod.FORK else process

    def run(self, lock: HostLock, report: Report, append_logs: bool) -> Attempt:
        process, profiler = self._process, self._profiler
        if profiler:
            try:
                reports = [*self._reports.values()]
                command = profiler.group_command(process.argv, self._report, reports, self._cells[0].device)
            except StudyError as error:
                failure = Failure(status=Outcome.TRACE_FAILED, reason=error.what, advice=error.advice)
                return Attempt(failure, command=process.command, crossing=self._asked)
            process = process.wrapped(lambda argv: command)
        start = SERVERS.starter(lock.record_child) if self._start is StartMethod.FORK else None
        attempt = Attempt(start=self._start, command=process.command, crossing=self._asked)
        try:
            seen = run_watched(
                process, self._cells, self._host, lock, self._peers, lambda: report(self._counter.read()),
                traced=profiler is not None, append_logs=append_logs, start=start,
            )  # fmt: skip
        except OSError as error:
            return replace(attempt, failure=process.not_run(error))
        finally:
            if profiler:
                profiler.settle(self._report)
        failed, written = self._failure(process, seen.end), process.read_report()
        crossing = (written.crossing if written else None) or self._asked
        return replace(
            attempt,
            failure=failed,
            full=self._full(seen.end, failed),
            end=seen.end,
            monitor=seen.monitor,
            crossing=structs.replace(crossing, observer_cpus=seen.observer_cpus),
            crossed=self._with_traces(written, process) if written else [],
            # No cell could be measured, each for a reason of its own.
            final=bool(written and written.failure and written.crossed),
        )

    def _full(self, end: ChildEnd | None, failure: Failure | None) -> str:
        """The cell whose pool was being allocated when the kernel killed the process."""
        number = self._counter.allocating()
        killed = end and end.exit_code in KILLED and failure and failure.status is Outcome.OOM
        return self._cells[number].name if killed and number is not None else ""

    def _failure(self, process: Process, end: ChildEnd | None) -> Failure | None:
        """end: None where a peer's failure ended it."""
        failure = _judged(process, end or ENDED)
        reason = self._peers.reason(process, failure)
        if not self._profiler or end is None or failure is None or reason is not failure:
            return reason
        if end.timed_out:
            return hung(self._profiler, process.cell, process.report.exists(), failure)
        if failure.status is Outcome.CRASHED and end.exit_code:
            return collected(self._profiler, self._report, end, failure, log_tail(process.logs[1]))
        return failure

    def _with_traces(self, written: ChildReport, process: Process) -> list[CrossedCell]:
        """What the process gave; a cell whose trace is missing has failed."""
        profiler, captured = self._profiler, written.crossing.captured if written.crossing else []
        if profiler is None or not captured:
            return written.crossed
        profiler.divide(self._report, [self._reports[name] for name in captured])
        tail = log_tail(process.logs[1])
        ended = ChildEnd(0, False, 0.0, 0)
        return [
            structs.replace(one, failure=collected(profiler, self._reports[one.cell], ended, one.failure, tail))
            if one.cell in captured
            else one
            for one in written.crossed
        ]


def _judged(process: Process, end: ChildEnd) -> Failure | None:
    """Why the process as a whole failed; None if it measured any cell."""
    failure = process.failure(end)
    if failure and failure.status is Outcome.OOM and end.exit_code in KILLED:
        # Which of the nodes was full is not known: rings that find no room fail alone, before anything is killed.
        return structs.replace(
            failure,
            reason="killed by the kernel: out of memory while the pools of all cells of the group were in use",
            advice="reduce memory_size_mb, or set design: processes, which needs one pool at a time",
        )
    return failure


def _own(whole: Attempt, cell: Cell) -> Attempt:
    """What a process gave for one of its cells."""
    given = next((one for one in whole.crossed if one.cell == cell.name), None)
    if whole.failure:
        if given is None or given.failure is None:
            return whole
        # Where no cell could be measured the log is that of all of them.
        tail = whole.failure.log_tail if whole.final else []
        return replace(whole, failure=structs.replace(given.failure, log_tail=tail))
    if given is None or (given.result is None and given.failure is None):
        reason = "the process ended well, but wrote nothing about this cell"
        return replace(whole, failure=Failure(status=Outcome.CRASHED, reason=reason, advice="see its log"))
    result, peers = given.result, whole.peers
    if result and result.mode is Mode.CROSSED:
        peers = [during(result.windows, peer, cell.batch_size) for peer in peers]
    failure = given.failure or misplacement(result.certificate if result else None)
    return replace(whole, failure=failure, result=result, peers=peers)
