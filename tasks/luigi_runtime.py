"""Everything this project changes in luigi: settings, excepthook, signals, cooldown, closing summary, invocation id."""

import atexit
import configparser
import contextlib
import getpass
import json
import logging
import os
import re
import signal
import sys
import sysconfig
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import luigi
import luigi.lock
from luigi import execution_summary
from luigi.cmdline_parser import CmdlineParser
from luigi.interface import core
from luigi.rpc import RPCError
from luigi.task_register import TaskClassNotFoundException
from luigi.worker import TaskException

from bench.errors import StudyError
from bench.run.lock import HostLock
from bench.run.processes import die_with
from bench.run.record import NOT_RUNNABLE, OK, read_record
from bench.storage import read_json
from bench.study import settings
from bench.study.directory import RunDirectory

# --- setup
# Luigi's settings and manners for this project, in force wherever `luigi --module tasks` is called.

def project_config() -> Path:
    """luigi.cfg of a checkout, else where pip put it."""
    checkout = Path(__file__).resolve().parents[1] / "luigi.cfg"
    return checkout if checkout.is_file() else Path(sysconfig.get_path("data")) / "share/numastudy/luigi.cfg"


def apply_project_settings() -> None:
    """Fill in what the user's own luigi configuration does not say. Never overrides it."""
    project = configparser.ConfigParser(interpolation=None)
    project.read(project_config())
    config = luigi.configuration.get_config()
    for section in project.sections():
        for option, value in project.items(section):
            if not config.has_option(section, option):
                config.set(section, option, value)
    if not config.has_option("core", "lock_pid_dir"):
        # luigi's default, /tmp/luigi, belongs to the first user of the machine alone.
        config.set("core", "lock_pid_dir", os.path.join(tempfile.gettempdir(), f"luigi-{_user()}"))


def keep_own_worker() -> None:
    """Let a scheduler inside this process never take its one worker for lost, as it would where the clock steps ahead.

    luigid, which has many workers and must tell which are gone, imports nothing of this and keeps its own setting.
    """
    luigi.configuration.get_config().set("scheduler", "worker_disconnect_delay", "inf")


def hide_false_warnings() -> None:
    """luigi's client reads rpc-* itself, and its task `core` warns of options that it does not know."""
    warnings.filterwarnings("ignore", message=".*'rpc_retry_\\w+'.* is not consumed by the task 'core'")


def hide_tracebacks() -> None:
    """Log what is known to happen as its own words; a traceback is for errors that nobody foresaw."""
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(known, _PlainErrors) for known in logger.filters):
        logger.addFilter(_PlainErrors())
    sys.excepthook = _tell_of_an_unknown_task


def tell_of_the_same_command() -> None:
    """luigi's own lock says "Pid(s) {23067} already running", and no more."""
    acquire = luigi.lock.acquire_for

    def acquire_or_tell(*args: Any, **kwargs: Any) -> bool:
        acquired = acquire(*args, **kwargs)
        if not acquired:
            advice = "`numastudy plan` with the same words says how far it is"
            error = StudyError("the same command runs already, and goes on; this call started nothing", advice=advice)
            print(error, file=sys.stderr, flush=True)
        return acquired

    luigi.lock.acquire_for = acquire_or_tell


def _tell_of_an_unknown_task(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The name is looked up before luigi has set up anything, its log included."""
    if not issubclass(kind, TaskClassNotFoundException):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"refused: {_unknown_task(' '.join(str(error).split()))}", file=sys.stderr, flush=True)
    # Python itself would leave with 1.
    os._exit(StudyError.exit_code)


def _unknown_task(said: str) -> StudyError | str:
    """luigi offers every class that it knows, its own and ours; a user names few of them."""
    from bench.study.load import NIGHTLY, TASKS
    from bench.study.settings import nearest

    name = re.match(r"No task (.*?)\. (Did you mean|Candidates are):", said)
    if not name:
        return said
    tasks = (*TASKS, "Study", NIGHTLY)
    advice = f"the tasks are {', '.join(tasks)}; any other study is Study --config-file FILE"
    return StudyError(f"there is no task {name[1]}{nearest(name[1], tasks)}", advice=advice)


class _PlainErrors(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if error is None:
            # luigi asks for a traceback where there is no error, and logging prints "NoneType: None".
            record.exc_info = None
        if words := _plain_words(error):
            task = record.args[-1] if isinstance(record.args, tuple) and record.args else None
            head = task.task_family if isinstance(task, luigi.Task) else record.getMessage()
            record.msg, record.args, record.exc_info = f"{head}: {words}", None, None
        return True


def _plain_words(error: BaseException | None) -> str:
    """Of a StudyError, a scheduler that is gone, a file system that refuses or is gone, and what luigi says then."""
    if isinstance(error, RPCError):
        advice = "`make ui` in another terminal, or --local-scheduler; the same command goes on from here"
        error = StudyError(str(error), advice=advice)
    if isinstance(error, OSError) and error.errno is not None and _of_files(error):
        advice = "mend the file system; the same command goes on from here"
        # A write knows no name.
        error = StudyError(os.strerror(error.errno), str(error.filename or ""), advice)
    follows = isinstance(error, TaskException) or str(error).startswith("Unfulfilled ")
    return str(error) if isinstance(error, StudyError) or follows else ""


def _of_files(error: OSError) -> bool:
    """And not of a connection; but a file system whose server ends aborts what it was asked."""
    return not isinstance(error, ConnectionError) or isinstance(error, ConnectionAbortedError) or bool(error.filename)


@contextmanager
def refusing() -> Iterator[None]:
    """On the command line a StudyError ends luigi with its text and exit code 2; in a program it stays an exception."""
    try:
        yield
    except StudyError as error:
        if CmdlineParser.get_instance() is None:
            raise
        print(f"refused: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


# --- invocation
# What all tasks of one call of luigi share: its id, and the lock of the host. Forked workers inherit both.

INVOCATION = uuid.uuid4().hex[:12]


@cache
def host_lock() -> HostLock:
    """Opened when the first study is resolved, before workers are forked: they must share the open file."""
    return HostLock()


# --- stopping
# How a call of luigi is stopped, with exit code 128 + signal, no traceback, and nothing lost.
#
# SIGTERM, SIGINT: the measured child is ended first, then luigi. SIGUSR1: the current task is finished first.
# SIGKILL: the workers that luigi forked end with it, and their children with them.

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


# --- closing
# The last words of a call of luigi: where the report is, and the table of its cells.

_directories: list[RunDirectory] = []


def close_with_summary(directory: RunDirectory) -> None:
    """Print the summary of this run directory when luigi's own process ends."""
    if not _directories:
        atexit.register(_print_all, os.getpid())
    if directory not in _directories:
        _directories.append(directory)


def _print_all(owner: int) -> None:
    if os.getpid() == owner:
        for directory in _directories:
            try:
                words = closing_words(directory)
            except (OSError, StudyError) as error:
                # What made the study fail may keep it from being told.
                words = f"no summary: {error}; the same command goes on from here"
            print("\n" + words, flush=True)


def closing_words(directory: RunDirectory) -> str:
    records = [read_record(path) for path in directory.path.glob("runs/*.json")]
    measured = sum(record is not None and record["invocation"] == INVOCATION for record in records)
    if not directory.results.exists():
        return f"no report yet: {measured} runs measured in {directory.path}; the same command goes on from here"
    from bench.report.tables import cells_table

    results = read_json(directory.results)
    lines = [cells_table(results)]
    if results["busy_s"] and "windows_s" in results:
        share = 100 * results["windows_s"] / results["busy_s"]
        lines.append(f"measured windows: {share:.0f} % of the {results['busy_s']:.0f} s that runs took")
    if not measured:
        all_there = all(cell["outcome"] in (OK, NOT_RUNNABLE) for cell in results["cells"])
        more = ": all of it is there already. `--fresh` measures it again." if all_there else "."
        lines.append(f"Nothing was measured now{more}")
    lines.append(f"report: {directory.path / 'report.html'}")
    return "\n".join(lines)


# --- parameters
# Overrides of a study as luigi parameters: JSON, or a plain word.

class OverrideParameter(luigi.Parameter):
    """Keeps canonical JSON text, empty if not given: the study itself checks the value, and says what is allowed."""

    def __init__(self, description: str) -> None:
        super().__init__(default="", description=description)

    def normalize(self, value: Any) -> str:
        if isinstance(value, str):
            value = value.strip()
            if not value:
                return ""
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        return json.dumps(_thawed(value))


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    return [_thawed(item) for item in value] if isinstance(value, list | tuple) else value


OVERRIDES = {key: OverrideParameter(text) for key, text in settings.OVERRIDES.items()}

# A base class that brings one parameter for each key of a study.
Overrides = type("Overrides", (), dict(OVERRIDES))


def given(task: Any) -> dict[str, Any]:
    """The overrides that were given, as plain values by key."""
    texts = {key: getattr(task, key) for key in OVERRIDES}
    return {key: json.loads(text) for key, text in texts.items() if text}


# --- cooldown
# A scheduler ignores a task that is asked for again within seconds of its end. Wait those seconds out.

# luigid's default stable_done_cooldown_secs. `make ui` sets 0, but a luigid may be anybody's, and does not say.
COOLDOWN_S = 10.0


def wait_for_cooldown(directory: RunDirectory) -> None:
    """Sleep until no record of this study is younger than the cooldown, if a scheduler of its own process is asked."""
    if CmdlineParser.get_instance() is None or core().local_scheduler:
        return
    configured = luigi.configuration.get_config().getfloat("scheduler", "stable_done_cooldown_secs", COOLDOWN_S)
    wait_s = newest_record(directory) + max(configured, COOLDOWN_S) + 0.5 - time.time()
    if wait_s > 0:
        time.sleep(min(wait_s, max(configured, COOLDOWN_S)))


def newest_record(directory: RunDirectory) -> float:
    """Seconds since the epoch of the youngest record below this study's name; 0 without one."""
    records = directory.path.parents[1].glob("*/*/report.json")
    return max((path.stat().st_mtime for path in (*records, *directory.path.glob("*/*.json"))), default=0.0)
