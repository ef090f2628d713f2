"""Progress at a real terminal (a pty): a live bar and a line for each run; in a pipe only the lines."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest

from tasks.progress import Terminal
from tests.tasks.study_calls import Calls

COLUMNS = 100
CELL = "pipeline_gpu0_numa0_vit0x0x0"


def at_a_terminal(command: list[str], columns: int = COLUMNS, **options: object) -> tuple[int, str]:
    """The exit code, and all that the terminal was sent. The terminal is the session's own, as a login's is."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **options,
    )  # fmt: skip
    os.close(follower)
    sent = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        sent += part
    os.close(leader)
    return process.wait(240), sent.decode()


def bars(sent: str) -> list[str]:
    return [bar for bar in re.findall(r"\r\x1b\[K([^\r\n\x1b]+)", sent) if "█" in bar or "░" in bar]


def screen(sent: str) -> list[str]:
    """The lines as they stand when all is over."""
    lines = [""]
    for part in re.split(r"(\r\n|\n|\r|\x1b\[K)", sent):
        if part in ("\r\n", "\n"):
            lines.append("")
        elif part in ("\r", "\x1b[K"):
            # The bar is the only one who does this, and always both.
            lines[-1] = ""
        else:
            lines[-1] += part
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_terminal_gets_a_live_bar_and_a_line_for_each_run(tmp_path: Path, workers: str) -> None:
    calls = Calls(tmp_path / "work", ["--local-scheduler", "--workers", workers])
    # Long enough for the bar to be drawn meanwhile.
    calls.study["window_s"] = 0.4
    calls.write()
    calls.sabotage(f"{CELL}_again")
    environment = calls.environment() | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    code, sent = at_a_terminal(calls.command(), cwd=calls.folder, env=environment)
    assert code == 30, sent
    drawn = bars(sent)
    assert any(re.search(r"█?░+ 0/4  gpu0_numa0_vit0x0x0 repeat 1/1, measuring \d+ %", bar) for bar in drawn), drawn
    assert any(re.search(r"[123]/4 .*ETA ([\d.]+ s|\d+ min.*)$", bar) for bar in drawn), drawn
    assert any("writing the report" in bar for bar in drawn)
    assert max(map(len, drawn)) < COLUMNS
    seen = screen(sent)
    assert not [line for line in seen if "░" in line or "█" in line]
    runs = [line for line in seen if re.match(r"\d/4  ", line)]
    assert [line[:3] for line in runs] == ["1/4", "2/4", "3/4", "4/4"]
    assert any(
        re.fullmatch(rf"\d/4  {CELL}  +repeat 1/1  ok, [\d,.]+ samples/s  [\d.]+ (s|min).*  ETA .*", line)
        for line in runs
    )
    assert sum('crashed: exit code 7: "sabotaged for a test" (2 attempts)' in line for line in runs) == 2
    # Nothing of luigi's but errors.
    assert not [line for line in seen if line.startswith("INFO") or "Luigi Execution Summary" in line]
    assert any(line.startswith(f"ERROR: CellCheck: {CELL}_again_r1: crashed: exit code 7") for line in seen)


@pytest.mark.slow
def test_pipe_gets_plain_lines_on_stderr(tmp_path: Path) -> None:
    calls = Calls(tmp_path / "work", ["--local-scheduler"])
    calls.study["models"] = ["vit0x0x0"]
    calls.write()
    done = calls.run()
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr + done.stdout and "\x1b" not in done.stderr + done.stdout
    runs = [line for line in done.stderr.splitlines() if re.match(r"\d/2  ", line)]
    assert re.fullmatch(rf"1/2  {CELL}  repeat 1/1  ok, [\d,.]+ samples/s  [\d.]+ s  ETA ([\d.]+ s|\d+ min.*)", runs[0])
    assert re.fullmatch(rf"2/2  {CELL}  traced run  ok, [\d,.]+ samples/s  [\d.]+ s", runs[1])
    assert "Informed scheduler" not in done.stderr
    assert "Luigi Execution Summary" not in done.stderr
    # luigi's log is shown on request.
    again = calls.run("--log-level", "INFO")
    assert "Informed scheduler" in again.stderr and "Luigi Execution Summary" in again.stderr


def draw(folder: Path, code: str, columns: int = 40, **environment: str) -> str:
    script = folder / "draw.py"
    script.write_text("import os, sys\nfrom tasks.progress import Terminal\n" + textwrap.dedent(code))
    settings = os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"} | environment
    ended, sent = at_a_terminal([sys.executable, str(script)], columns, env=settings)
    assert ended == 0, sent
    return sent


def test_bar_keeps_both_ends_on_a_narrow_terminal(tmp_path: Path) -> None:
    code = 'Terminal(sys.stderr).bar(0.5, "12/48", "gpu0_numa0_vit16x12x1024 measuring 40 %", "ETA 9 s")'
    (bar,) = bars(draw(tmp_path, code))
    assert bar == "██████░░░░░░ 12/48  ...ng 40 %  ETA 9 s" and len(bar) < 40
    (bar,) = bars(draw(tmp_path, code, columns=20))
    assert len(bar) < 20


def test_bar_uses_ascii_without_unicode(tmp_path: Path) -> None:
    sent = draw(tmp_path, 'Terminal(sys.stderr).bar(0.25, "1/4", "", "")', PYTHONIOENCODING="ascii")
    assert "###......... 1/4" in sent


def test_dumb_terminal_gets_no_bar(tmp_path: Path) -> None:
    code = 't = Terminal(sys.stderr); t.bar(0.5, "1/2", "", ""); t.line("a line")'
    assert draw(tmp_path, code, TERM="dumb") == "a line\r\n"


def test_bar_is_not_drawn_in_the_background(tmp_path: Path) -> None:
    sent = draw(
        tmp_path,
        """
        t = Terminal(sys.stderr)
        if child := os.fork():
            os.waitpid(child, 0)
            t.bar(0.5, "front", "", "")
        else:
            os.setpgid(0, 0)
            t.bar(0.5, "back", "", "")
        """,
    )
    assert "front" in sent and "back" not in sent


def test_closed_terminal_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    stream = os.fdopen(follower, "w")
    terminal = Terminal(stream)
    assert terminal.live
    os.close(leader)
    terminal.bar(0.5, "1/2", "", "")
    terminal.line("lost")
    terminal.clear()
    with pytest.raises(OSError):
        stream.close()
