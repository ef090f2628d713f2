"""The child process: session, limits, log, timeout, death signal, process tree."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from bench.errors import StudyError
from bench.host.binding import KILLED, bind_prefix, explain_bind_failure, explain_kill
from bench.records.study import Cell
from bench.run.lock import HostLock
from bench.run.processes import adopt_orphans, die_with, end_adopted, end_session, start_ticks
from bench.run.record import BIND_FAILED, CRASHED, MISPLACED, OK, OOM, TIMEOUT, failure
from bench.storage import process_identity, read_json, remove_stale

# --- child
# Start one measured process in a session of its own, watch it, and leave nothing of it behind.

# A run that writes more than this into a log is ended: it would fill the disk, and it measures its own writing.
MOST_LOG_BYTES = 64 << 20
# How long what a child leaves behind, such as the agent of nsys, may take to end by itself.
GRACE_S = 1.0

# The children that this process watches now: peers measure side by side, each watched by a thread.
_watched: set[int] = set()

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


@dataclass(frozen=True)
class ChildEnd:
    """exit_code: as of subprocess, negative for a signal. oom_kills: of the kernel while the child ran.
    flooded: it was ended since it wrote MOST_LOG_BYTES into a log.
    """

    exit_code: int
    timed_out: bool
    wall_s: float
    oom_kills: int
    flooded: bool = False


@dataclass(frozen=True)
class Launch:
    """What is to be started. keep_descriptors: open in the child too; cpus: what it may use."""

    argv: list[str]
    environment: dict[str, str]
    stdout: BinaryIO
    stderr: BinaryIO
    keep_descriptors: tuple[int, ...]
    cpus: frozenset[int]


class Child(Protocol):
    """A process that leads a session of its own, as subprocess.Popen shows it."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class NotStarted(Exception):
    """What was to start the child ended first, or took too long; why is in the log of the run."""

    def __init__(self, exit_code: int, timed_out: bool = False) -> None:
        super().__init__(exit_code)
        self.exit_code, self.timed_out = exit_code, timed_out


# Given the seconds that it may take; returns the child and the clock tick in which that started. Raises OSError or
# NotStarted.
Start = Callable[[Launch, float], tuple[Child, int]]


def child_environment(environment: dict[str, str]) -> dict[str, str]:
    """The allow-listed part of `environment`, and GPUs numbered as nvidia-smi and sysfs number them."""
    kept = {key: value for key, value in environment.items() if key in ALLOWED_VARIABLES}
    return kept | {
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
) -> ChildEnd:
    """Run argv to its end, its timeout or an exception in here; in each case its whole session is gone after.

    logs: files for stdout and stderr. on_poll is called every poll_s. cpus: what the child may use, if not what this
    process may use now. start: of a fork server, else argv is executed. Raise OSError if argv[0] cannot be started.
    """
    oom_before = _oom_kills()
    begin = time.monotonic()

    def ended(exit_code: int, timed_out: bool, flooded: bool = False) -> ChildEnd:
        return ChildEnd(exit_code, timed_out, time.monotonic() - begin, _oom_kills() - oom_before, flooded)

    adopt_orphans()
    mode = "ab" if append_logs else "wb"
    with logs[0].open(mode) as stdout, logs[1].open(mode) as stderr:
        room = Room((stdout, stderr))
        allowed = frozenset(cpus or os.sched_getaffinity(0))
        launch = Launch(argv, environment, stdout, stderr, keep_descriptors, allowed)
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
                if timed_out or room.is_used_up():
                    break
                on_poll()
                try:
                    child.wait(poll_s)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            # The child, and whatever it started and left behind.
            end_session(child.pid, since)
            child.wait()
            _watched.discard(child.pid)
            if not _watched:
                # What left its session. Not beside a peer, which would be taken for something left behind.
                end_adopted(since, 0.0 if timed_out else GRACE_S)
        flooded = room.is_used_up()
        room.cut()
    return ended(child.returncode, timed_out, flooded)


class Room:
    """What the logs of one child may take of the disk."""

    def __init__(self, logs: tuple[BinaryIO, ...]) -> None:
        self._most = {log.fileno(): os.fstat(log.fileno()).st_size + MOST_LOG_BYTES for log in logs}

    def is_used_up(self) -> bool:
        return any(os.fstat(log).st_size > most for log, most in self._most.items())

    def cut(self) -> None:
        for log, most in self._most.items():
            if os.fstat(log).st_size > most:
                os.ftruncate(log, most)


def _execute(launch: Launch, _limit_s: float) -> tuple[Child, int]:
    before = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    child = start_process(launch)
    return child, start_ticks(child.pid) or before


def start_process(launch: Launch) -> subprocess.Popen[bytes]:
    """A new interpreter, or whatever argv names, in a session of its own that ends with the calling thread."""
    parent = os.getpid()
    return subprocess.Popen(
        launch.argv,
        env=launch.environment,
        stdin=subprocess.DEVNULL,
        stdout=launch.stdout,
        stderr=launch.stderr,
        start_new_session=True,
        pass_fds=launch.keep_descriptors,
        preexec_fn=lambda: _prepare(parent, launch.cpus),
    )


def _prepare(parent: int, cpus: frozenset[int]) -> None:
    # If the parent is killed with SIGKILL nobody is left to end the child: let the kernel do it.
    die_with(parent)
    # numactl binds only to CPUs the process may use already; the parent may have moved aside.
    os.sched_setaffinity(0, cpus)


def _oom_kills() -> int:
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


# --- outcome
# What became of a run: from how the child ended to an outcome with a reason and what to do.

def judge(cell: Cell, end: ChildEnd, result: dict[str, Any] | None, log_tail: list[str]) -> dict[str, Any]:
    """{"status", "reason", "advice"} of a run whose child ended so. result: what the child wrote, if it did."""
    if end.timed_out:
        return failure(
            TIMEOUT,
            f"not finished after {cell.timeout_s:g} s",
            "raise timeout_s, or lower num_samples; if it hangs, the end of its log says where",
        )
    if end.flooded:
        return failure(
            CRASHED,
            f"ended, since it wrote more than {MOST_LOG_BYTES >> 20} MiB into its log",
            "the log of the run begins with what it repeats",
        )
    if result and result.get("status") not in (None, OK):
        return failure(result["status"], result["reason"], result["advice"])
    if end.exit_code == 0 and result:
        return _judge_placement(result)
    if cell.binding == "numactl":
        refused = explain_bind_failure(end.exit_code, "\n".join(log_tail))
        if refused:
            return failure(BIND_FAILED, refused.reason, refused.advice)
    # Another signal is the run's own doing, whatever else the kernel killed meanwhile.
    if end.oom_kills > 0 and (end.exit_code in KILLED or 0 < end.exit_code < 128):
        killed = explain_kill(-signal.SIGKILL, cell.mem_node) if cell.binding == "numactl" else None
        return failure(
            *(
                (killed.status, killed.reason, killed.advice)
                if killed
                else (
                    OOM,
                    "killed by the kernel: the host is out of memory",
                    "reduce memory_size_mb or batch_size, or free memory",
                )
            )
        )
    return failure(CRASHED, _how_it_ended(end.exit_code, log_tail), "see the log of the run")


def _judge_placement(result: dict[str, Any]) -> dict[str, Any]:
    certificate = result.get("certificate") or {}
    if certificate.get("verdict") != MISPLACED:
        return failure(OK, "")
    return failure(
        MISPLACED,
        "the run was not where its label says: " + "; ".join(doubt["text"] for doubt in certificate["reasons"]),
        "the certificate in the run record names each buffer; numastudy doctor names what moves pages and threads",
    )


def _how_it_ended(exit_code: int, log_tail: list[str]) -> str:
    last = next((line.strip() for line in reversed(log_tail) if line.strip()), "")
    said = f': "{last}"' if last else " and said nothing"
    # A shell, numactl's child or nsys may pass a signal on as 128 + number.
    number = -exit_code if exit_code < 0 else exit_code - 128
    if 0 < number < 65:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "unknown"
        return f"killed by signal {number} ({name}){said}"
    return f"exit code {exit_code}{said}"


# --- process
# One process of a run: its command, and what became of it.

LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Process:
    """argv: without its binding. logs: stdout and stderr. result: where the workload writes."""

    cell: Cell
    argv: list[str]
    logs: tuple[Path, Path]
    result: Path

    @property
    def command(self) -> list[str]:
        return [*bind_prefix(self.cell.binding, self.cell.cpu_node, self.cell.mem_node), *self.argv]

    def wrapped(self, wrap: Callable[[list[str]], list[str]]) -> "Process":
        """As a profiler starts it."""
        return replace(self, argv=wrap(self.argv))

    def read_result(self) -> dict[str, Any] | None:
        return read_json(self.result) if self.result.exists() else None

    def run(
        self,
        lock: HostLock,
        cpus: set[int],
        on_poll: Callable[[], None] = lambda: None,
        timeout_s: float | None = None,
        append_logs: bool = False,
        start: Start | None = None,
    ) -> ChildEnd:
        """Until it ends, known to the host's lock and holding it. timeout_s: if not the cell's. The others and what is
        raised: as of run_child.
        """
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

    def failed(self, error: OSError) -> dict[str, Any]:
        """status, reason, advice where run raised this. Raise StudyError for a log that cannot be written."""
        if error.filename in map(str, self.logs):
            # Not the run's fault, and no record of it could be written either.
            raise StudyError(
                f"cannot write: {error.strerror}", error.filename, "make room or mend the permissions"
            ) from None
        if error.filename != self.command[0]:
            return failure(CRASHED, f"while it ran: {error}", "the next call measures it again")
        status = BIND_FAILED if self.cell.binding == "numactl" else CRASHED
        return failure(status, f"cannot start {self.command[0]}: {error.strerror}", "check that it is installed")

    def outcome(self, end: ChildEnd) -> dict[str, Any]:
        """status, reason, advice; with the log's end where it failed."""
        tail = log_tail(self.logs[1])
        outcome = judge(self.cell, end, self.read_result(), tail)
        return outcome if outcome["status"] == "ok" else outcome | {"log_tail": tail}


def workload_argv(cell_file: Path, mode: str, result: Path, *options: str) -> list[str]:
    """The command of the program inside a cell."""
    program = [sys.executable, "-m", "bench.workload"]
    return [*program, "--cell", str(cell_file), "--mode", mode, "--result", str(result), *options]


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """For what a run's processes leave each other; in memory where there is such a place."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    remove_stale(Path(place), "numastudy.*.scratch")
    return tempfile.TemporaryDirectory(prefix=f"numastudy.{process_identity()}.", suffix=".scratch", dir=place)


def log_tail(path: Path) -> list[str]:
    """The last lines of a log, however long it and its lines are."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return []
