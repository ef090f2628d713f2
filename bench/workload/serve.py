"""python -m bench.workload.serve: runs forked from one interpreter, which has imported torch and not touched CUDA.

With --socket it serves the process that started it until that one closes the connection. A message is the arguments of
one run of `python -m bench.workload`, with the run's stdout and stderr; the answers are {"pid", "start_ticks"} and, at
the end of the run, {"exit_code"}. With those arguments instead it executes that one run, and exits with its exit code.
"""

import ctypes
import gc
import importlib
import json
import os
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from bench.errors import StudyError
from bench.host.processes import die_with
from bench.records.run import Outcome
from bench.storage import stat_fields
from bench.workload.failures import RunFailure

MESSAGE_BYTES = 1 << 16
READY: dict[str, int | bool] = {"ready": True}
_ADVICE = "use start: exec, which gives each process an interpreter of its own"


def main(arguments: list[str]) -> int:
    try:
        import_all()
        refuse_unsafe()
    except StudyError as error:
        print(f"no fork server: {error.what}; {error.advice}", file=sys.stderr)
        return error.exit_code
    # What exists now exists in every run: no collection in a run writes to its pages.
    gc.collect()
    gc.freeze()
    if arguments[:1] == ["--socket"]:
        return serve(socket.socket(fileno=int(arguments[1])))
    code = os.waitstatus_to_exitcode(os.waitpid(fork(arguments, (1, 2))[0], 0)[1])
    return code if code >= 0 else 128 - code


def import_all() -> None:
    """All that a run imports."""
    from bench.workload.__main__ import import_torch

    import_torch(True)
    importlib.import_module("bench.workload.run")


def refuse_unsafe(process: Path = Path("/proc/self")) -> None:
    """Raise RunFailure where a fork would copy a process that has threads, or has begun to use a GPU."""
    threads = sorted((task / "comm").read_text().strip() for task in (process / "task").iterdir())
    if len(threads) > 1:
        raise RunFailure(
            Outcome.CRASHED, f"it has {len(threads)} threads before the fork ({', '.join(threads)})", _ADVICE
        )
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RunFailure(Outcome.CRASHED, "CUDA was initialised before the fork", _ADVICE)
    opened = sorted({name for name in map(_target, (process / "fd").iterdir()) if name.startswith("/dev/nvidia")})
    if opened:
        raise RunFailure(Outcome.CRASHED, f"it holds {', '.join(opened)} open before the fork", _ADVICE)


def serve(channel: socket.socket) -> int:
    """One run at a time, until the other side closes the connection."""
    _send(channel, READY)
    while True:
        message, streams, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 2)
        if not message:
            return 0
        pid, ticks = fork(json.loads(message), (streams[0], streams[1]), (channel.fileno(), *streams))
        for stream in streams:
            os.close(stream)
        _send(channel, {"pid": pid, "start_ticks": ticks})
        _, status = os.waitpid(pid, 0)
        _send(channel, {"exit_code": os.waitstatus_to_exitcode(status)})


def fork(arguments: list[str], streams: tuple[int, int], not_for_it: tuple[int, ...] = ()) -> tuple[int, int]:
    """The id and start tick of a new process that leads a session of its own, writes to `streams` and executes the run.

    not_for_it: descriptors that it closes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    server = os.getpid()
    settled, settling = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run(arguments, streams, (settled, *not_for_it), server, settling)
    os.close(settling)
    os.read(settled, 1)
    os.close(settled)
    # Before it is waited for: until then the kernel keeps it, even if it has ended.
    fields = stat_fields(pid)
    return pid, int(fields[19]) if fields else 0


def _run(
    arguments: list[str], streams: tuple[int, int], not_for_it: tuple[int, ...], server: int, settling: int
) -> NoReturn:
    """settling: closed when this process is set up, or has ended."""
    code = 1
    try:
        os.setsid()
        die_with(server)
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream, number)
        for descriptor in not_for_it:
            os.close(descriptor)
        _name_process(f"bench.workload {' '.join(arguments)}")
        os.close(settling)
        code = _workload(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        # There is nothing to clean up, and torch takes time to exit.
        os._exit(code)


def _workload(arguments: list[str]) -> int:
    from bench.workload.__main__ import main

    try:
        main(arguments, prog_name="python -m bench.workload")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _name_process(title: str) -> None:
    """Let ps show the arguments of this run in place of the server's, as far as they fit."""
    # Where the kernel reads the command line.
    begin, end = map(int, (stat_fields(os.getpid()) or ["0"] * 47)[45:47])
    if begin:
        ctypes.memmove(begin, title.encode()[: end - begin - 1].ljust(end - begin, b"\0"), end - begin)


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except OSError:  # the one that lists this folder
        return ""


def _send(channel: socket.socket, message: dict[str, int | bool]) -> None:
    channel.send(json.dumps(message).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
