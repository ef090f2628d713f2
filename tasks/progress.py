"""Progress of a study: a line for each run that ended and a live bar in the terminal, a message on luigi's page."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import luigi

from bench import units
from bench.records.run import Run
from bench.records.study import Grid, Slot
from bench.run.progress import Progress, RunState
from bench.study.directory import RunDirectory
from bench.study.progress import StudyProgress, read_progress
from bench.terminal import visible
from tasks.luigi_runtime import INVOCATION, Stopped, in_worker

# message, percent
Report = Callable[[str, int], None]

_ERASE = "\r\x1b[K"
_BAR_CELLS = 12
# Runs that ended are read at most this often, and only counted in between: reading thousands of records takes a while.
READ_INTERVAL_S = 1.0
SEND_INTERVAL_S = 1.0


class Terminal:
    """A stream for people. The bar is drawn only on a terminal, while this process is in its foreground."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar = ""
        self.live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._full, self._empty = ("█", "░") if "utf" in (stream.encoding or "").lower() else ("#", ".")

    def line(self, text: str) -> None:
        self._write((_ERASE if self.live else "") + visible(text) + "\n")
        self._bar = ""

    def bar(self, share: float, left: str, middle: str, right: str) -> None:
        """One line, which the next one replaces. On a narrow terminal the middle is cut, from its left."""
        if not self.live or not self._in_foreground():
            return
        full = round(min(max(share, 0.0), 1.0) * _BAR_CELLS)
        head = self._full * full + self._empty * (_BAR_CELLS - full) + f" {left}  "
        tail = f"  {right}" if right else ""
        width = self._columns() - 1 - len(head) - len(tail)
        if len(middle) > width:
            middle = "..." + middle[len(middle) - width + 3 :] if width > 3 else ""
        text = visible(head + middle + tail)[: self._columns() - 1]
        if text != self._bar:
            self._write(_ERASE + text)
            self._bar = text

    def clear(self) -> None:
        """Remove the bar, before this process or another one writes to the terminal."""
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
        # A closed terminal must not cost a measurement.
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def terminal() -> Terminal:
    """stderr, where progress belongs; stdout if only that is a terminal."""
    return _terminal_on(sys.stdout if sys.stdout.isatty() and not sys.stderr.isatty() else sys.stderr)


@lru_cache(maxsize=4)
def _terminal_on(stream: TextIO) -> Terminal:
    return Terminal(stream)


class RunProgress:
    """The runs of one process in the terminal, from its start to their lines."""

    def __init__(self, directory: RunDirectory, grid: Grid, slots: Sequence[Slot], title: str) -> None:
        self._directory, self._grid, self._slots, self._title = directory, grid, slots, title
        self._label = slots[0].group if slots[0].birth else units.cell_label(slots[0].cell)
        self._terminal = terminal()
        self._since = time.monotonic()
        self._progress = self._read(slots)
        self._waiting = WaitProgress()
        self._started = False

    def __call__(self, progress: Progress) -> None:
        if progress.state is RunState.WAITING:
            self._wait(progress.text)
            return
        if not self._started:
            # The time spent waiting for the host is not part of the run.
            self._since, self._started = time.monotonic(), True
        self._draw(f"{self._label} {self._title}, {progress.text}", progress.percent / 100)

    def ended(self, records: Sequence[Run]) -> None:
        now = _seen.count(self._directory, len(records)) or self._read(())
        width = max(len(cell.name) for cell in self._grid.cells)
        for left, record in zip(reversed(range(len(records))), records, strict=True):
            columns = [
                f"{now.done - left:{len(str(now.total))}}/{now.total}",
                f"{record.cell:{width}}",
                self._title,
                outcome_text(record),
            ]
            if not left:
                # The cells of a crossing are one process, which took this time for all of them.
                cells = f" for {units.plural(len(records), 'cell')}" if len(records) > 1 else ""
                columns += [units.duration(record.wall_s) + cells, *_eta(now.remaining_s(0.0), now, at_most=True)]
            self._terminal.line("  ".join(columns))

    def clear(self) -> None:
        self._terminal.clear()

    def _wait(self, text: str) -> None:
        if self._terminal.live:
            self._draw(text, 0.0)
        else:
            self._waiting(text)

    def _draw(self, middle: str, share: float) -> None:
        now = self._progress
        elapsed_s = time.monotonic() - self._since if self._started else 0.0
        eta = "".join(_eta(now.remaining_s(elapsed_s), now))
        self._terminal.bar((now.done + share) / max(now.total, 1), f"{now.done}/{now.total}", middle, eta)

    def _read(self, current: Collection[Slot]) -> StudyProgress:
        recent = _seen.recent(self._directory)
        return recent or _seen.keep(
            self._directory, read_progress(self._directory, self._grid, INVOCATION, self._slots, current)
        )


class WaitProgress:
    """What a measurement waits for: a line for each, or the bar."""

    def __init__(self) -> None:
        self._shown = ""

    def __call__(self, text: str) -> None:
        if terminal().live:
            terminal().bar(0.0, "waiting", text, "")
        elif text != self._shown:
            terminal().line(text)
        self._shown = text


class _Seen:
    """The last progress of each study that was read, and when."""

    def __init__(self) -> None:
        self._at: dict[RunDirectory, tuple[float, StudyProgress]] = {}

    def recent(self, directory: RunDirectory) -> StudyProgress | None:
        at_s, seen = self._at.get(directory, (0.0, None))
        return seen if time.monotonic() - at_s < READ_INTERVAL_S else None

    def count(self, directory: RunDirectory, ended: int) -> StudyProgress | None:
        """The recent progress and the runs that ended since; None if it is too old."""
        seen = self.recent(directory)
        if seen is None:
            return None
        done = seen.done + ended
        now = replace(seen, done=done, total=max(seen.total, done), current_s=None if seen.current_s is None else 0.0)
        self._at[directory] = self._at[directory][0], now
        return now

    def keep(self, directory: RunDirectory, seen: StudyProgress) -> StudyProgress:
        self._at[directory] = time.monotonic(), seen
        return seen


_seen = _Seen()


def outcome_text(record: Run) -> str:
    """ "ok, 12,345 samples/s", or why there is no result."""
    attempts = f" ({record.attempts} attempts)" if record.attempts > 1 else ""
    if record.ok:
        metric = record.metric
        measured = f"{units.rate(metric.value)} {metric.unit}" if metric else f"{units.rate(record.rate)} samples/s"
        return f"ok, {measured}{attempts}"
    return " ".join(f"{record.status}: {record.reason}{attempts}".split())


def _eta(remaining_s: float | None, now: StudyProgress, at_most: bool = False) -> list[str]:
    """at_most: also with all repeats that can be demanded."""
    if remaining_s is None or now.done >= now.total:
        return []
    expected, most = units.duration(remaining_s), units.duration(remaining_s + now.spare_s)
    return [f"ETA {expected}, at most {most}" if at_most and most != expected else f"ETA {expected}"]


def install() -> None:
    """Keep luigi's log and the bar apart; after the log's other filters, which decide what is shown."""
    logging.getLogger("luigi-interface").addFilter(_ClearBar())


class _ClearBar(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        terminal().clear()
        return True


@luigi.Task.event_handler(luigi.Event.START)
def _show_activity(task: luigi.Task) -> None:
    activity = getattr(task, "activity", "")
    if activity and terminal().live:
        terminal().bar(getattr(task, "share_done", 1.0), activity, units.cell_label(getattr(task, "cell", "")), "")


@luigi.Task.event_handler(luigi.Event.SUCCESS)
def _hide_activity(task: luigi.Task) -> None:
    if getattr(task, "activity", ""):
        terminal().clear()


# luigi's page


class Reporter:
    """Sends the newest message and percentage to the scheduler, from its own thread: a call to a dead luigid blocks.

    Best effort: a lost scheduler must not cost a measurement.
    """

    def __init__(self, task: Any) -> None:
        self._set_message, self._set_percent = task.set_status_message, task.set_progress_percentage
        self._set_url = task.set_tracking_url
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
        """Stop sending; wait shortly for the last message, but not for a dead scheduler."""
        self._ended = True
        self._wake.set()
        self._thread.join(2.0)

    def _send(self) -> None:
        sent: tuple[str, int] | None = None
        linked = ended = False
        while not ended:
            self._wake.wait(SEND_INTERVAL_S)
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
                # Any error of the scheduler's client: it is tried again in a second.
                continue


@contextmanager
def reporting(task: luigi.Task) -> Iterator[Reporter]:
    """A reporter for the time inside. A forked worker that is stopped meanwhile exits at once: multiprocessing would
    print a traceback."""
    reporter = Reporter(task)
    try:
        yield reporter
    except Stopped as stopped:
        if in_worker():
            os._exit(128 + stopped.number)
        raise
    finally:
        reporter.close()


def link_task(task: luigi.Task, path: Path, output_dir: Path) -> None:
    """Link the task on the page to this file. luigi accepts a link only from inside run()."""
    reporter = Reporter(task)
    reporter.link(outputs_url(path, output_dir))
    reporter.close()


def outputs_url(path: Path, output_dir: Path) -> str:
    """http address of a file below the output directory, where `make ui` serves it; "" if nothing serves it.

    Browsers do not follow file: links from an http page.
    """
    base = luigi.configuration.get_config().get("numastudy", "outputs_url", "")
    return f"{base.rstrip('/')}/{quote(str(path.relative_to(output_dir)))}" if base else ""
