"""What a person at a terminal sees of a study: a line for each run that ended, and a live bar with the time left."""

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import luigi

from bench.results.words import rate
from bench.run.record import OK, read_head
from bench.run.remaining import Standing, standing
from bench.study.directory import Grid, RunDirectory
from bench.study.order import Slot
from tasks.terminal import terminal

# The stages that take seconds and report nothing themselves.
_STAGES = {
    "ExportSpan": "exporting traces",
    "ExportSqlite": "exporting the trace",
    "ExtractLatency": "reading the trace",
    "ExtractSpan": "reading traces",
    "MeasureLink": "measuring a link",
    "MoreRepeats": "asking whether more repeats are needed",
    "Probe": "probing locality",
    "ProbeAgain": "probing locality again",
    "StudyReport": "writing the report",
}

# Within so many seconds runs are only counted.
LOOK_S = 1.0


class RunOnTerminal:
    """One run, from its start to its line."""

    def __init__(self, directory: RunDirectory, grid: Grid, slot: Slot, what: str, invocation: str) -> None:
        self._directory, self._grid, self._slot, self._invocation = directory, grid, slot, invocation
        self._what = what
        self._terminal = terminal()
        self._since = time.monotonic()
        self._standing = self._stand(slot)
        self._waiting = WaitOnTerminal()
        self._begun = False

    def __call__(self, text: str, percent: int) -> None:
        if text.startswith("waiting for"):
            self._wait(text)
            return
        if not self._begun:
            # Time spent waiting for the host is no time of this run.
            self._since, self._begun = time.monotonic(), True
        self._draw(f"{short(self._slot.cell)} {self._what}, {text}", percent / 100)

    def ended(self, record: dict[str, Any]) -> None:
        now = _looks.counted(self._directory) or self._stand(None)
        width = max(map(len, self._grid.cells))
        count = f"{now.done:{len(str(now.total))}}/{now.total}"
        words = [count, f"{self._slot.cell:{width}}", self._what, outcome(record)]
        self._terminal.line("  ".join([*words, f"{record['wall_s']:.1f} s", *_eta(now.left_s(0.0), now)]))

    def clear(self) -> None:
        self._terminal.clear()

    def _wait(self, text: str) -> None:
        if self._terminal.live:
            self._draw(text, 0.0)
        else:
            self._waiting(text)

    def _draw(self, middle: str, share: float) -> None:
        where = self._standing
        elapsed_s = time.monotonic() - self._since if self._begun else 0.0
        left, eta = f"{where.done}/{where.total}", _eta(where.left_s(elapsed_s), where)
        self._terminal.bar((where.done + share) / max(where.total, 1), left, middle, "".join(eta))

    def _stand(self, current: Slot | None) -> Standing:
        return _looks.recent(self._directory) or _looks.keep(
            self._directory, study_standing(self._directory, self._grid, self._slot, self._invocation, current)
        )


class WaitOnTerminal:
    """For whom a measurement waits: one line for each whom it waits for, or the bar."""

    def __init__(self) -> None:
        self._shown = ""

    def __call__(self, text: str) -> None:
        if terminal().live:
            terminal().bar(0.0, "waiting", text, "")
        elif text != self._shown:
            terminal().line(text)
        self._shown = text


class _Looks:
    """When and what was last seen of each study. Looking at thousands of records takes a while."""

    def __init__(self) -> None:
        self._seen: dict[RunDirectory, tuple[float, Standing]] = {}

    def recent(self, directory: RunDirectory) -> Standing | None:
        at_s, seen = self._seen.get(directory, (0.0, None))
        return seen if time.monotonic() - at_s < LOOK_S else None

    def counted(self, directory: RunDirectory) -> Standing | None:
        """What was seen within LOOK_S, and that one more run has ended since."""
        seen = self.recent(directory)
        if seen is None:
            return None
        done = seen.done + 1
        now = replace(seen, done=done, total=max(seen.total, done), current_s=None if seen.current_s is None else 0.0)
        self._seen[directory] = self._seen[directory][0], now
        return now

    def keep(self, directory: RunDirectory, seen: Standing) -> Standing:
        self._seen[directory] = time.monotonic(), seen
        return seen


_looks = _Looks()


def study_standing(
    directory: RunDirectory, grid: Grid, present: Slot | None, invocation: str, current: Slot | None
) -> Standing:
    """Where the study stands on disk. Repeats beyond its own count once they are there, or are `present`."""
    asked = {*grid.asked(directory.study()["repeats"])}
    records = {}
    for slot, path in _paths(directory).items():
        record = read_head(path)
        if record or slot in asked or slot == present:
            records[slot] = record
    return standing(records, invocation, [name for name, cell in grid.cells.items() if cell.reason], current)


@lru_cache(maxsize=4)
def _paths(directory: RunDirectory) -> dict[Slot, Path]:
    return {slot: directory.record(slot.cell, slot.repeat) for slot in directory.grid().order}


def outcome(record: dict[str, Any]) -> str:
    """ "ok, 12,345 samples/s", or why not."""
    tries = f" ({record['attempts']} attempts)" if record["attempts"] > 1 else ""
    if record["status"] == OK:
        return f"ok, {rate(record['result']['throughput_samples_s'])} samples/s{tries}"
    return " ".join(f"{record['status']}: {record['reason']}{tries}".split())


def short(cell: str) -> str:
    return cell.removeprefix("pipeline_")


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours = whole // 60, whole // 3600
    return f"{minutes} min {whole % 60} s" if not hours else f"{hours} h {minutes % 60} min"


def _eta(left_s: float | None, where: Standing) -> list[str]:
    return [f"ETA {duration(left_s)}"] if left_s is not None and where.done < where.total else []


@luigi.Task.event_handler(luigi.Event.START)
def _show_stage(task: luigi.Task) -> None:
    words = _STAGES.get(type(task).__name__)
    if words and terminal().live:
        terminal().bar(
            1.0 if getattr(task, "when", "") != "before" else 0.0, words, short(getattr(task, "cell", "")), ""
        )


@luigi.Task.event_handler(luigi.Event.SUCCESS)
def _hide_stage(task: luigi.Task) -> None:
    if type(task).__name__ in _STAGES:
        terminal().clear()
