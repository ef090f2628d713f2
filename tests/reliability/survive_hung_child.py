"""A child that will not end, hides, or floods its log: real processes, and nothing of them is left."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bench.run.child import MOST_LOG_BYTES, ChildEnd, child_environment, run_child
from bench.storage import start_ticks

# How long the ending of a run's processes may take, in the words of docs/reliability.md.
END_S = 5.0


def run(folder: Path, program: str, timeout_s: float) -> tuple[ChildEnd, float]:
    """The child's end, and the seconds that it took beyond timeout_s."""
    begin = time.monotonic()
    end = run_child(
        [sys.executable, "-c", textwrap.dedent(program), str(folder)], child_environment(dict(os.environ)),
        (folder / "out", folder / "err"), timeout_s, lambda _: None, lambda: None, poll_s=0.02,
    )  # fmt: skip
    return end, time.monotonic() - begin - timeout_s


def recorded_pids(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("pid")) for path in folder.glob("pid*")]


HIDE = """
    import os, pathlib, signal, subprocess, sys, time
    def note(): pathlib.Path(sys.argv[1], f"pid{os.getpid()}").touch()
    note()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note()
            os.closerange(0, 100)
            time.sleep(600)
        os._exit(0)
    while len(list(pathlib.Path(sys.argv[1]).glob("pid*"))) < 2:
        time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("what", "program", "pids"),
    [
        ("deaf to SIGTERM", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", 2),
        ("stopped", "os.kill(os.getpid(), signal.SIGSTOP); time.sleep(600)", 2),
        ("busy", "\n    while True: pass", 2),
    ],
)
def test_a_timeout_ends_a_deaf_child_and_its_daemon_in_5_s(tmp_path: Path, what: str, program: str, pids: int) -> None:
    # A busy machine may need longer until both are there, and until they have been ended.
    for timeout_s in (1.5, 10, 60):
        for path in tmp_path.glob("pid*"):
            path.unlink()
        end, late_s = run(tmp_path, HIDE + "    " + program, timeout_s)
        assert end.timed_out, what
        found = recorded_pids(tmp_path)
        assert [pid for pid in found if start_ticks(pid) is not None] == []
        if len(found) == pids and late_s < END_S:
            break
    assert late_s < END_S
    assert len(found) == pids


def test_a_daemon_that_a_good_run_leaves_behind_is_ended(tmp_path: Path) -> None:
    end, _ = run(tmp_path, HIDE, timeout_s=600)
    assert (end.exit_code, end.timed_out) == (0, False)
    assert len(recorded_pids(tmp_path)) == 2
    assert not any(start_ticks(pid) for pid in recorded_pids(tmp_path))


def test_a_child_that_forks_on_and_on_is_ended(tmp_path: Path) -> None:
    program = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            if os.fork():  # the parent goes, its child does the same again
                os._exit(0)
            time.sleep(0.002)
    """
    watch = subprocess.Popen(["sleep", "600"])  # a child of this process that does not belong to the run
    try:
        for timeout_s in (1.0, 10, 60):
            end, late_s = run(tmp_path, program, timeout_s)
            if end.exit_code == 0 and late_s < END_S:
                break
        # Its first process ended at once and well; the rest was ended as what it left behind.
        assert end.exit_code == 0 and late_s < END_S
        assert watch.poll() is None
        own = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        assert [pid for pid in own if start_ticks(int(pid)) is not None] == [str(watch.pid)]
    finally:
        watch.kill()
        watch.wait()


def test_gigabytes_of_output_end_the_run_and_are_not_kept(tmp_path: Path) -> None:
    program = """
        import os, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("first words", flush=True)
        while True:
            os.write(1, b"x" * (1 << 20))
    """
    end, _ = run(tmp_path, program, timeout_s=600)
    assert end.log_overflow and not end.timed_out and end.exit_code == -signal.SIGKILL
    log = tmp_path / "out"
    assert log.stat().st_size == MOST_LOG_BYTES
    with log.open("rb") as file:
        assert file.read(11) == b"first words"
