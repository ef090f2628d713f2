"""python -m bench.workload.serve: runs forked from one interpreter, which has imported torch and not touched CUDA.

With --socket it serves the process that started it until that one hangs up. A message is the arguments of one run of
`python -m bench.workload`, with the run's stdout and stderr; the answers are {"pid", "start_ticks"} and, at the end
of the run, {"exit_code"}. With those arguments instead it makes that one run, and leaves with its exit code.
"""

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from bench.errors import StudyError
from bench.storage import stat_fields
from bench.workload.failures import CRASHED, RunFailure

MESSAGE_BYTES = 1 << 16
READY = {"ready": True}
_PR_SET_PDEATHSIG = 1
_ADVICE = "use start: exec, which gives each run an interpreter of its own"
_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> int:
    try:
        import_all()
        refuse_unsafe()
    except StudyError as error:
        print(f"no fork server: {error.what}; {error.advice}", file=sys.stderr)
        return error.exit_code
    # What lives now lives as long as every run does: no collection in a run writes to its pages.
    gc.collect()
    gc.freeze()
    if arguments[:1] == ["--socket"]:
        return serve(socket.socket(fileno=int(arguments[1])))
    code = os.waitstatus_to_exitcode(os.waitpid(fork(arguments, (1, 2)), 0)[1])
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
        raise RunFailure(CRASHED, f"it has {len(threads)} threads before the fork ({', '.join(threads)})", _ADVICE)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RunFailure(CRASHED, "CUDA was initialised before the fork", _ADVICE)
    opened = sorted({name for name in map(_target, (process / "fd").iterdir()) if name.startswith("/dev/nvidia")})
    if opened:
        raise RunFailure(CRASHED, f"it holds {', '.join(opened)} open before the fork", _ADVICE)


def serve(channel: socket.socket) -> int:
    """One run at a time, until the other side hangs up."""
    _send(channel, READY)
    while True:
        message, streams, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 2)
        if not message:
            return 0
        pid = fork(json.loads(message), (streams[0], streams[1]), (channel.fileno(), *streams))
        for stream in streams:
            os.close(stream)
        # Read before it is waited for: until then the kernel keeps it, though it may have ended.
        _send(channel, {"pid": pid, "start_ticks": int(stat_fields(pid)[19])})
        _, status = os.waitpid(pid, 0)
        _send(channel, {"exit_code": os.waitstatus_to_exitcode(status)})


def fork(arguments: list[str], streams: tuple[int, int], not_for_it: tuple[int, ...] = ()) -> int:
    """The id of a new process that leads a session by now, writes to `streams` and makes the run.

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
    return pid


def _run(
    arguments: list[str], streams: tuple[int, int], not_for_it: tuple[int, ...], server: int, settling: int
) -> NoReturn:
    """settling: closed when this process is what it is to be, or has ended."""
    code = 1
    try:
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == server:  # else it died before that
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
        # Nothing is left to be tidied up; torch's own way out takes time.
        os._exit(code)


def _workload(arguments: list[str]) -> int:
    from bench.workload.__main__ import main

    try:
        main(arguments, prog_name="python -m bench.workload")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _name_process(title: str) -> None:
    """What ps shows: the arguments of this run in place of the server's, as far as there is room for them."""
    # Where the kernel looks for the command line.
    begin, end = map(int, stat_fields(os.getpid())[45:47])
    if begin:
        ctypes.memmove(begin, title.encode()[: end - begin - 1].ljust(end - begin, b"\0"), end - begin)


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except OSError:  # the one that lists this folder
        return ""


def _send(channel: socket.socket, message: dict[str, object]) -> None:
    channel.send(json.dumps(message).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
