"""`make ui`: luigi's scheduler with its page, and the output directory over http. Both on loopback only."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.errors import StudyError
from bench.host.processes import die_with, without_relative_paths

ADDRESS = "127.0.0.1"
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_START_S = 30
_STOP_S = 20


def serve(state: Path, outputs: Path, config: Path, port: int = 8082, outputs_port: int = 8083) -> int:
    """Run both servers until SIGINT, SIGTERM or SIGHUP. Return the exit code.

    Raise StudyError if a port is taken, or if luigid ends by itself.
    """
    state.mkdir(parents=True, exist_ok=True)
    outputs.mkdir(parents=True, exist_ok=True)
    command = Path(sys.executable).with_name("luigid")
    if not command.exists():
        raise StudyError("luigid is not installed beside this python", str(command), "make install")
    stop = threading.Event()
    for number in _STOPPING:
        signal.signal(number, lambda *_: stop.set())
    for each, option in ((port, "--port"), (outputs_port, "--outputs-port")):
        _refuse_taken(each, option)
    log = state / "servers.log"
    files = ThreadingHTTPServer((ADDRESS, outputs_port), partial(_Outputs, directory=str(outputs)))
    threading.Thread(target=files.serve_forever, daemon=True).start()
    luigid = _start_luigid(command, state, config, port, log)
    try:
        _wait_until_it_answers(luigid, port, stop)
        if not stop.is_set() and luigid.poll() is None:
            print(
                f"tasks:   http://{ADDRESS}:{port}\noutputs: http://{ADDRESS}:{outputs_port} ({outputs})\n"
                f"state:   {state}\nCtrl-C ends both",
                flush=True,
            )
        while not stop.wait(0.2) and luigid.poll() is None:
            pass
        ended_by_itself = luigid.poll()
    finally:
        # luigid saves its tasks when it is stopped cleanly, and only then.
        luigid.terminate()
        files.shutdown()
        luigid.wait(_STOP_S)
    if ended_by_itself is not None and not stop.is_set():
        raise StudyError(
            f"luigid ended with exit code {ended_by_itself}",
            str(log),
            "the end of the log says why",
        )
    return 0


def _start_luigid(command: Path, state: Path, config: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C reaches the caller alone, who stops luigid once."""
    parent = os.getpid()
    argv = [str(command), "--address", ADDRESS, "--port", str(port), "--state-path", str(state / "luigi-state.pickle")]
    with log.open("ab") as file:
        return subprocess.Popen(
            argv,
            env=without_relative_paths(dict(os.environ)) | {"LUIGI_CONFIG_PATH": str(config)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            # If this process is killed, luigid still stops cleanly and frees its port.
            preexec_fn=lambda: die_with(parent, signal.SIGTERM),
        )


def _wait_until_it_answers(luigid: subprocess.Popen[bytes], port: int, stop: threading.Event) -> None:
    end = time.monotonic() + _START_S
    while luigid.poll() is None and not stop.is_set() and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((ADDRESS, port)) == 0:
                return
        stop.wait(0.1)


def _refuse_taken(port: int, option: str) -> None:
    with socket.socket() as probe:
        # As the servers do it: connections of a server that has just ended do not keep its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise StudyError(
                f"port {port} cannot be used: {error.strerror}",
                f"{ADDRESS}:{port}",
                f"is `make ui` running already? If not: numastudy ui {option} N --state FOLDER",
            ) from None


class _Outputs(SimpleHTTPRequestHandler):
    """The output directory. Logs are shown, not downloaded, and never from a cache: a running one grows."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | dict.fromkeys(
        (".stderr", ".stdout", ".log", ".yaml", ".md"), "text/plain; charset=utf-8"
    )

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal of `make ui` shows its addresses."""
