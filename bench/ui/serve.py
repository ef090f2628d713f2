"""luigi's scheduler with its page, and the output directory over http, until a signal ends both."""

import os
import signal
import socket
import stat
import subprocess
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

from bench.errors import StudyError
from bench.host.processes import die_with, python_module, without_relative_paths
from bench.ui.outputs import ADDRESS, Outputs

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_START_S = 30
_STOP_S = 20


def serve(state: Path, outputs: Path, config: Path, port: int = 8082, outputs_port: int = 8083) -> int:
    """Run both servers until SIGINT, SIGTERM or SIGHUP. Return the exit code.

    Raise StudyError if a port is taken or luigid ends unexpectedly.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(state)
    outputs.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    for number in _STOPPING:
        signal.signal(number, lambda *_: stop.set())
    for each, option in ((port, "--port"), (outputs_port, "--outputs-port")):
        _check_port(each, option)
    log = state / "servers.log"
    files = ThreadingHTTPServer((ADDRESS, outputs_port), partial(Outputs, directory=str(outputs)))
    threading.Thread(target=files.serve_forever, daemon=True).start()
    luigid = _start_luigid(state, config, port, log)
    try:
        _wait_for_answer(luigid, port, stop)
        if not stop.is_set() and luigid.poll() is None:
            print(
                f"tasks:   http://{ADDRESS}:{port}\noutputs: http://{ADDRESS}:{outputs_port} ({outputs})\n"
                f"state:   {state}\nCtrl-C stops both",
                flush=True,
            )
        while not stop.wait(0.2) and luigid.poll() is None:
            pass
        unexpected_end = luigid.poll()
    finally:
        # luigid saves its tasks only when it is stopped cleanly.
        luigid.terminate()
        files.shutdown()
        with suppress(subprocess.TimeoutExpired):
            luigid.wait(_STOP_S)
        luigid.kill()
    if unexpected_end is not None and not stop.is_set():
        raise StudyError(
            f"luigid ended with exit code {unexpected_end}",
            str(log),
            "the reason is at the end of the log",
        )
    return 0


def _start_luigid(state: Path, config: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """In its own session: Ctrl-C reaches only this process, which then stops luigid once."""
    parent = os.getpid()
    argv = python_module("bench.luigid", "--address", ADDRESS, "--port", str(port))
    argv += ["--state-path", str(state / "luigi-state.pickle")]
    with log.open("ab") as file:
        return subprocess.Popen(
            argv,
            env=without_relative_paths(dict(os.environ)) | {"LUIGI_CONFIG_PATH": str(config)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            # If this process is killed, luigid stops cleanly and frees its port.
            preexec_fn=lambda: die_with(parent, signal.SIGTERM),
        )


def _wait_for_answer(luigid: subprocess.Popen[bytes], port: int, stop: threading.Event) -> None:
    end = time.monotonic() + _START_S
    while luigid.poll() is None and not stop.is_set() and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((ADDRESS, port)) == 0:
                return
        stop.wait(0.1)


def _check_private(state: Path) -> None:
    """luigid loads its state as a pickle: whoever can write it can run any code."""
    found = state.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StudyError("another user can write there", str(state), f"chmod 700 {state}, or another folder as --state")


def _check_port(port: int, option: str) -> None:
    with socket.socket() as probe:
        # As the servers do: connections of a server that has just ended do not block its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise StudyError(
                f"port {port} cannot be used: {error.strerror}",
                f"{ADDRESS}:{port}",
                f"check whether `make ui` is running already; if not: numastudy ui {option} N --state FOLDER",
            ) from None
