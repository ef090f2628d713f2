"""nsys's agent: a daemon in a session of its own, which outlives nsys when that is killed, and now and then anyway.

It inherits the descriptors of the run, a host lock among them: left alone it would hold the host for ever.
"""

import hashlib
import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path

GRACE_S = 1.0
KILL_S = 5.0


def session_name(report: Path) -> str:
    """A new name, by which the agents of this report can be told from all others; it stands in their command lines.

    New at each call: nsys keeps the name of an agent that was killed as taken ("Agent launcher failed") until one with
    another name has cleared the table.
    """
    return _stem(report) + secrets.token_hex(4)


def agents(report: Path) -> list[int]:
    """PIDs of living agents of the report's sessions."""
    sign = b"--session-name=" + _stem(report).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if b"--start-agent" in arguments and any(each.startswith(sign) for each in arguments):
                    found.append(int(entry.name))
    return found


def end_agents(report: Path) -> None:
    """Give them a moment to end by themselves, then end them; return when they are gone."""
    begin = time.monotonic()
    while (left := agents(report)) and (waited := time.monotonic() - begin) < GRACE_S + KILL_S:
        if waited > GRACE_S:  # time and again: one that was just starting may have forked meanwhile
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _stem(report: Path) -> str:
    return f"numastudy-{hashlib.sha256(os.fsencode(report.resolve())).hexdigest()[:16]}-"
