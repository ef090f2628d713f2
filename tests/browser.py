"""A real headless Chromium, driven through chromedriver's W3C protocol with nothing but the standard library."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.needs import require
from tests.ports import free_port

# Chromium's own traffic (updates, safe browsing) is switched off, so that what is left is the page's.
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--disable-default-apps", "--disable-dev-shm-usage"),
)


class Browser:
    """One window. Get one from open_browser()."""

    def __init__(self, base: str, width: int, height: int, profile: Path) -> None:
        self._base = base
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"],
                   "binary": shutil.which("chromium")}  # fmt: skip
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                  "timeouts": {"script": 200_000, "pageLoad": 200_000}}  # fmt: skip
        answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base = f"{base}/session/{answer['sessionId']}"
        # Leave Chromium's own start page, and forget what it asked for.
        self.open("about:blank")
        self.console()
        self.requests()

    def open(self, url: str) -> None:
        """Returns when the page has loaded."""
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of `return ...` in a script."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        """The page's own size in CSS pixels, also below the least width of a window."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """whole: the page from top to bottom, not only what the window shows."""
        found = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        found = self.devtools("Page.printToPDF", printBackground=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def console(self) -> list[str]:
        """Messages of the console since the last call, errors and warnings only."""
        entries = self._ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """The addresses requested since the last call."""
        entries = self._ask("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        self._ask("DELETE", "")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=240) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {json.load(error)['value']['message']}") from None


@contextmanager
def open_browser(profile: Path, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A separate browser; profile: an empty folder. Without chromium the test is skipped, in CI it fails."""
    require("chromium")
    port = free_port()
    # Chromium makes a socket there, whose path may have 107 characters.
    short = os.environ | {"TMPDIR": "/tmp"}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(["chromedriver", f"--port={port}"], env=short, stdout=quiet, stderr=quiet)
    try:
        _wait_for(port, process)
        browser = Browser(f"http://127.0.0.1:{port}", width, height, profile)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait(120)


def _wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(1200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError("chromedriver did not start")
