"""One process of a run: its command, and what became of it."""

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.files import read_json, sweep
from bench.host.binding import bind_prefix
from bench.owners import owner
from bench.run.child import ChildEnd, Start, child_environment, run_child
from bench.run.lock import HostLock
from bench.run.outcome import judge
from bench.run.record import BIND_FAILED, CRASHED, failure
from bench.study.cell import Cell

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
    sweep(Path(place), "numastudy.*.scratch")
    return tempfile.TemporaryDirectory(prefix=f"numastudy.{owner()}.", suffix=".scratch", dir=place)


def log_tail(path: Path) -> list[str]:
    """The last lines of a log, however long it and its lines are."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return []
