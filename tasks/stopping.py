"""How a call of luigi is stopped, with exit code 128 + signal, no traceback, and nothing lost.

SIGTERM, SIGINT: the measured child is ended first, then luigi. SIGUSR1: the current task is finished first.
SIGKILL: the workers that luigi forked end with it, and their children with them.
"""

import atexit
import os
import signal
import sys
from types import FrameType, TracebackType

import luigi
from luigi import execution_summary

from bench.run.processes import die_with
from tasks.invocation import host_lock

_main_pid = 0
_finishing = False


class Stopped(KeyboardInterrupt):
    """Luigi lets a KeyboardInterrupt through; every other exception would only fail one task."""

    def __init__(self, number: int, measuring: bool) -> None:
        super().__init__(number, measuring)
        self.number = number
        self.measuring = measuring


def stop_cleanly() -> None:
    """Install the handlers, in luigi's own process and after its host lock; forked workers inherit both."""
    global _main_pid
    if _main_pid:
        return
    _main_pid = os.getpid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise)
    sys.excepthook = _excepthook
    _finish_on_sigusr1()


def in_worker() -> bool:
    """Whether this is a process that luigi forked for a task."""
    return bool(_main_pid) and os.getpid() != _main_pid


def finishing() -> bool:
    """Whether SIGUSR1 asked for an end: a task of several runs ends with the one that goes on."""
    return _finishing


def end_worker(stopped: Stopped) -> None:
    """Leave a forked worker at once, its child being ended: multiprocessing would print a traceback."""
    os._exit(128 + stopped.number)


def _raise(number: int, _frame: FrameType | None) -> None:
    # A second signal must not interrupt the ending of the child.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    # Asked now: on its way up the exception ends the child.
    raise Stopped(number, host_lock().measuring())


def _finish_on_sigusr1() -> None:
    """Luigi's own handler asks for no further work; this one says so, and lets a caller see it."""
    stop_asking = signal.getsignal(signal.SIGUSR1)
    if not callable(stop_asking):
        # [worker] no_install_shutdown_handler
        return

    def finish(number: int, frame: FrameType | None) -> None:
        global _finishing
        if os.getpid() == _main_pid and not _finishing:
            _finishing = True
            print("SIGUSR1: the current task is finished, then this call ends", file=sys.stderr, flush=True)
        stop_asking(number, frame)

    signal.signal(signal.SIGUSR1, finish)
    # A call of the system that it meets goes on.
    signal.siginterrupt(signal.SIGUSR1, False)
    atexit.register(_end_finished, getattr(stop_asking, "__self__", None))


def _end_finished(worker: luigi.worker.Worker | None) -> None:
    """Unless there was nothing left to do, the exit code names the signal; luigi's own would say "not run"."""
    if not _finishing or os.getpid() != _main_pid:
        return
    root = execution_summary._root_task(worker) if worker else None
    if root is None or not root.complete():
        print("stopped by SIGUSR1: the same command goes on from here", file=sys.stderr)
        _leave(signal.SIGUSR1)


@luigi.Task.event_handler(luigi.Event.START)
def _end_with_luigi(_task: luigi.Task) -> None:
    if in_worker():
        die_with(_main_pid)


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, Stopped):
        sys.__excepthook__(kind, error, trace)
        return
    name = signal.Signals(error.number).name
    what = "the running measurement was ended" if error.measuring else "nothing was being measured"
    print(f"stopped by {name}: {what}; the same command goes on from here", file=sys.stderr)
    atexit._run_exitfuncs()
    # Python itself would leave with 1.
    _leave(error.number)


def _leave(number: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + number)
