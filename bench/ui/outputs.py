"""The output directory over http: files as they are, folders as pages that say what they hold."""

import os
import stat
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from bench.host.connections import OWN_HOST, is_own_user
from bench.ui.folders import folder_page

ADDRESS = "127.0.0.1"
# Between two loads of the page of a study that is measured, unless its address ends in ?pause.
_RELOAD_S = 5
_PAUSE = "pause"


def _for_everybody(path: Path) -> bool:
    """Whether permissions let every user read it: links are resolved, and every folder on the way counts."""
    try:
        found = path.stat()
        reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)
    except OSError:
        return False
    needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0)
    return reachable and found.st_mode & needed == needed


class Outputs(SimpleHTTPRequestHandler):
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
        # Never an index.html in place of a folder: that page would hide what is measured now.
        path = self.translate_path(self.path)
        if os.path.isdir(path) and urlsplit(self.path).path.endswith("/"):
            return self.list_directory(path)
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
            return Path(self.translate_path(self.path)).resolve().relative_to(outputs)
        except (ValueError, OSError, RuntimeError):
            # Also a name with a zero byte, one that is too long, and a loop of links.
            return None

    def list_directory(self, path: str | os.PathLike[str]) -> BytesIO | None:
        """Of another user's folder that everybody may read, names only: its records have permissions of their own."""
        paused = urlsplit(self.path).query == _PAUSE
        try:
            page = folder_page(Path(path), Path(self.directory), self._from_own_user(), paused)
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        content = page.text.encode(errors="replace")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if page.changing and not paused:
            self.send_header("Refresh", f"{_RELOAD_S}")
        self.end_headers()
        return BytesIO(content)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal of `make ui` shows the addresses."""
