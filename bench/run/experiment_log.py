"""logs/experiment.log: one line for each run, in the order they ended."""

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress

from bench.records.run import Run, read_record
from bench.study.directory import RunDirectory
from bench.units import duration, rate


def log_runs(directory: RunDirectory, records: Iterable[Run]) -> None:
    """Add the lines of these runs that are missing. Never raises: only the records matter."""
    with suppress(OSError), directory.experiment_log.open("a+", encoding="utf-8", errors="replace") as log:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(log, fcntl.LOCK_EX)
        log.seek(0)
        text = log.read()
        known = set(text.splitlines())
        new = [line for line in map(_line, records) if line not in known]
        if new:
            # After a power loss the last line may be incomplete.
            log.write("".join(("\n" if text and not text.endswith("\n") else "", *(f"{line}\n" for line in new))))
            log.flush()
            os.fsync(log.fileno())


def log_missing_runs(directory: RunDirectory) -> None:
    """Add the line of a run whose process was killed between its record and its line."""
    records = (read_record(path, Run) for path in directory.path.glob("runs/*.json"))
    ended = [record for record in records if record and record.ended_at]
    log_runs(directory, sorted(ended, key=lambda record: record.ended_at))


def _line(run: Run) -> str:
    measured = f"{rate(run.metric.value)} {run.metric.unit}" if run.metric else f"{rate(run.rate)} samples/s"
    outcome = measured if run.ok else run.reason
    line = f"{run.ended_at.replace('T', ' ')} {run.run} {run.status} {duration(run.wall_s)} {outcome}"
    return " ".join(line.split())
