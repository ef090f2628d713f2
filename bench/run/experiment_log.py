"""logs/experiment.log: one line for each run, in the order they ended."""

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from bench.run.record import read_record
from bench.study.directory import RunDirectory


def log_runs(directory: RunDirectory, records: Iterable[dict[str, Any]]) -> None:
    """Add the lines of these runs that are not there yet. Never raises: the records are what counts."""
    with suppress(OSError), directory.experiment_log.open("a+", encoding="utf-8", errors="replace") as log:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(log, fcntl.LOCK_EX)
        log.seek(0)
        text = log.read()
        known = set(text.splitlines())
        new = [line for line in map(_line, records) if line not in known]
        if new:
            # After a power loss the last line may be half of one.
            log.write("".join(("\n" if text and not text.endswith("\n") else "", *(f"{line}\n" for line in new))))
            log.flush()
            os.fsync(log.fileno())


def log_what_is_missing(directory: RunDirectory) -> None:
    """A run that was killed between its record and its line has the line now."""
    records = map(read_record, directory.path.glob("runs/*.json"))
    ended = [record for record in records if record and "ended_at" in record]
    log_runs(directory, sorted(ended, key=lambda record: record["ended_at"]))


def _line(record: dict[str, Any]) -> str:
    rate = (record.get("result") or {}).get("throughput_samples_s")
    said = f"{rate:,.0f} samples/s" if rate and record["status"] == "ok" else record["reason"]
    words = f"{record['ended_at'].replace('T', ' ')} {record['run']} {record['status']} {record['wall_s']:.1f} s {said}"
    return " ".join(words.split())
