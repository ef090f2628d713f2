"""`make ui`: luigi's scheduler with its page, and the output directory over http. Both listen on loopback only."""

import os
import signal
import socket
import stat
import subprocess
import threading
import time
from functools import partial
from html import escape
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

from bench.errors import StudyError
from bench.host.connections import OWN_HOST, is_own_user
from bench.host.processes import die_with, python_module, without_relative_paths

ADDRESS = "127.0.0.1"
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
    files = ThreadingHTTPServer((ADDRESS, outputs_port), partial(_Outputs, directory=str(outputs)))
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
        luigid.wait(_STOP_S)
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


def _for_everybody(path: Path) -> bool:
    """Whether permissions let every user read it: links are resolved, and every folder on the way counts."""
    try:
        found = path.stat()
        reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)
    except OSError:
        return False
    needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0)
    return reachable and found.st_mode & needed == needed


class _Outputs(SimpleHTTPRequestHandler):
    """The output directory, without hidden files and without what links lead to outside of it.

    Another user gets what the permissions of the files let everybody read.

    Logs are shown instead of downloaded, and never from a cache: the log of a running study grows.
    """

    extensions_map = SimpleHTTPRequestHandler.extensions_map | dict.fromkeys(
        (".stderr", ".stdout", ".log", ".yaml", ".md"), "text/plain; charset=utf-8"
    )

    def send_head(self) -> BytesIO | BinaryIO | None:
        # A page of another site whose name resolves to this address (DNS rebinding) names itself here.
        if not OWN_HOST.fullmatch(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.FORBIDDEN, f"open http://{ADDRESS} instead")
            return None
        below = self._below_outputs()
        if below is None or any(part.startswith(".") for part in below.parts):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        if not self._from_own_user() and not _for_everybody(Path(self.directory).resolve() / below):
            self.send_error(HTTPStatus.FORBIDDEN, "not for other users")
            return None
        return super().send_head()

    def _from_own_user(self) -> bool:
        try:
            return is_own_user(self.client_address[:2], self.connection.getsockname()[:2])
        except OSError:
            return False

    def _below_outputs(self) -> Path | None:
        """The requested path with its links resolved, relative to the output directory; None if it is outside."""
        outputs = Path(self.directory).resolve()
        try:
            asked = Path(self.translate_path(self.path))
            # These are shown in place of a folder's listing.
            pages = (asked / "index.html", asked / "index.htm")
            return next(filter(Path.exists, pages), asked).resolve().relative_to(outputs)
        except (ValueError, OSError, RuntimeError):
            # Also a name with a zero byte, one that is too long, and a loop of links.
            return None

    def list_directory(self, path: str | os.PathLike[str]) -> BytesIO | None:
        try:
            with os.scandir(path) as entries:
                names = sorted(entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith("."))
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        title = escape(unquote(self.path, errors="replace"))
        # quote: a name may be that of another scheme, or have a query.
        rows = [f'<li><a href="./{quote(os.fsencode(name))}">{escape(name)}</a></li>' for name in names]
        page = f'<!doctype html><meta charset="utf-8"><title>{title}</title><h1>{title}</h1><ul>{"".join(rows)}</ul>'
        content = page.encode(errors="replace")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return BytesIO(content)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal of `make ui` shows the addresses."""
