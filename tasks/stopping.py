"""SIGTERM and SIGINT end the measured child first, then luigi, with exit code 128 + signal and no traceback."""

import atexit
import os
import signal
import sys
from types import FrameType, TracebackType

_main_pid = 0


class Stopped(KeyboardInterrupt):
    """Luigi lets a KeyboardInterrupt through; every other exception would only fail one task."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop_cleanly() -> None:
    """Install the handlers, in luigi's own process; forked workers inherit them."""
    global _main_pid
    if _main_pid:
        return
    _main_pid = os.getpid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise)
    sys.excepthook = _excepthook


def in_worker() -> bool:
    """Whether this is a process that luigi forked for a task."""
    return bool(_main_pid) and os.getpid() != _main_pid


def end_worker(stopped: Stopped) -> None:
    """Leave a forked worker at once, its child being ended: multiprocessing would print a traceback."""
    os._exit(128 + stopped.number)


def _raise(number: int, _frame: FrameType | None) -> None:
    # A second signal must not interrupt the ending of the child.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, Stopped):
        sys.__excepthook__(kind, error, trace)
        return
    name = signal.Signals(error.number).name
    print(f"stopped by {name}: the running measurement was ended; the same command goes on from here", file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # Python itself would leave with 1; a caller should see the signal.
    os._exit(128 + error.number)
