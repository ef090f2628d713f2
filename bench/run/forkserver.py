"""Runs without the import of torch: forked from an interpreter that has done it, bound as the run is to be.

A fork server is started by the command of its first run without the run's arguments, binding included, and with the
run's own environment: what torch reads when it is imported is right for every run.
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

from bench.records.study import TRACED, Slot
from bench.run.child import Launch, NotStarted, Start, start_process
from bench.run.processes import end_session, start_ticks

EXEC, FORK = "exec", "fork"
_PROGRAM, _SERVER = ["-m", "bench.workload"], ["-m", "bench.workload.serve"]
_KILLED = -9
# For the server to fork, also on a host that swaps; to tell the end of a run that was ended.
_FORK_S = 30.0
_ANSWER_S = 3.0
_LEAVE_S = 0.5


def how_to_start(asked: str, slot: Slot, concurrent_gpus: int) -> str:
    """EXEC or FORK, for a run of a study that asks for `asked`.

    The first block and the traced runs have interpreters of their own: a traced run is compared with a timed one that
    was started as it was, and every cell shows what forking does to it. So do runs beside others, which begin together.
    """
    return EXEC if slot.repeat in (1, TRACED) or concurrent_gpus > 1 else asked


def served(argv: list[str]) -> list[str]:
    """The command of a forked run. Given to a shell, it forks that one run."""
    at = _place(argv, _PROGRAM)
    return [*argv[:at], *_SERVER, *argv[at + len(_PROGRAM) :]]


@dataclass(frozen=True)
class _Kind:
    """Runs of one kind can come from one server."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cpus: frozenset[int]


class ForkServers:
    """The fork servers of this process, begun anew for every block of a study."""

    def __init__(self) -> None:
        self._forget()
        atexit.register(self.end)

    def of_block(self, block: int, on_server: Callable[[int], None]) -> Start:
        """What starts the runs of a block, given their `served` commands. Servers of another block are ended: the runs
        of a server share the layout of its memory, and whatever that does to them must differ between blocks.

        on_server is told the ids of all servers at every start.
        """
        if self._owner != os.getpid():
            # Forked: the servers are those of the parent.
            self._forget()
        if block != self._block:
            self.end()
            self._block = block

        def start(launch: Launch, limit_s: float) -> tuple[ForkedChild, int]:
            server = self._server(launch, limit_s)
            for each in self._servers.values():
                on_server(each.pid)
            return server.fork(launch)

        return start

    def end(self) -> None:
        if self._owner == os.getpid():
            for server in self._servers.values():
                server.end()
        self._forget()

    def _server(self, launch: Launch, limit_s: float) -> "_Server":
        command = tuple(launch.argv[: _place(launch.argv, _SERVER) + len(_SERVER)])
        kind = _Kind(command, tuple(sorted(launch.environment.items())), launch.cpus)
        known = self._servers.pop(kind, None)
        if known and not known.is_good():
            known.end()
            known = None
        self._servers[kind] = known or _Server(replace(launch, argv=[*command]), limit_s)
        return self._servers[kind]

    def _forget(self) -> None:
        self._owner = os.getpid()
        self._servers: dict[_Kind, _Server] = {}
        self._block: int | None = None


class ForkedChild:
    """A run's process, which the server waits for. Its interface is that of subprocess.Popen."""

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
        # Its session was ended and the server does not say so.
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
    """Raise NotStarted, its last words being in the log of the run, if it does not come up."""

    def __init__(self, launch: Launch, limit_s: float) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server lives
        self._child: ForkedChild | None = None
        with theirs:
            descriptor = theirs.fileno()
            self._process = start_process(
                replace(
                    launch,
                    argv=[*launch.argv, "--socket", str(descriptor)],
                    stdout=self._words,
                    stderr=self._words,
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
        """Alive, and its last run went well: what a failed one leaves to the next is not known."""
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
        """Its next message; None if there is none in that time; {} if it is gone."""
        deadline = time.monotonic() + timeout_s
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        try:
            return json.loads(self._channel.recv(1 << 16) or b"{}")
        except OSError:
            return {}

    def end(self, why: str = "", log: BinaryIO | None = None) -> None:
        """log: where `why`, and what the server itself said, are written."""
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            # That was its sign to leave; if it has left already, its exit code tells why.
            self._process.wait(_LEAVE_S)
        if self._process.returncode is None:
            end_session(self.pid, self._ticks)
            self._process.wait()
        if log:
            self._words.seek(0)
            log.write(f"the fork server (pid {self.pid}) {why}\n".encode() + self._words.read())
            log.flush()
        self._words.close()


def _place(argv: list[str], words: list[str]) -> int:
    """Where these words are in a command."""
    return next(at for at in range(len(argv)) if argv[at : at + len(words)] == words)


# Of this process: runs of a study come one after the other.
SERVERS = ForkServers()
