"""Everything this project changes in luigi: settings, log, errors, signals, one call per run directory, stale workers.

install() is called once, when luigi imports the tasks; handle_signals() when the first study is resolved.
"""

import argparse
import atexit
import configparser
import fcntl
import http.client
import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.interface import core
from luigi.rpc import RemoteScheduler, RPCError
from luigi.task_register import Register, TaskClassNotFoundException
from luigi.worker import TaskException

from bench.errors import StudyError
from bench.host.processes import die_with
from bench.run.lock import HostLock
from bench.storage import on_network
from bench.study.directory import RunDirectory
from bench.terminal import prepare_streams, visible

# Identifies this call of luigi in every record that it writes. Forked workers inherit it.
INVOCATION = os.urandom(6).hex()
# luigid's default stable_done_cooldown_secs. `make ui` sets 0, but another luigid may be in use.
COOLDOWN_S = 10.0
# A worker that luigi forked needs a moment to end after a kill of luigi.
LOCK_WAIT_S = 2.0
LOCK_FILE = ".luigi.lock"

_main_pid = 0
_finishing = False
# Overrides the exit status of Python: luigi itself would exit with 1, or with "not run".
_exit_status: int | None = None
_locked: dict[Path, int] = {}


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGINT. luigi passes on a KeyboardInterrupt; any other exception would only fail one task."""

    def __init__(self, number: int, measuring: bool) -> None:
        super().__init__(number, measuring)
        self.number = number
        self.measuring = measuring


class AlreadyRunning(StudyError):
    """Another call of luigi works on this run directory. Its exit code is luigi's [retcode] already_running."""

    exit_code = 10


def install() -> None:
    """Apply the project's settings and handlers, before luigi reads its own settings."""
    prepare_streams()
    _apply_settings()
    logging.getLogger("luigi-interface").addFilter(_LogFilter())
    # luigi's client reads rpc-* itself, and its task `core` warns about options that it does not know.
    warnings.filterwarnings("ignore", message=".*'rpc_retry_\\w+'.* is not consumed by the task 'core'")
    sys.excepthook = _excepthook
    _build_parsers_once()
    # Registered first, called last: every other handler of this process has ended by then.
    at_exit(_exit_with_status)


@cache
def host_lock() -> HostLock:
    """The lock of this host. Opened before luigi forks workers, which must share the open file."""
    return HostLock()


def at_exit(function: Callable[[], None]) -> None:
    """Call the function when this process ends, but not when a process forked from it ends."""
    owner = os.getpid()

    def call() -> None:
        if os.getpid() == owner:
            function()

    atexit.register(call)


def project_config() -> Path:
    """luigi.cfg of a checkout, else where pip installed it."""
    checkout = Path(__file__).resolve().parents[1] / "luigi.cfg"
    return checkout if checkout.is_file() else Path(sysconfig.get_path("data")) / "share/numastudy/luigi.cfg"


def _apply_settings() -> None:
    """Set what the user's own luigi configuration leaves open; never override it."""
    project = configparser.ConfigParser(interpolation=None)
    project.read(project_config())
    config = luigi.configuration.get_config()
    for section in project.sections():
        for option, value in project.items(section):
            if not config.has_option(section, option):
                config.set(section, option, value)
    # A scheduler inside this process has one worker, and must not drop it where the clock steps forward. luigid does
    # not import this module, and keeps its own setting.
    config.set("scheduler", "worker_disconnect_delay", "inf")


def _build_parsers_once() -> None:
    """luigi builds a parser of all options of all tasks nine times a call, and that three times over."""
    build = CmdlineParser._build_parser
    built: dict[tuple[Any, ...], argparse.ArgumentParser] = {}

    def build_once(root_task: str | None = None, help_all: bool = False) -> argparse.ArgumentParser:
        # Modules that are loaded later bring other tasks.
        key = root_task, help_all, *Register.task_names()
        if key not in built:
            built[key] = build(root_task, help_all)
        return built[key]

    CmdlineParser._build_parser = staticmethod(build_once)  # type: ignore[method-assign]  # luigi has no hook for it


# Log and errors


class _LogFilter(logging.Filter):
    """Shows warnings and errors of luigi's log, or all of it if the user set a log level."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if error is None:
            # luigi asks for a traceback where there is no error, and logging prints "NoneType: None".
            record.exc_info = None
        elif message := _known_error(error):
            task = record.args[-1] if isinstance(record.args, tuple) and record.args else None
            head = task.task_family if isinstance(task, luigi.Task) else record.getMessage()
            record.msg, record.args, record.exc_info = visible(f"{head}: {message}"), None, None
        return record.levelno >= logging.WARNING or _log_level_given()


def _log_level_given() -> bool:
    parser = CmdlineParser.get_instance()
    on_command_line = parser is not None and parser.known_args.core_log_level
    return bool(on_command_line) or luigi.configuration.get_config().has_option("core", "log_level")


def _known_error(error: BaseException) -> str:
    """The message of an error that needs no traceback, "" for any other.

    Known are StudyError, a lost scheduler, a file system that fails, and luigi's errors that follow from these.
    """
    if isinstance(error, RPCError):
        advice = "start `make ui` in another terminal, or add --local-scheduler; then repeat the command to continue"
        error = StudyError(str(error), advice=advice)
    elif isinstance(error, OSError) and _is_of_files(error):
        error = _of_files(error)
    follows = isinstance(error, TaskException) or str(error).startswith("Unfulfilled ")
    return str(error) if isinstance(error, StudyError) or follows else ""


def _is_of_files(error: OSError) -> bool:
    """Not of a connection; but a network file system aborts calls when its server ends."""
    of_connection = isinstance(error, ConnectionError) and not isinstance(error, ConnectionAbortedError)
    return error.errno is not None and (not of_connection or bool(error.filename))


def _of_files(error: OSError) -> StudyError:
    # A failed write has no file name.
    advice = "repair the file system, then repeat the command to continue"
    return StudyError(os.strerror(error.errno or 0), str(error.filename or ""), advice)


@contextmanager
def refusing() -> Iterator[None]:
    """On the command line a StudyError, and a file system that fails, ends luigi with its message and exit code.

    Elsewhere it stays an exception.
    """
    try:
        yield
    except (StudyError, OSError) as error:
        if CmdlineParser.get_instance() is None or (isinstance(error, OSError) and not _is_of_files(error)):
            raise
        refuse(_of_files(error) if isinstance(error, OSError) else error)


def refuse(error: StudyError) -> NoReturn:
    """End the program with the message and exit code of the error."""
    print(visible(f"refused: {error}"), file=sys.stderr, flush=True)
    raise SystemExit(error.exit_code) from None


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        measuring = isinstance(error, Stopped) and error.measuring
        what = "the running measurement was ended" if measuring else "nothing was being measured"
        print(f"stopped by {signal.Signals(number).name}: {what}; repeat the command to continue", file=sys.stderr)
        _set_exit_status(128 + number)
    elif isinstance(error, TaskClassNotFoundException):
        # luigi looks the name up before it has set up anything, its log included.
        print(visible(f"refused: {_unknown_task(' '.join(str(error).split()))}"), file=sys.stderr)
        _set_exit_status(StudyError.exit_code)
    else:
        sys.__excepthook__(kind, error, trace)


def _unknown_task(message: str) -> StudyError | str:
    """luigi suggests every class that it knows, its own and ours; a user needs few of them."""
    from bench.study.load import NIGHTLY, TASKS
    from bench.study.settings import nearest

    name = re.match(r"No task (.*?)\. (Did you mean|Candidates are):", message)
    if not name:
        return message
    tasks = (*TASKS, "Study", NIGHTLY)
    advice = f"the tasks are {', '.join(tasks)}; any other study is Study --config-file FILE"
    return StudyError(f"there is no task {name[1]}{nearest(name[1], tasks)}", advice=advice)


def _set_exit_status(status: int) -> None:
    global _exit_status
    _exit_status = status


def _exit_with_status() -> None:
    if _exit_status is not None:
        # Forked workers end their measured child first.
        for worker in multiprocessing.active_children():
            worker.join()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_status)


# Signals: SIGTERM and SIGINT end the measured child and then luigi; SIGUSR1 finishes the current run first; with
# SIGKILL the workers that luigi forked end too, and their children with them.


def handle_signals(root: luigi.Task) -> None:
    """Install the handlers in luigi's own process, after luigi's; forked workers inherit them.

    root: the task that the user named. Once it is complete, SIGUSR1 has stopped nothing.
    """
    global _main_pid
    if _main_pid:
        return
    # Opened now, in the process that later workers are forked from.
    host_lock()
    _main_pid = os.getpid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    _finish_on_sigusr1(root)


def in_worker() -> bool:
    """Whether this is a process that luigi forked for a task."""
    return bool(_main_pid) and os.getpid() != _main_pid


def finishing() -> bool:
    """Whether SIGUSR1 asked for an end: a task of several runs ends after the current one."""
    return _finishing


def _stop(number: int, _frame: FrameType | None) -> None:
    # A second signal must not interrupt the end of the child.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    # The exception ends the child on its way up, so the state is read before.
    raise Stopped(number, host_lock().measuring())


def _finish_on_sigusr1(root: luigi.Task) -> None:
    """luigi's own handler asks for no further work; this one also reports it."""
    ask_for_no_work = signal.getsignal(signal.SIGUSR1)
    if not callable(ask_for_no_work):
        # [worker] no_install_shutdown_handler
        return

    def finish(number: int, frame: FrameType | None) -> None:
        global _finishing
        if os.getpid() == _main_pid and not _finishing:
            _finishing = True
            print("SIGUSR1: this call ends after the current task", file=sys.stderr, flush=True)
        ask_for_no_work(number, frame)

    def report() -> None:
        if _finishing and not root.complete():
            print("stopped by SIGUSR1: repeat the command to continue", file=sys.stderr)
            _set_exit_status(128 + signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, finish)
    # A system call that it interrupts is restarted.
    signal.siginterrupt(signal.SIGUSR1, False)
    at_exit(report)


@luigi.Task.event_handler(luigi.Event.START)
def _end_with_luigi(_task: luigi.Task) -> None:
    if in_worker():
        die_with(_main_pid)


# One call per run directory


def lock_folder(folder: Path) -> None:
    """Keep the folder of a study or a night to this process until it ends. Raise AlreadyRunning.

    On a file system without locks, or one that cannot be written to, calls are not kept apart.
    """
    if folder in _locked:
        return
    # Not open for writing, which would keep a failing disk from becoming read-only; NFS grants locks to writers only.
    access = os.O_RDWR if on_network(folder / LOCK_FILE) else os.O_RDONLY
    try:
        descriptor = os.open(folder / LOCK_FILE, access | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError:
        return
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise AlreadyRunning(
                    "already running; this call started nothing",
                    str(folder),
                    "wait for the other call; of a study, `numastudy plan` with the same options reports its progress",
                ) from None
            time.sleep(0.05)
        except OSError:
            os.close(descriptor)
            return
        else:
            _locked[folder] = descriptor
            return


# luigi's scheduler


def require_scheduler() -> None:
    """Raise StudyError if luigi is about to ask a scheduler that does not answer: luigi would try for some seconds."""
    if not _remote():
        return
    url = _scheduler_url()
    address = urlsplit(url)
    if address.scheme not in ("http", "https"):
        return
    try:
        port = address.port or 80
    except ValueError as error:
        raise StudyError(f"not the address of a scheduler: {error}", url, "a port is 1 to 65535") from None
    try:
        socket.create_connection((address.hostname or "", port), timeout=2.0).close()
    except OSError as error:
        raise StudyError(
            f"no scheduler answers: {error.strerror or error}",
            url,
            "start `make ui` in another terminal, or add --local-scheduler",
        ) from None
    if reason := _refusal(address.hostname or "", port):
        raise StudyError(f"the scheduler refuses: {reason}", url, "add --scheduler-port, or --local-scheduler")


def _refusal(host: str, port: int) -> str:
    """Why it answers nothing to this user: it may be that of another one (bench.luigid). "" if it does."""
    connection = http.client.HTTPConnection(host, port, timeout=2.0)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.reason if answer.status == HTTPStatus.FORBIDDEN else ""
    except (OSError, http.client.HTTPException):
        # Busy, or behind TLS: luigi asks again.
        return ""
    finally:
        connection.close()


def release_stale_tasks(folder: Path, **params: str) -> None:
    """Report tasks with these parameters that an ended call left running in luigid as failed, so that they can run.

    luigid itself would count the ended worker for a minute. The lock of their folder proves that the call has ended.
    """
    if folder not in _locked or not _remote():
        return
    # luigi adds the methods of its client at run time.
    scheduler: Any = RemoteScheduler(_scheduler_url())
    for worker in scheduler.worker_list():
        for task_id, task in worker["running"].items():
            if params.items() <= task["params"].items():
                scheduler.add_task(task_id=task_id, worker=worker["name"], status="FAILED", expl="luigi was stopped")


def wait_for_cooldown(directory: RunDirectory) -> None:
    """A scheduler ignores a task that is requested again within seconds of its end. Wait until these have passed."""
    if not _remote():
        return
    configured = luigi.configuration.get_config().getfloat("scheduler", "stable_done_cooldown_secs", COOLDOWN_S)
    cooldown_s = max(configured, COOLDOWN_S)
    wait_s = _newest_record(directory) + cooldown_s + 0.5 - time.time()
    if wait_s > 0:
        time.sleep(min(wait_s, cooldown_s))


def _newest_record(directory: RunDirectory) -> float:
    """Seconds since the epoch of the newest record of this study; 0 without one."""
    records = directory.path.parents[1].glob("*/*/report.json")
    return max((path.stat().st_mtime for path in (*records, *directory.path.glob("*/*.json"))), default=0.0)


def _remote() -> bool:
    return CmdlineParser.get_instance() is not None and not core().local_scheduler


def _scheduler_url() -> str:
    settings = core()
    return settings.scheduler_url or f"http://{settings.scheduler_host}:{settings.scheduler_port}/"
