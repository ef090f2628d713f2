"""logs/experiment.log and the progress of a run."""

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.run.record import read_record
from bench.study.directory import RunDirectory
from bench.workload.barrier import LAYOUT, read_progress

# --- experiment_log
# logs/experiment.log: one line for each run, in the order they ended.

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


# --- progress
# How far the child is: from its batch counter to a percentage and a line for people.

_PHASES = ("starting", "warm-up", "measuring", "finishing")
# Where each phase begins in the percentage of the whole run. luigi's page hides the message at 0.
_BEGINS = (1, 5, 15, 95, 99)


class Progress:
    """The counter of one child, in a file that both map. Moves with the batches, never with the clock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._furthest = 0
        self._seen = (0, 0)
        self._again = False
        path.write_bytes(bytes(LAYOUT.size))

    def read(self) -> tuple[str, int]:
        """("measuring 40 %", percent of the run). The percentage never falls, though windows found too short are
        measured again: then ("measuring again 10 %", as before)."""
        done, expected, phase = read_progress(self._path.read_bytes())
        phase = min(phase, len(_PHASES) - 1)
        self._again = phase == self._seen[0] and (self._again or done < self._seen[1])
        self._seen = (phase, done)
        share = min(done / expected, 1.0) if expected else 0.0
        begin, end = _BEGINS[phase], _BEGINS[phase + 1]
        self._furthest = max(self._furthest, int(begin + share * (end - begin)))
        text = (
            _PHASES[phase]
            + (" again" if self._again else "")
            + (f" {share:.0%}".replace("%", " %") if expected else "")
        )
        return text, self._furthest
