"""Records without what a person would not pass on: names of hosts and users, paths, addresses, arguments, secrets.

What was measured stays, as do the names that the user gave to studies, models and metrics. Texts of programs that are
not this project's, as the output of a command that failed, are left out whole.
"""

import getpass
import os
import platform
import pwd
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.records.base import Record, convert, plain
from bench.records.results import CellRemarkKind

Kind = TypeVar("Kind", bound=Record)

PATH, HOST, USER, ADDRESS, SECRET = "/PATH", "HOST", "USER", "ADDRESS", "SECRET"
LEFT_OUT = "left out: it may hold what a program printed"
# Of a doubt: a process of a command, and threads.
_PROCESS = re.compile(r"^.{1,64}? \(\d+\): ")
_THREADS = re.compile(r"(?<=thread\(s\)) \(.*\)(?= may run)")
# The same on every host.
_SYSTEM = r"(?:proc|sys|dev|usr|etc/systemd)"
_QUOTED_PATH = re.compile(rf"""(?<=['"])~?/(?!{_SYSTEM}\b)[^'"\n]+(?=['"])""")
_PATH = re.compile(rf"""(?<![\w./<])~?/(?!{_SYSTEM}\b)[^\s'"`,;:()\[\]{{}}<>|]+""")
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s'\"<>]+", re.IGNORECASE)
_ADDRESS = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
    # IPv6 with :: or whole, which neither a time nor a PCI address has, nor a name in C++.
    r"|(?<![\w:])(?:(?:[0-9a-f]{1,4}:){1,7}:(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*)?|(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4})"
    r"(?![\w:])",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_\w{16,}|github_pat_\w{16,}|hf_\w{16,}|sk-[\w-]{16,}|xox[a-z]-[\w-]{10,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_NAMED_SECRETS = re.compile(
    r"((?:token|passwo?r?d|secret|api[_-]?key|access[_-]?key)\s*[=:]\s*|\bbearer\s+)\S+", re.IGNORECASE
)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|CRED|AUTH|COOKIE|PRIVATE", re.IGNORECASE)
# Shorter values of variables are settings, as "on".
_SHORTEST_SECRET = 6
_SHORTEST_NAME = 2
# Of a command, what says what was measured without saying with what.
_KEPT_OF_COMMAND = ("read", "metrics", "primary", "gpus", "client_cpus", "pass_env", "warmup_runs")
_EMPTIED: dict[str, Any] = {"log_tail": [], "python_path": [], "invocation": "", "again_of": ""}


@dataclass(frozen=True)
class Private:
    """words: what replaces each name of a host, a user, a folder, and each secret of this environment."""

    words: Mapping[str, str]

    def text(self, text: str) -> str:
        """A name alone, as of a cell or a setting, stays."""
        if not re.search(r"[\s/@:=]", text):
            return text
        for word, replacement in self.words.items():
            domain = r"(?:\.[\w-]+)*" if replacement == HOST else ""
            text = re.sub(rf"(?<![\w-]){re.escape(word)}{domain}(?![\w-])", replacement, text)
        text = _URL.sub(ADDRESS, text)
        text = _PATH.sub(PATH, _QUOTED_PATH.sub(PATH, text))
        text = _SECRETS.sub(SECRET, _ADDRESS.sub(ADDRESS, text))
        return _NAMED_SECRETS.sub(rf"\1{SECRET}", text)

    def record(self, record: Kind) -> Kind:
        """The same record without anything private."""
        return convert(self._value(plain(record)), type(record))

    def _value(self, value: Any, foreign: bool = False) -> Any:
        """foreign: of a cell that ran a program of the user, whose words are anybody's."""
        if isinstance(value, dict):
            foreign = foreign or _is_foreign(value)
            cleaned = {key: self._of(key, one, foreign) for key, one in value.items()}
            # The program's own remark about its result.
            return cleaned | {"other": LEFT_OUT} if value.get("kind") == CellRemarkKind.OF_OUTPUT else cleaned
        if isinstance(value, list | tuple):
            return [self._value(one, foreign) for one in value]
        return self.text(value) if isinstance(value, str) else value

    def _of(self, key: str, value: Any, foreign: bool) -> Any:
        if key in _EMPTIED and value:
            return _EMPTIED[key]
        if key == "host" and isinstance(value, str):
            return HOST if value else ""
        if key == "command" and isinstance(value, dict):
            return _command(value)
        if foreign and key in ("reason", "advice") and value:
            return LEFT_OUT
        if key == "text" and isinstance(value, str):
            return self.text(_THREADS.sub("", _PROCESS.sub("a process: ", value)))
        return self._value(value, foreign)


def private(hosts: Iterable[str], run_dir: Path) -> Private:
    """hosts: as records name them. What else is private is found on this host, in its environment."""
    paths = {run_dir.resolve(), run_dir.absolute(), Path.home(), Path.cwd(), *run_dir.resolve().parents}
    words = {str(path): PATH for path in sorted(paths, key=lambda path: -len(str(path))) if len(path.parts) > 1}
    values = [value for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    words |= {value: SECRET for value in values if len(value) >= _SHORTEST_SECRET}
    named = {one: HOST for host in (*hosts, platform.node()) for one in (host, host.partition(".")[0])}
    named |= dict.fromkeys(_users(run_dir), USER)
    return Private(words | {name: text for name, text in named.items() if len(name) >= _SHORTEST_NAME})


def _users(run_dir: Path) -> set[str]:
    """Of this process and of the run directory; root says nothing about anybody."""
    found = {os.environ.get("USER", ""), os.environ.get("LOGNAME", "")}
    with suppress(KeyError, OSError):  # a user without a name
        found |= {getpass.getuser(), pwd.getpwuid(run_dir.stat().st_uid).pw_name}
    return found - {"root"}


def _is_foreign(values: Mapping[str, Any]) -> bool:
    """Whether an entry is of a cell with a command, or with a model from elsewhere."""
    model = values.get("model")
    return isinstance(model, dict) and bool(model.get("command") or model.get("source"))


def _command(block: dict[str, Any]) -> dict[str, Any]:
    """Of a Command or CommandBlock: the programs without their arguments, and how their numbers are read."""
    kept = {key: value for key, value in block.items() if key in _KEPT_OF_COMMAND}
    kept |= {key: [Path(block[key][0]).name] for key in ("run", "server") if block.get(key)}
    kept |= {"env": dict.fromkeys(block.get("env", {}), "")}
    if "variants" in block:
        kept["variants"] = {name: _command(one) for name, one in block["variants"].items()}
    return kept
