"""One attempt at a run of a command: its server and itself, what was measured, and where it was."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from msgspec import structs

from bench.command import guard
from bench.command.arguments import Place, client_cpus, environment, evict, free_port, replaced, replacements, secrets
from bench.command.looks import Looks
from bench.command.reading import Output, measured
from bench.command.server import STOP_S, NotReady, Server, readiness
from bench.errors import StudyError
from bench.host.binding import bind_prefix
from bench.host.peers import PeerPlacement
from bench.records.command import Command
from bench.records.metric import Measured
from bench.records.run import CommandResult, Failure, Outcome, Program
from bench.records.study import Cell, Slot
from bench.run.attempt import Attempt, avoid_measured_cpus, watched
from bench.run.child import ChildEnd, how_it_ended, judge, misplacement, run_child, scratch_folder
from bench.run.lock import HostLock
from bench.run.metrics import NoMetric
from bench.run.progress import Progress, Report, RunState
from bench.storage import boot_id, write_text
from bench.study.directory import RunDirectory
from bench.units import exact_seconds
from bench.where.look import members, process_table

OnStart = Callable[[int], None]
OnPoll = Callable[[], None]
# For a server whose end made the client fail.
_SERVER_MAY_FOLLOW_S = 2.0
_READ_ADVICE = "write JSON to the file that NUMASTUDY_RESULT names, or set read or metrics (docs/own_workloads.md)"
# Until it ends nothing is known of how far a command is.
_PERCENT = {RunState.STARTING: 5, RunState.WARMUP: 10, RunState.MEASURING: 50}


class _ServerEnded(Exception):
    """The server ended while the client ran."""


def attempt_command(
    directory: RunDirectory,
    cell: Cell,
    slot: Slot,
    _peers: tuple[PeerPlacement, ...],
    lock: HostLock,
    number: int,
    report: Report,
) -> Attempt:
    """Start the command once, after the starts that do not count where the cell had none since the host booted."""
    command = cell.model.command
    assert command
    warm, done = directory.path / "cells" / f"{cell.name}.warm", 0
    if command.warmup_runs and not (warm.exists() and warm.read_text() == boot_id()):
        for done in range(1, command.warmup_runs + 1):
            first = _Start(directory, cell, slot, command, lock, report, f"{slot.run}_warmup", done > 1).run()
            if first.failure and first.failure.status is not Outcome.MISPLACED:
                reason = f"warm-up run {done}: {first.failure.reason}"
                return replace(first, failure=structs.replace(first.failure, reason=reason))
        write_text(warm, boot_id())
    attempt = _Start(directory, cell, slot, command, lock, report, slot.process, append_logs=number > 1).run()
    if attempt.of_command:
        attempt = replace(attempt, of_command=structs.replace(attempt.of_command, warmup_runs=done))
    return attempt


@dataclass(frozen=True)
class _Ends:
    """client: how the command itself ended, None if it was not started. failure: of what happened before or beside."""

    client: ChildEnd | None = None
    failure: Failure | None = None
    ready_s: float | None = None


class _Start:
    """One start of the command, with its server if it has one. name: of its logs."""

    def __init__(
        self,
        directory: RunDirectory,
        cell: Cell,
        slot: Slot,
        command: Command,
        lock: HostLock,
        report: Report,
        name: str,
        append_logs: bool,
    ) -> None:
        self._cell, self._slot, self._command, self._lock, self._report = cell, slot, command, lock, report
        self._host = directory.host()
        self._append_logs = append_logs
        self._output, self._server_output = (
            Output.of((directory.log(one, "stdout"), directory.log(one, "stderr")), append_logs)
            for one in (name, f"{name}_server")
        )
        self._state = RunState.MEASURING if name == slot.process else RunState.WARMUP
        self._deadline = time.monotonic() + cell.timeout_s
        self._guard = 0

    def run(self) -> Attempt:
        with scratch_folder() as folder:
            scratch = Path(folder)
            place = Place(free_port(), scratch / "result.json", scratch / "own")
            place.scratch.mkdir()
            self._reports = scratch
            tokens = replacements(self._cell, self._slot, place, self._host)
            self._environment = environment(self._cell, self._command, tokens, os.environ)
            run, server = (
                [replaced(one, tokens) for one in argv] for argv in (self._command.run, self._command.server)
            )
            bound = [*bind_prefix(self._cell.binding, self._cell.cpu_node, self._cell.mem_node), *(server or run)]
            evicted = evict(self._command)
            self._looks = Looks(self._cell, self._command, self._host)
            with avoid_measured_cpus(self._host, [self._cell]) as cpus:
                watch = watched(self._host, [self._cell], cpus, self._sessions)
                try:
                    if server:
                        ends = self._with_server(bound, run, replaced(self._command.ready, tokens), cpus)
                    else:
                        ends = self._alone(bound, cpus)
                except OSError as error:
                    ends = _Ends(failure=self._not_started(error))
                finally:
                    monitor = watch.summary()
            seconds = self._seconds(ends.client)
            reports = [self._guard_report(name) for name in ("client", *(["server"] if server else []))]
            found, failure = self._judged(ends, place.result, seconds)
            lived_s = self._looks.age_s if server else seconds or 0.0
            certificate = self._looks.certificate(lived_s)
            failure = failure or misplacement(certificate)
            return Attempt(
                failure=failure,
                command=bound,
                end=ends.client,
                monitor=monitor,
                of_command=CommandResult(
                    measured=found,
                    certificate=certificate,
                    seconds=seconds,
                    ready_s=ends.ready_s,
                    page_looks=self._looks.page_looks,
                    processes=self._looks.processes,
                    client=run if server else [],
                    program=_program(server or run, self._environment, Path(self._command.cwd)),
                    evicted_files=evicted,
                    storage_bytes=sum(report[1] for report in reports if report) if all(reports) else None,
                    files=self._looks.files.cached(),
                ),
                # It would write no other result, and no other error.
                final=bool(ends.client and ends.client.exit_code == 0),
            )

    # Processes

    def _alone(self, bound: list[str], cpus: set[int]) -> _Ends:
        def poll() -> None:
            self._progress(self._state)
            self._looks.due(self._guard)

        return _Ends(self._child(bound, "client", self._output, cpus, self._on_start, poll))

    def _with_server(self, bound: list[str], run: list[str], ready: str, cpus: set[int]) -> _Ends:
        # Emptied before the thread of the server does so: an earlier call's line would make it ready.
        for log in self._server_output.logs:
            log.open("ab" if self._append_logs else "wb").close()

        def serve(on_start: OnStart, on_poll: OnPoll) -> ChildEnd:
            return self._child(bound, "server", self._server_output, cpus, on_start, on_poll)

        def check() -> None:
            self._progress(self._state)
            if server.end():
                raise _ServerEnded

        def starting() -> None:
            self._progress(RunState.STARTING)
            self._looks.at_start(server.guard)

        with Server(serve, self._on_start) as server:
            client, ready_s = None, None
            try:
                server.start()
                ready_s = server.wait_until_ready(readiness(ready, self._server_output), self._left_s(), starting)
                self._looks.at_pages(server.guard)
                apart = client_cpus(self._command, self._cell, self._host, cpus)
                on_start = self._lock.record_child
                client = self._child(run, "client", self._output, apart, on_start, check)
                self._looks.at_pages(server.guard)
            except NotReady as error:
                return _Ends(failure=self._not_ready(error))
            except _ServerEnded:
                pass
            # What a server leaves behind is ended and waited for, and so may be a client that has just begun: its exit
            # code is lost then, and its guard has written nothing.
            failed = client is None or client.exit_code != 0 or self._guard_report("client") is None
            ended = server.end_within(_SERVER_MAY_FOLLOW_S) if failed else None
        early = self._of_server(ended, "the server ended while the client ran") if ended else None
        return _Ends(client, early, ready_s)

    def _child(
        self,
        argv: list[str],
        name: str,
        output: Output,
        cpus: set[int],
        on_start: OnStart,
        on_poll: OnPoll,
    ) -> ChildEnd:
        """A server has time to stop beyond that of the run."""
        hidden = ",".join(secrets(self._command, os.environ))
        report = str(self._reports / name)
        guarded = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), report, hidden, *argv]
        return run_child(
            guarded,
            self._environment,
            output.logs,
            self._left_s() + (2 * STOP_S if name == "server" else 0.0),
            on_start=on_start,
            on_poll=on_poll,
            keep_descriptors=(self._lock.fileno(),),
            append_logs=self._append_logs,
            cpus=cpus,
            cwd=Path(self._command.cwd),
        )

    def _on_start(self, pid: int) -> None:
        self._guard = pid
        self._lock.record_child(pid)

    def _sessions(self) -> set[int]:
        """Those that the command's processes lead: their work is no disturbance."""
        table = process_table()
        return {table[pid].session for pid in members(self._lock.sessions(), table)}

    def _progress(self, state: RunState) -> None:
        self._report(Progress(state, _PERCENT[state]))

    def _left_s(self) -> float:
        return max(0.1, self._deadline - time.monotonic())

    def _seconds(self, end: ChildEnd | None) -> float | None:
        """That the command took, by its guard; None if it was ended."""
        report = self._guard_report("client")
        return report[0] if end and not end.timed_out and report else None

    def _guard_report(self, name: str) -> tuple[float, int] | None:
        """(seconds, bytes that came from the storage); None of a guard that was killed."""
        file = self._reports / name
        if not file.exists():
            return None
        seconds, from_storage = file.read_text().split()
        return float(seconds), int(from_storage)

    # Outcomes

    def _judged(self, ends: _Ends, result: Path, seconds: float | None) -> tuple[Measured | None, Failure | None]:
        if ends.failure or ends.client is None:
            return None, ends.failure
        bad = self._failure_of(ends.client)
        if bad:
            return None, bad
        try:
            return measured(self._command, result, self._output, seconds), None
        except NoMetric as error:
            hidden = secrets(self._command, os.environ)
            # Of a result that holds its program's environment, as that of nccl-tests does.
            values = {os.fsencode(value): f"[{key}]".encode() for key, value in hidden.items()}
            reason = guard.named(str(error).encode(), values, whole=True)[0].decode(errors="replace")
            return None, Failure(
                status=Outcome.CRASHED, reason=reason, advice=_READ_ADVICE, log_tail=self._output.tail()
            )

    def _failure_of(self, end: ChildEnd) -> Failure | None:
        if end.exit_code == 0 and not end.timed_out and not end.log_overflow:
            return None
        found = judge(self._cell, end, None, self._output.tail())
        assert found
        if found.status is Outcome.TIMEOUT:
            advice = "raise timeout_s; if the command hangs, see the end of its log"
            return structs.replace(found, advice=advice)
        if found.status is Outcome.CRASHED and not end.log_overflow:
            return structs.replace(found, reason=f"the command {_ended(end, found.log_tail)}")
        return found

    def _not_ready(self, error: NotReady) -> Failure:
        if error.end is None:
            return Failure(
                status=Outcome.TIMEOUT,
                reason=f"the server was not ready after {exact_seconds(self._cell.timeout_s)} ({error.why})",
                advice="raise timeout_s, or look at ready and at the server's log",
                log_tail=self._server_output.tail(),
            )
        return self._of_server(error.end, "the server ended before it was ready")

    def _of_server(self, end: ChildEnd, what: str) -> Failure:
        tail = self._server_output.tail()
        found = judge(self._cell, end, None, tail)
        assert found
        if found.status in (Outcome.BIND_FAILED, Outcome.OOM):
            return found
        how = found.reason if end.log_overflow else how_it_ended(end.exit_code, tail)
        background = "a server that goes into the background is ended: start it in the foreground"
        advice = background if end.exit_code == 0 and not end.log_overflow else "see the log of the server"
        return Failure(status=Outcome.CRASHED, reason=f"{what}: {how}", advice=advice, log_tail=tail)

    def _not_started(self, error: OSError) -> Failure:
        """Raise StudyError for a log that cannot be written: no record could be written either."""
        if error.filename in map(str, (*self._output.logs, *self._server_output.logs)):
            what, advice = f"cannot write: {error.strerror}", "make room or fix the permissions"
            raise StudyError(what, error.filename, advice) from None
        in_folder = str(error.filename) == self._command.cwd
        advice = "check cwd, which is relative to the study file" if in_folder else "look at the limits: `ulimit -a`"
        place = f"the command in {self._command.cwd}" if in_folder else "a process"
        return Failure(status=Outcome.CRASHED, reason=f"cannot start {place}: {error.strerror}", advice=advice)


def _ended(end: ChildEnd, tail: list[str]) -> str:
    how = how_it_ended(end.exit_code, tail)
    return f"was {how}" if how.startswith("killed") else f"ended with {how}"


def _program(argv: list[str], variables: Mapping[str, str], cwd: Path) -> Program | None:
    """The file that argv[0] names; None where that is not a file that can be looked at."""
    name = str(cwd / argv[0]) if "/" in argv[0] else argv[0]
    path = shutil.which(name, path=variables.get("PATH"))
    try:
        status = os.stat(path or name)
    except OSError:
        return None
    modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
    return Program(path=str(Path(path or name).resolve()), bytes=status.st_size, modified=modified)
