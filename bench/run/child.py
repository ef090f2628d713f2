"""One measured process: how it is started, watched and ended, and what became of it."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from bench.errors import StudyError
from bench.host.binding import KILLED, bind_prefix, explain_bind_failure, explain_kill
from bench.host.processes import (
    adopt_orphans,
    die_with,
    end_adopted,
    end_session,
    python_module,
    without_relative_paths,
)
from bench.records.run import Certificate, ChildReport, Failure, Mode, Outcome, PlacementVerdict, read_record
from bench.records.study import Cell
from bench.run.lock import HostLock
from bench.storage import process_identity, remove_stale, start_ticks
from bench.units import exact_seconds

# A run that writes more than this into a log is ended: it would fill the disk, and it measures its own writing.
MOST_LOG_BYTES = 64 << 20
# How long processes that a child leaves behind, such as the agent of nsys, may take to end by themselves.
GRACE_S = 1.0
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 8192

# What a measured process may see of the caller's environment. The rest stays out of its memory and of its trace.
ALLOWED_VARIABLES = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "CUDA_HOME",
        "CUDA_PATH",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "CC",
        "CXX",
    }
)

# The children that this process watches now: peers are measured side by side, each watched by a thread.
_watched: set[int] = set()


@dataclass(frozen=True)
class ChildEnd:
    """exit_code: as subprocess reports it, negative for a signal. oom_kills: by the kernel while the child ran.
    log_overflow: it was ended because it wrote more than MOST_LOG_BYTES into a log.
    """

    exit_code: int
    timed_out: bool
    wall_s: float
    oom_kills: int
    log_overflow: bool = False


@dataclass(frozen=True)
class Launch:
    """A process to start. keep_descriptors: open in the child too; cpus: those that it may use."""

    argv: list[str]
    environment: dict[str, str]
    stdout: BinaryIO
    stderr: BinaryIO
    keep_descriptors: tuple[int, ...]
    cpus: frozenset[int]
    cwd: Path | None = None


class Child(Protocol):
    """A process that leads a session of its own, with the interface of subprocess.Popen."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class NotStarted(Exception):
    """The process that was to start the child ended first, or took too long; the log of the run has the reason."""

    def __init__(self, exit_code: int, timed_out: bool = False) -> None:
        super().__init__(exit_code)
        self.exit_code, self.timed_out = exit_code, timed_out


# Given the seconds that it may take; returns the child and the clock tick in which it started. Raises OSError or
# NotStarted.
Start = Callable[[Launch, float], tuple[Child, int]]


def child_environment(environment: dict[str, str]) -> dict[str, str]:
    """The allowed part of `environment`, with GPUs numbered as nvidia-smi and sysfs number them."""
    allowed = {key: value for key, value in environment.items() if key in ALLOWED_VARIABLES}
    return without_relative_paths(allowed) | {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # Threads that spin at a barrier lose three quarters of the cpu device's throughput to any other process.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
    }


def run_child(
    argv: list[str],
    environment: dict[str, str],
    logs: tuple[Path, Path],
    timeout_s: float,
    on_start: Callable[[int], None],
    on_poll: Callable[[], None],
    keep_descriptors: tuple[int, ...] = (),
    append_logs: bool = False,
    poll_s: float = 0.2,
    cpus: set[int] | None = None,
    start: Start | None = None,
    cwd: Path | None = None,
) -> ChildEnd:
    """Run argv to its end, its timeout or an exception in here; after each its whole session has ended.

    logs: files for stdout and stderr. on_poll is called every poll_s. cpus: those that the child may use, by default
    the ones of this process. start: of a fork server; by default argv is executed. Raise OSError if argv[0] cannot be
    started.
    """
    oom_before = _oom_kills()
    begin = time.monotonic()

    def ended(exit_code: int, timed_out: bool, log_overflow: bool = False) -> ChildEnd:
        return ChildEnd(exit_code, timed_out, time.monotonic() - begin, _oom_kills() - oom_before, log_overflow)

    adopt_orphans()
    mode: Literal["ab", "wb"] = "ab" if append_logs else "wb"
    with logs[0].open(mode) as stdout, logs[1].open(mode) as stderr:
        limit = LogLimit((stdout, stderr))
        allowed = frozenset(cpus or os.sched_getaffinity(0))
        launch = Launch(argv, environment, stdout, stderr, keep_descriptors, allowed, cwd)
        try:
            child, since = (start or _execute)(launch, timeout_s)
        except NotStarted as failed:
            return ended(failed.exit_code, failed.timed_out)
        _watched.add(child.pid)
        timed_out = False
        try:
            on_start(child.pid)
            while child.poll() is None:
                timed_out = time.monotonic() - begin > timeout_s
                if timed_out or limit.is_exceeded():
                    break
                on_poll()
                try:
                    child.wait(poll_s)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            # The child, and the processes that it started and left behind.
            end_session(child.pid, since)
            exit_code = child.wait()
            _watched.discard(child.pid)
            if not _watched:
                # Processes that left its session. Not while a peer runs, which would be taken for one of them.
                end_adopted(since, 0.0 if timed_out else GRACE_S)
        exceeded = limit.is_exceeded()
        limit.truncate()
    return ended(exit_code, timed_out, exceeded)


class LogLimit:
    """What the logs of one child may use of the disk."""

    def __init__(self, logs: tuple[BinaryIO, ...]) -> None:
        self._most = {log.fileno(): os.fstat(log.fileno()).st_size + MOST_LOG_BYTES for log in logs}

    def is_exceeded(self) -> bool:
        return any(os.fstat(log).st_size > most for log, most in self._most.items())

    def truncate(self) -> None:
        for log, most in self._most.items():
            if os.fstat(log).st_size > most:
                os.ftruncate(log, most)


def _execute(launch: Launch, _limit_s: float) -> tuple[Child, int]:
    before = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    child = start_process(launch)
    return child, start_ticks(child.pid) or before


def start_process(launch: Launch) -> subprocess.Popen[bytes]:
    """A new process in a session of its own, which ends with the calling thread."""
    parent = os.getpid()
    return subprocess.Popen(
        launch.argv,
        env=launch.environment,
        cwd=launch.cwd,
        stdin=subprocess.DEVNULL,
        stdout=launch.stdout,
        stderr=launch.stderr,
        start_new_session=True,
        pass_fds=launch.keep_descriptors,
        preexec_fn=lambda: _prepare(parent, launch.cpus),
    )


def _prepare(parent: int, cpus: frozenset[int]) -> None:
    # If the parent is killed with SIGKILL only the kernel is left to end the child.
    die_with(parent)
    # numactl binds only to CPUs that the process may already use; the parent may have moved away from them.
    os.sched_setaffinity(0, cpus)


def _oom_kills() -> int:
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


@dataclass(frozen=True)
class Process:
    """argv: without its binding. logs: stdout and stderr. report: the file that it writes its result to."""

    cell: Cell
    argv: list[str]
    logs: tuple[Path, Path]
    report: Path

    @property
    def command(self) -> list[str]:
        cell = self.cell
        return [*bind_prefix(cell.binding, cell.cpu_node, cell.mem_node, cell.cpus), *self.argv]

    def wrapped(self, wrap: Callable[[list[str]], list[str]]) -> "Process":
        """With the command that starts it under a profiler, or by a fork server."""
        return replace(self, argv=wrap(self.argv))

    def read_report(self) -> ChildReport | None:
        return read_record(self.report, ChildReport)

    def run(
        self,
        lock: HostLock,
        cpus: set[int],
        on_poll: Callable[[], None] = lambda: None,
        timeout_s: float | None = None,
        append_logs: bool = False,
        start: Start | None = None,
    ) -> ChildEnd:
        """To its end, while it holds the host's lock. timeout_s: by default the cell's. Otherwise as run_child."""
        return run_child(
            self.command,
            child_environment(dict(os.environ)),
            self.logs,
            self.cell.timeout_s if timeout_s is None else timeout_s,
            on_start=lock.record_child,
            on_poll=on_poll,
            keep_descriptors=(lock.fileno(),),
            append_logs=append_logs,
            cpus=cpus,
            start=start,
        )

    def not_run(self, error: OSError) -> Failure:
        """The outcome where run() raised this. Raise StudyError for a log that cannot be written."""
        if error.filename in map(str, self.logs):
            # Not a fault of the run, and no record of it could be written either.
            raise StudyError(
                f"cannot write: {error.strerror}", error.filename, "make room or fix the permissions"
            ) from None
        if error.filename != self.command[0]:
            return Failure(
                status=Outcome.CRASHED, reason=f"while it ran: {error}", advice="the next call measures it again"
            )
        return Failure(
            status=Outcome.BIND_FAILED if self.cell.binding != "none" else Outcome.CRASHED,
            reason=f"cannot start {self.command[0]}: {error.strerror}",
            advice="check that it is installed",
        )

    def failure(self, end: ChildEnd) -> Failure | None:
        """Why it failed, with the end of its log; None if it succeeded."""
        tail = log_tail(self.logs[1])
        return judge(self.cell, end, self.read_report(), tail)


def workload_argv(file: Path, mode: Mode, report: Path, *options: str, of_group: bool = False) -> list[str]:
    """The command of the program inside a cell; file: of the cell, or of the group."""
    what = "--group" if of_group else "--cell"
    return python_module("bench.workload", what, str(file), "--mode", mode, "--result", str(report), *options)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """For files that the processes of a run exchange; in memory where possible."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    remove_stale(Path(place), "numastudy.*.scratch")
    return tempfile.TemporaryDirectory(prefix=f"numastudy.{process_identity()}.", suffix=".scratch", dir=place)


def log_tail(path: Path, begin: int = 0) -> list[str]:
    """The last lines of a log, however long it and its lines are. begin: without the bytes before."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(begin, file.tell() - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return []


def judge(cell: Cell, end: ChildEnd, report: ChildReport | None, log_tail: list[str]) -> Failure | None:
    """Why a run whose child ended so failed; None if it succeeded. report: what the child wrote, if it did."""

    def failed(status: Outcome, reason: str, advice: str) -> Failure:
        return Failure(status=status, reason=reason, advice=advice, log_tail=log_tail)

    if end.timed_out:
        return failed(
            Outcome.TIMEOUT,
            f"not finished after {exact_seconds(cell.timeout_s)}",
            "raise timeout_s, or lower num_samples; if it hangs, see the end of its log",
        )
    if end.log_overflow:
        return failed(
            Outcome.CRASHED,
            f"ended, since it wrote more than {MOST_LOG_BYTES >> 20} MiB into its log",
            "see the beginning of the log of the run",
        )
    if report and report.failure:
        return failed(report.failure.status, report.failure.reason, report.failure.advice)
    if end.exit_code == 0 and report and report.crossed:
        # Each of its cells has an outcome of its own.
        return None
    measured = (report.result or report.link) if report else None
    if end.exit_code == 0 and measured:
        misplaced = misplacement(measured.certificate)
        return failed(misplaced.status, misplaced.reason, misplaced.advice) if misplaced else None
    if cell.binding != "none" and (refused := explain_bind_failure(end.exit_code, "\n".join(log_tail), cell.mem_node)):
        return failed(refused.status, refused.reason, refused.advice)
    # Another signal is the run's own doing, whatever else the kernel killed meanwhile.
    if end.oom_kills > 0 and (end.exit_code in KILLED or 0 < end.exit_code < 128):
        if cell.binding == "numactl" and (killed := explain_kill(-signal.SIGKILL, cell.mem_node)):
            return failed(killed.status, killed.reason, killed.advice)
        return failed(
            Outcome.OOM,
            "killed by the kernel: the host is out of memory",
            "reduce memory_size_mb or batch_size, or free memory",
        )
    return failed(Outcome.CRASHED, how_it_ended(end.exit_code, log_tail), "see the log of the run")


def misplacement(certificate: Certificate | None) -> Failure | None:
    """The failure if the certificate contradicts the placement."""
    if certificate is None or certificate.verdict is not PlacementVerdict.MISPLACED:
        return None
    return Failure(
        status=Outcome.MISPLACED,
        reason="the placement is not the cell's: " + "; ".join(doubt.text for doubt in certificate.reasons),
        advice="the certificate in the run record names each buffer; numastudy doctor names what moves pages and "
        "threads",
    )


def how_it_ended(exit_code: int, log_tail: list[str]) -> str:
    last = next((line.strip() for line in reversed(log_tail) if line.strip()), "")
    output = f': "{last}"' if last else " without output"
    # A shell, numactl's child or nsys may pass a signal on as 128 + number.
    number = -exit_code if exit_code < 0 else exit_code - 128
    if 0 < number < 65:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "unknown"
        return f"killed by signal {number} ({name}){output}"
    return f"exit code {exit_code}{output}"
