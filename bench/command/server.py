"""The server beside a command: started before it, ready when it says so, and ended after it."""

import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from bench.command.reading import Output
from bench.run.child import ChildEnd

POLL_S = 0.1
# For a server that was asked to stop; its guard gives the command in it a little less.
STOP_S = 12.0
_ANSWER_S = 2.0
_LARGEST_LINE = 1 << 16


class Stopped(Exception):
    """Raised in the thread of a server that did not end when it was asked to."""


class NotReady(Exception):
    """end: of the server, None if it still ran. why: the last answer."""

    def __init__(self, end: ChildEnd | None, why: str) -> None:
        super().__init__(why)
        self.end, self.why = end, why


class Server:
    """Started and ended inside the with-block, in a thread that waits for it: the kernel ends a child with its thread.

    run: starts it and returns when it ended; given what to call with the id of the process, and at each poll.
    on_start: called with the id too.
    """

    def __init__(
        self,
        run: Callable[[Callable[[int], None], Callable[[], None]], ChildEnd],
        on_start: Callable[[int], None],
    ) -> None:
        self._record = on_start
        self._stop = threading.Event()
        self._asked_at: float | None = None
        self.guard = 0
        self._run = run
        self._end: ChildEnd | None = None
        self._error: Exception | None = None
        # Not of a pool, whose threads wait for more work: a signal that raises while one starts would leave it waiting.
        self._thread = threading.Thread(target=self._serve, name="server")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.ident is None:
            return
        try:
            self._thread.join()
        except BaseException:
            # Of a signal that ends this program: what it has started ends first.
            self._thread.join()
            raise

    def start(self) -> None:
        # Not before the block: a signal that ends this program may raise anywhere.
        self._thread.start()

    def end(self) -> ChildEnd | None:
        """How it ended; None while it runs, and if it was stopped. Raise OSError if it could not be started."""
        if self._stop.is_set():
            return None
        if self._error:
            raise self._error
        return self._end

    def end_within(self, seconds: float) -> ChildEnd | None:
        """As end(), of one that is perhaps about to end."""
        deadline = time.monotonic() + seconds
        while (end := self.end()) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return end

    def wait_until_ready(self, check: Callable[[], str], timeout_s: float, report: Callable[[], None]) -> float:
        """Seconds until check() returned "", which otherwise says why it is not ready. Raise NotReady."""
        began, why = time.monotonic(), "not asked yet"
        while True:
            if end := self.end():
                raise NotReady(end, why)
            why = check()
            waited = time.monotonic() - began
            if not why:
                return waited
            if waited > timeout_s:
                raise NotReady(None, why)
            report()
            time.sleep(POLL_S)

    def _serve(self) -> None:
        try:
            self._end = self._run(self._on_start, self._poll)
        except Exception as error:
            self._error = error

    def _on_start(self, pid: int) -> None:
        self.guard = pid
        self._record(pid)

    def _poll(self) -> None:
        if not self._stop.is_set():
            return
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            os.kill(self.guard, signal.SIGTERM)
        elif time.monotonic() - self._asked_at > STOP_S:
            raise Stopped


def readiness(ready: str, output: Output) -> Callable[[], str]:
    """The check for `ready`, a URL or a regex of a line; "" when it is met, else why not."""
    if ready.startswith(("http://", "https://")):
        return lambda: _answer(ready)
    pattern = re.compile(ready)
    places = dict(zip(output.logs, output.begins, strict=True))

    def find() -> str:
        for log, place in places.items():
            with log.open("rb") as file:
                file.seek(place)
                *lines, rest = file.read().split(b"\n")
            places[log] = place + sum(len(line) + 1 for line in lines)
            if any(pattern.search(line[:_LARGEST_LINE].decode(errors="replace")) for line in (*lines, rest)):
                return ""
        return f"no line matches {ready!r}"

    return find


def _answer(url: str) -> str:
    # A proxy would not reach this host.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_ANSWER_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"{url}: status {error.code}"
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        return f"{url}: {getattr(reason, 'strerror', None) or reason}"
    except Exception as error:  # what answers there is no HTTP server
        return f"{url}: {error or type(error).__name__}"
