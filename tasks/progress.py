"""Progress in the terminal and on the scheduler page."""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import luigi
from luigi.cmdline_parser import CmdlineParser

from bench.run.record import OK, read_head
from bench.study.directory import Grid, RunDirectory
from bench.study.order import Slot
from bench.study.plan import Standing, standing
from bench.units import rate
from tasks.luigi_runtime import Stopped, end_worker, in_worker

# --- terminal
# The terminal: lines, one live bar below them, and luigi's own words kept out of the way.

_ERASE = "\r\x1b[K"
_BAR_CELLS = 12


class Terminal:
    """A stream for people. Only where it is a terminal, and this process is in its foreground, is there a bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar = ""
        self.live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        glyphs = ("█", "░") if "utf" in (stream.encoding or "").lower() else ("#", ".")
        self._full, self._empty = glyphs

    def line(self, text: str) -> None:
        self._write((_ERASE if self.live else "") + text + "\n")
        self._bar = ""

    def bar(self, share: float, left: str, middle: str, right: str) -> None:
        """One line that the next one replaces. The middle gives way, from its left, where the terminal is narrow."""
        if not self.live or not self._in_foreground():
            return
        full = round(min(max(share, 0.0), 1.0) * _BAR_CELLS)
        head = self._full * full + self._empty * (_BAR_CELLS - full) + f" {left}  "
        tail = f"  {right}" if right else ""
        room = self._columns() - 1 - len(head) - len(tail)
        if len(middle) > room:
            middle = "..." + middle[len(middle) - room + 3 :] if room > 3 else ""
        text = (head + middle + tail)[: self._columns() - 1]
        if text != self._bar:
            self._write(_ERASE + text)
            self._bar = text

    def clear(self) -> None:
        """Make room for whatever somebody else, in this process or another, is about to write."""
        if self.live and self._in_foreground():
            self._write(_ERASE)
            self._bar = ""

    def _columns(self) -> int:
        with suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        return 80

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except OSError:
            # A terminal that controls no session has no foreground.
            return True

    def _write(self, text: str) -> None:
        # A terminal that has gone away must not cost a measurement.
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def terminal() -> Terminal:
    """stderr, where progress belongs; stdout where only that is a terminal."""
    return _terminal_on(sys.stdout if sys.stdout.isatty() and not sys.stderr.isatty() else sys.stderr)


@lru_cache(maxsize=4)
def _terminal_on(stream: TextIO) -> Terminal:
    return Terminal(stream)


def hush_luigi() -> None:
    """Of luigi's own words show warnings, failures and the summary, unless its user asked for a log level."""
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(known, _Hush) for known in logger.filters):
        logger.addFilter(_Hush())


class _Hush(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        shown = record.levelno >= logging.WARNING or "Luigi Execution Summary" in str(record.msg) or log_level_given()
        if shown:
            terminal().clear()
        return shown


def log_level_given() -> bool:
    parser = CmdlineParser.get_instance()
    on_command_line = parser is not None and parser.known_args.core_log_level
    return bool(on_command_line) or luigi.configuration.get_config().has_option("core", "log_level")


# --- watching
# What a person at a terminal sees of a study: a line for each run that ended, and a live bar with the time left.

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


# --- reporting
# Tell the scheduler how far a run is. Best effort: a scheduler that is gone must not cost a measurement.

class Reporter:
    """Sends the newest message and percentage from a thread of its own: a call to a dead luigid blocks for a minute."""

    def __init__(self, task: Any, interval_s: float = 1.0) -> None:
        self._set_message, self._set_percent = task.set_status_message, task.set_progress_percentage
        self._set_url = task.set_tracking_url
        self._interval_s = interval_s
        self._newest: tuple[str, int] | None = None
        self._url = ""
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def __call__(self, message: str, percent: int) -> None:
        self._newest = (message, percent)

    def link(self, url: str) -> None:
        self._url = url

    def close(self) -> None:
        """Stop sending; wait a moment for a last message, never for a dead scheduler."""
        self._ended = True
        self._wake.set()
        self._thread.join(2.0)

    def _send(self) -> None:
        sent: tuple[str, int] | None = None
        linked = ended = False
        while not ended:
            self._wake.wait(self._interval_s)
            # Once more after the end: the last message is the outcome.
            ended = self._ended
            try:
                if self._url and not linked:
                    self._set_url(self._url)
                    linked = True
                newest = self._newest
                if newest and newest != sent:
                    # The page shows no message while the percentage is 0.
                    self._set_percent(max(1, newest[1]))
                    self._set_message(newest[0])
                    sent = newest
            except Exception:
                # Whatever the scheduler's client raises: the next second is another chance.
                continue


@contextmanager
def reporting(task: Any) -> Iterator[Reporter]:
    """A reporter for what goes on inside. A stop that comes meanwhile leaves a forked worker at once."""
    reporter = Reporter(task)
    try:
        yield reporter
    except Stopped as stopped:
        if in_worker():
            end_worker(stopped)
        raise
    finally:
        reporter.close()


def link_task(task: Any, path: Path, output_dir: Path) -> None:
    """Let the task's link on the page lead to this file. Luigi takes it only from inside run()."""
    reporter = Reporter(task)
    reporter.link(outputs_url(path, output_dir))
    reporter.close()


def outputs_url(path: Path, output_dir: Path) -> str:
    """http address of a file below the output directory, where `make ui` serves it; "" if nothing serves it.

    Browsers do not follow file: links from an http page.
    """
    base = luigi.configuration.get_config().get("numastudy", "outputs_url", "")
    return f"{base.rstrip('/')}/{quote(str(path.relative_to(output_dir)))}" if base else ""
