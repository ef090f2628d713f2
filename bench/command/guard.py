"""The process that starts a command, measures its time, and ends all that it started.

It is started by its path, with an isolated interpreter, and imports nothing of this project: whatever a user's
environment says, it behaves alike. usage: guard.py PARENT REPORT SECRETS PROGRAM [ARGUMENT...]

SECRETS: names of variables, with commas between. What the program writes of their values never reaches a log: it writes
to this process then, which writes the name in place of a value.
It adopts what the command leaves behind, in whatever session. Asked to stop it passes SIGTERM on and waits GRACE_S;
where PARENT has ended it kills at once.
"""

import contextlib
import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import IO

GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def main(parent: int, report: str, secrets: str, argv: list[str]) -> int:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD))
    # Its own end is the end of this process's children, which SIGKILL would leave alone.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM
    began, read_before = time.monotonic(), _bytes_read()
    try:
        child, copying = _start(argv, [name for name in secrets.split(",") if os.environ.get(name)])
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr)
        return 127
    status, ended = _watch(child.pid, parent)
    _end_all()
    for thread in copying:
        thread.join(1.0)
    # The folder is gone where the program that asked is.
    with contextlib.suppress(OSError):
        write(report, f"{ended - began!r} {_bytes_read() - read_before}\n")
    return os.waitstatus_to_exitcode(status) if status >= 0 else 128 + signal.SIGTERM


def _start(argv: list[str], secrets: list[str]) -> tuple["subprocess.Popen[bytes]", list[threading.Thread]]:
    """The program, and threads that copy its output where it may hold values that no log must have."""
    pipe = subprocess.PIPE if secrets else None
    child = subprocess.Popen(argv, close_fds=False, preexec_fn=_prepare, stdout=pipe, stderr=pipe)
    values = {os.environb[os.fsencode(name)]: f"[{name}]".encode() for name in secrets}
    copying = [
        threading.Thread(target=copy, args=(stream, log, values), daemon=True)
        for stream, log in ((child.stdout, 1), (child.stderr, 2))
        if stream
    ]
    for thread in copying:
        thread.start()
    return child, copying


def copy(source: IO[bytes], target: int, values: dict[bytes, bytes]) -> None:
    """All that comes from a pipe, with the names of values in their place.

    Where it cannot be written, as to a full disk, the pipe is closed: the program would wait for a reader for ever.
    """
    rest, more = b"", b"-"
    with contextlib.suppress(OSError), source:
        while more:
            more = os.read(source.fileno(), 1 << 16)
            content, rest = named(rest + more, values, whole=not more)
            while content:
                content = content[os.write(target, content) :]


def named(content: bytes, values: dict[bytes, bytes], whole: bool) -> tuple[bytes, bytes]:
    """(content with names, its end that may become a value with what follows). whole: nothing follows."""
    if not values:
        return content, b""
    # Of two values that begin alike the longer one first.
    longest_first = sorted(values, key=len, reverse=True)
    found, at = b"", 0
    for match in re.finditer(b"|".join(map(re.escape, longest_first)), content):
        if not whole and match.end() == len(content) and any(_begins(value, match[0]) for value in values):
            break
        found, at = found + content[at : match.start()] + values[match[0]], match.end()
    tail = content[at:]
    if whole:
        return found + tail, b""
    starts = range(max(0, len(tail) - len(longest_first[0]) + 1), len(tail))
    cut = next((start for start in starts if any(_begins(value, tail[start:]) for value in values)), len(tail))
    return found + tail[:cut], tail[cut:]


def _begins(value: bytes, part: bytes) -> bool:
    return len(part) < len(value) and value.startswith(part)


def _bytes_read() -> int:
    """From the storage, by this process and what it has reaped, with what that had; 0 if the kernel counts none."""
    with contextlib.suppress(OSError), open("/proc/self/io") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), 0)
    return 0


def write(path: str, text: str) -> None:
    with open(f"{path}.part", "w") as file:
        file.write(text)
    os.replace(f"{path}.part", path)


def _prepare() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD))
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(child: int, parent: int) -> tuple[int, float]:
    """(wait status of the child, when it ended); -1 where it was killed because this process was to stop."""
    deadline = None
    while True:
        status = _reaped(child)
        if status is not None:
            return status, time.monotonic()
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return -1, time.monotonic()
        # SIGCHLD wakes it too.
        found = signal.sigtimedwait((signal.SIGTERM, signal.SIGINT, signal.SIGCHLD), 3600.0 if left is None else left)
        if found and found.si_signo != signal.SIGCHLD:
            if os.getppid() != parent:
                return -1, time.monotonic()
            if deadline is None:
                deadline = time.monotonic() + GRACE_S
                os.kill(child, signal.SIGTERM)


def _reaped(child: int) -> int | None:
    """The status of the child if it ended; whatever else ended meanwhile is reaped too."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _end_all() -> None:
    """Kill the children of this process, and what they leave behind in turn, until there are none."""
    for _ in range(500):
        children = _children()
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _children() -> list[int]:
    own, found = str(os.getpid()), []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", errors="backslashreplace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if len(fields) > 1 and fields[1] == own:
            found.append(int(entry))
    return found


if __name__ == "__main__":
    code = main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
    if code < 0:
        # As the command ended, for whoever waits for this process.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (-code,))
        os.kill(os.getpid(), -code)
    sys.exit(code)
