"""Crossings that need not import torch: forked from an interpreter that has, and that is bound to no node.

A fork server is started by the command of its first run without the run's arguments, and with the run's own
environment, so that what torch reads when it is imported is right for every run.
"""

import atexit
import json
import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from bench.host.processes import end_session
from bench.run.child import Launch, NotStarted, Start, start_process
from bench.storage import start_ticks

_PROGRAM, _SERVER = ["-m", "bench.workload"], ["-m", "bench.workload.serve"]
_KILLED = -9
# Time for the server to fork, also on a host that swaps, and to report the end of a run that was ended.
_FORK_S = 30.0
_ANSWER_S = 3.0
_END_S = 0.5


def served(argv: list[str]) -> list[str]:
    """The command of a forked run. In a shell it forks that one run."""
    at = _place(argv, _PROGRAM)
    return [*argv[:at], *_SERVER, *argv[at + len(_PROGRAM) :]]


@dataclass(frozen=True)
class _Kind:
    """Runs of one kind can share a server."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cpus: frozenset[int]


class ForkServers:
    """The fork server of this process: one for all runs of one kind, so for a whole study."""

    def __init__(self) -> None:
        self._owner, self._kind = os.getpid(), _Kind((), (), frozenset())
        self._server: _Server | None = None
        atexit.register(self.end)

    def starter(self, on_server: Callable[[int], None]) -> Start:
        """The function that starts runs, given their `served` commands. on_server is called with the server's id."""

        def start(launch: Launch, limit_s: float) -> tuple[ForkedChild, int]:
            server = self._of_kind(launch, limit_s)
            on_server(server.pid)
            return server.fork(launch)

        return start

    def end(self) -> None:
        # In a fork of this process the server is that of the parent.
        if self._server and self._owner == os.getpid():
            self._server.end()
        self._owner, self._server = os.getpid(), None

    def _of_kind(self, launch: Launch, limit_s: float) -> "_Server":
        command = tuple(launch.argv[: _place(launch.argv, _SERVER) + len(_SERVER)])
        kind = _Kind(command, tuple(sorted(launch.environment.items())), launch.cpus)
        if self._server is None or self._owner != os.getpid() or kind != self._kind or not self._server.is_good():
            self.end()
            self._server, self._kind = _Server(replace(launch, argv=[*command]), limit_s), kind
        return self._server


class ForkedChild:
    """A run's process, which is a child of the server. Its interface is that of subprocess.Popen."""

    def __init__(self, pid: int, server: "_Server", stderr: BinaryIO) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server, self._stderr = server, stderr

    def poll(self) -> int | None:
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(_ANSWER_S if timeout is None else timeout)
        if code is not None:
            return code
        if timeout is not None:
            raise subprocess.TimeoutExpired("a forked run", timeout)
        # Its session was ended, but the server did not report it.
        return self._lost("did not answer")

    def _look(self, timeout_s: float) -> int | None:
        if self.returncode is None:
            answer = self._server.receive(timeout_s)
            if answer == {}:
                return self._lost("ended")
            if answer is not None:
                self.returncode = answer["exit_code"]
        return self.returncode

    def _lost(self, what: str) -> int:
        # The kernel ends the run with its server.
        self._server.end(f"{what} before this run ended", self._stderr)
        self.returncode = _KILLED
        return self.returncode


class _Server:
    """Raise NotStarted, with its output in the log of the run, if it does not start."""

    def __init__(self, launch: Launch, limit_s: float) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server lives
        self._child: ForkedChild | None = None
        with theirs:
            descriptor = theirs.fileno()
            self._process = start_process(
                replace(
                    launch,
                    argv=[*launch.argv, "--socket", str(descriptor)],
                    stdout=self._output,
                    stderr=self._output,
                    keep_descriptors=(*launch.keep_descriptors, descriptor),
                )
            )
        self._ticks = start_ticks(self.pid)
        answer = None
        try:
            answer = self.receive(limit_s)
        finally:
            if not answer:
                self.end("did not come up", launch.stderr)
        if not answer:
            raise NotStarted(self._process.returncode, timed_out=answer is None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_good(self) -> bool:
        """Alive, and its last run succeeded: the effect of a failed run on the next one is not known."""
        return self._process.poll() is None and (self._child is None or self._child.returncode == 0)

    def fork(self, launch: Launch) -> tuple[ForkedChild, int]:
        arguments = launch.argv[_place(launch.argv, _SERVER) + len(_SERVER) :]
        streams = [launch.stdout.fileno(), launch.stderr.fileno()]
        answer = None
        try:
            with suppress(OSError):
                socket.send_fds(self._channel, [json.dumps(arguments).encode()], streams)
            answer = self.receive(_FORK_S)
        finally:
            if not answer:
                self.end("did not start this run", launch.stderr)
        if not answer:
            raise NotStarted(_KILLED)
        self._child = ForkedChild(answer["pid"], self, launch.stderr)
        return self._child, answer["start_ticks"]

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Its next message; None if none came in that time, {} if it has ended."""
        deadline = time.monotonic() + timeout_s
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        try:
            return dict(json.loads(self._channel.recv(1 << 16) or b"{}"))
        except OSError:
            return {}

    def end(self, why: str = "", log: BinaryIO | None = None) -> None:
        """log: for `why` and the server's own output."""
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            # It ends when the channel is closed; if it has ended already, its exit code is the reason.
            self._process.wait(_END_S)
        if self._process.returncode is None:
            end_session(self.pid, self._ticks)
            self._process.wait()
        if log:
            self._output.seek(0)
            log.write(f"the fork server (pid {self.pid}) {why}\n".encode() + self._output.read())
            log.flush()
        self._output.close()


def _place(argv: list[str], words: list[str]) -> int:
    """The index of these words in a command."""
    return next(at for at in range(len(argv)) if argv[at : at + len(words)] == words)


# One for this process: runs of a study follow each other.
SERVERS = ForkServers()
