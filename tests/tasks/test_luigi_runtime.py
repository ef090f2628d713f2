"""What luigi logs of a failed task, and locks of run directories."""

import getpass
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from luigi.cmdline_parser import CmdlineParser
from luigi.rpc import RPCError
from luigi.worker import TaskException

from bench.errors import StudyError
from tasks.luigi_runtime import LOCK_FILE, AlreadyRunning, _LogFilter, lock_folder, refusing
from tests.needs import needs
from tests.ports import free_port
from tests.tasks.instant_calls import InstantCalls
from tests.tasks.study_calls import BIN, TINY


def logged(error: BaseException) -> str:
    """As luigi logs a task that raised this."""
    try:
        raise error
    except BaseException:
        record = logging.LogRecord("luigi-interface", logging.ERROR, "f", 1, "failed", None, sys.exc_info())
    assert _LogFilter().filter(record)
    return logging.Formatter().format(record)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (StudyError("what", "here", "do that"), "failed: what\n  where: here\n  to do: do that"),
        (OSError(116, "Stale file handle", "/out/grid.json"), "failed: Stale file handle\n  where: /out/grid.json"),
        (OSError(28, "No space left on device"), "failed: No space left on device\n  to do: repair"),
        (
            ConnectionAbortedError(103, "Software caused connection abort", "/out/cells/a.json"),
            "failed: Software caused connection abort\n  where: /out/cells/a.json\n  to do: repair",
        ),
        (
            ConnectionAbortedError(103, "Software caused connection abort"),
            "failed: Software caused connection abort\n  to do: repair",
        ),
        (
            RPCError("Errors (3 attempts) when connecting", OSError()),
            "failed: Errors (3 attempts) when connecting\n  to do",
        ),
        (TaskException("complete() is still returning false."), "failed: complete() is still returning false."),
        (RuntimeError("Unfulfilled dependency at run time: it"), "failed: Unfulfilled dependency at run time: it"),
    ],
)
def test_known_errors_are_logged_without_traceback(error: BaseException, message: str) -> None:
    text = logged(error)
    assert text.startswith(message) and "Traceback" not in text


def test_file_system_that_fails_ends_a_call_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CmdlineParser, "get_instance", object)
    with pytest.raises(SystemExit) as ended, refusing():
        raise PermissionError(13, "Permission denied", "/out/runs")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("refused: Permission denied\n  where: /out/runs\n  to do: repair")
    with pytest.raises(ConnectionRefusedError), refusing():
        raise ConnectionRefusedError(111, "Connection refused")


def test_warning_with_an_empty_traceback_is_its_message() -> None:
    record = logging.LogRecord("luigi-interface", logging.WARNING, "f", 1, "failed", None, (None, None, None))
    assert _LogFilter().filter(record)
    assert logging.Formatter().format(record) == "failed"


@pytest.mark.parametrize(
    "error",
    [ValueError("unknown"), OSError("none"), ConnectionResetError(104, "reset"), RuntimeError("a bug")],
)
def test_unknown_errors_keep_their_traceback(error: BaseException) -> None:
    assert "Traceback" in logged(error)


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that has locked the folder."""
    code = f"import time; from pathlib import Path; from tasks.luigi_runtime import lock_folder; \
lock_folder(Path({str(folder)!r})); print('locked', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "locked\n"
    return process


def test_lock_folder_is_refused_until_its_holder_ends(tmp_path: Path) -> None:
    other = hold(tmp_path)
    try:
        with pytest.raises(AlreadyRunning, match="already running") as refused:
            lock_folder(tmp_path)
        assert refused.value.where == str(tmp_path) and refused.value.exit_code == 10
    finally:
        other.kill()
        other.wait()
    lock_folder(tmp_path)
    lock_folder(tmp_path)


def test_lock_folder_does_not_follow_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / LOCK_FILE).symlink_to(victim)
    lock_folder(tmp_path)
    assert not victim.exists()


def test_luigi_ends_with_one_error_without_a_scheduler(tmp_path: Path) -> None:
    port = free_port()
    command = [str(BIN / "luigi"), "--module", "tasks", "QuickTest", "--scheduler-port", str(port)]
    # luigi itself would try for a minute.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "refused: no scheduler answers: Connection refused",
        f"  where: http://localhost:{port}/",
        "  to do: start `make ui` in another terminal, or add --local-scheduler",
    ]
    assert not list(tmp_path.iterdir())


NOBODY = 65534


@pytest.mark.needs_root
@needs("setpriv")
@pytest.mark.parametrize("folder", ["luigi", f"luigi-{getpass.getuser()}"])
def test_pid_directory_of_another_user_has_no_effect(tmp_path: Path, folder: str) -> None:
    """luigi's own lock would write the process id to <temporary directory>/<folder>/<digest of the command>.pid."""
    calls = InstantCalls(tmp_path / "work", ["--local-scheduler"], TINY | {"models": ["vit0x0x0"]})
    victim = tmp_path / "victim"
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o1777)
        digest = hashlib.md5(" ".join(calls.command()).encode(), usedforsecurity=False).hexdigest()
        planted = f"mkdir -m 777 {shared}/{folder} && ln -s {victim} {shared}/{folder}/{digest}.pid"
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", planted]
        subprocess.run(as_nobody, check=True)
        calls.stub = {"TMPDIR": shared}
        done = calls.run()
        assert done.returncode == 0, done.stderr
        (plant,) = Path(shared, folder).iterdir()
        assert plant.is_symlink() and plant.lstat().st_uid == NOBODY
    assert not victim.exists()
