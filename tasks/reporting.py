"""Tell the scheduler how far a run is. Best effort: a scheduler that is gone must not cost a measurement."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import luigi

from tasks.stopping import Stopped, end_worker, in_worker


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
