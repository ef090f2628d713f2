"""Luigi's settings and manners for this project, in force wherever `luigi --module tasks` is called."""

import configparser
import getpass
import logging
import os
import re
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import luigi
import luigi.lock
from luigi.cmdline_parser import CmdlineParser
from luigi.rpc import RPCError
from luigi.task_register import TaskClassNotFoundException
from luigi.worker import TaskException

from bench.errors import StudyError


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
    from bench.study.settings import nearest
    from bench.study.shipped import NIGHTLY, TASKS

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
