"""A measured process: its environment, its logs, its end. Real processes."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from bench.host.processes import session_members
from bench.run.child import ChildEnd, child_environment, run_child
from bench.storage import start_ticks


def run(tmp_path: Path, code: str, timeout_s: float = 30, on_poll=lambda: None, append: bool = False) -> ChildEnd:
    return run_child(
        [sys.executable, "-c", code], child_environment(dict(os.environ)),
        (tmp_path / "out", tmp_path / "err"), timeout_s, lambda pid: (tmp_path / "pid").write_text(str(pid)), on_poll,
        append_logs=append, poll_s=0.02,
    )  # fmt: skip


def gone(tmp_path: Path) -> bool:
    return session_members(int((tmp_path / "pid").read_text()), 0) == []


def test_exit_code_and_logs(tmp_path: Path) -> None:
    end = run(tmp_path, "import sys; print('said'); print('oops', file=sys.stderr); sys.exit(9)")
    assert (end.exit_code, end.timed_out) == (9, False)
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("said\n", "oops\n")
    run(tmp_path, "print('again')", append=True)
    assert (tmp_path / "out").read_text() == "said\nagain\n"


def test_only_allowed_variables_reach_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    run(tmp_path, "import os; print(sorted(os.environ))")
    names = (tmp_path / "out").read_text()
    assert "SECRET_TOKEN" not in names and "CUDA_VISIBLE_DEVICES" not in names
    assert "'PATH'" in names and "CUDA_DEVICE_ORDER" in names


def test_timeout_ends_the_whole_session(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0: os.setpgid(0, 0)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(600)\n"
    )
    # A busy machine may need longer until the child, and its own, are as they are to be.
    for timeout_s in (0.5, 10, 120):
        begin = time.monotonic()
        end = run(tmp_path, code, timeout_s)
        took_s = time.monotonic() - begin
        if (tmp_path / "out").read_text().count("deaf") == 2:
            break
    assert end.timed_out and end.exit_code == -signal.SIGKILL
    assert took_s < timeout_s + 60
    assert gone(tmp_path)


def test_processes_left_by_a_child_are_ended(tmp_path: Path) -> None:
    end = run(tmp_path, "import os, time\nif os.fork() == 0: time.sleep(600)")
    assert end.exit_code == 0
    assert gone(tmp_path)


def test_exception_in_the_parent_ends_the_child(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "import time; time.sleep(600)", on_poll=stop)
    assert gone(tmp_path)


def test_start_ticks_distinguish_a_process_from_none() -> None:
    assert start_ticks(os.getpid()) > 0
    assert start_ticks(2**22 + 1) is None
