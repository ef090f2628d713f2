"""Records without what a person would not pass on: hosts, users, paths, addresses, identifiers, arguments, secrets.

Each is replaced by the same name wherever it occurs, so that a report still reads. What was measured stays, as do the
names that the user gave to studies, models and metrics, as far as nothing private is in them. Texts of programs that
are not this project's, as the output of a command that failed, are left out whole.
"""

import os
import platform
import pwd
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.analysis.load import RunData
from bench.errors import StudyError
from bench.records.base import DamagedRecord, Record, convert, plain
from bench.records.host import Host
from bench.records.results import CellRemarkKind, Results

Kind = TypeVar("Kind", bound=Record)

HOST, USER, PATH, ADDRESS, ID, SECRET = "host", "user", "/path", "address", "id", "secret"
LEFT_OUT = "left out: it may hold what a program printed"
# Of a doubt: a process of a command, and threads.
_PROCESS = re.compile(r"^.{1,64}? \(\d+\): ")
_THREADS = re.compile(r"(?<=thread\(s\)) \(.*\)(?= may run)")
_HOME = re.compile(r"/(?:home|Users)/([A-Za-z_][\w.-]*)")
# Parts of names that this project gives, to cells and ranges: the same on every host, whoever is called so.
_OWN = re.compile(
    r"(?:pipeline|command|gpu|numa|cpu|mem|link|probe|r|vit[\dx]*|timm|python|pt|test|warmup|double|buffer|batch|h2d"
    r"|compute|d2h)\d*|[\d.,:-]+"
)
_PCI = re.compile(r"[0-9A-Fa-f]{0,8}(?::[0-9A-Fa-f]{2}){1,2}\.[0-7]")
# Paths that are the same on every host.
_KEPT = r"(?:proc|sys|dev|usr|etc/systemd)\b"
_PSEUDONYM = re.compile(r"(?:(?:host|user|address|id|secret|/path)_|GPU-)\d+(?![\w-])")
# What is known by its form. Of a pattern with a group `value`, only that is replaced.
_FORMS = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (SECRET, r"\b(?:(?:token|passwo?r?d|secret|api[_-]?key|access[_-]?key)\s*[=:]\s*|bearer\s+)(?P<value>\S+)"),
        (ID, r"\b(?:serial|machine[ _-]?id|asset[ _-]?tag)(?:[ _-]?n\w*)?(?:\s*[=:#]\s*|\s+)(?P<value>\S*\d\S*)"),
        (ADDRESS, r"\b[a-z][a-z0-9+.-]{1,15}://[^\s'\"<>]+"),
        (PATH, rf"""(?<=['"])~?/(?!{_KEPT})[^'"\n]+(?=['"])"""),
        (PATH, rf"""(?<![\w./<])~?/(?!{_KEPT})[^\s'"`,;:()\[\]{{}}<>|]+"""),
        (ID, r"(?:GPU-|MIG-)?(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])"),
        (ID, r"(?<![a-z0-9])(?:(?:GPU|MIG)-)?[0-9a-f]{32}(?![0-9a-f])|\b(?:GPU|MIG)-[0-9a-f]{6,}"),
        (ADDRESS, r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)(?::\d+)?|\bip(?:-\d{1,3}){4}\b"),
        # The lookbehind is for speed: the name of a kernel may have thousands of such letters.
        (ADDRESS, r"(?<![\w.-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
        # Of a network card, and of InfiniBand.
        (ADDRESS, r"(?<![\w:-])(?:[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}"
                  r"|(?:[0-9a-f]{4}:){3}[0-9a-f]{4})(?![\w:-])"),
        # IPv6 with :: or whole, which neither a time nor a PCI address has, nor a name in C++.
        (ADDRESS, r"(?<![\w:])(?:(?:[0-9a-f]{1,4}:){1,7}:(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*)?"
                  r"|(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4})(?![\w:])"),
        (SECRET, r"(?<![a-z0-9])(?:AKIA[0-9A-Z]{16}|gh[pousr]_\w{16,}|github_pat_\w{16,}|hf_\w{16,}|sk-[\w-]{16,}"
                 r"|xox[a-z]-[\w-]{10,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"),
    )
)  # fmt: skip
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|CRED|AUTH|COOKIE|PRIVATE", re.IGNORECASE)
# Shorter values of variables are settings, as "on"; longer ones are found inside other words too.
_SHORTEST_SECRET, _SHORTEST_INSIDE = 6, 8
_SHORTEST_NAME = 2
# Of a command, what says what was measured without saying with what.
_KEPT_OF_COMMAND = ("read", "metrics", "primary", "gpus", "client_cpus", "pass_env", "warmup_runs")
_EMPTIED: dict[str, Any] = {"log_tail": [], "python_path": [], "invocation": "", "again_of": ""}
# Remarks that hold the words of a program.
_OF_PROGRAMS = (CellRemarkKind.OF_OUTPUT, CellRemarkKind.SECOND_ATTEMPT)


class Private:
    """known: by word its kind, and the word that means the same (the host without its domain). names: of some of them.

    Names are numbered as they are needed, and what is found by its form is added: the same records give the same names,
    whoever makes a bundle of them, and where.
    """

    def __init__(self, known: Mapping[str, tuple[str, str]], names: Mapping[str, str] | None = None) -> None:
        self._kinds = known
        self._names = dict(names or {})
        self._counts = Counter[str]()
        self._texts: dict[str, str] = {}
        # A path or an address is one thing, whoever is named in it; a secret or a folder may have any form.
        self._first = self._pattern(SECRET, ID, PATH)
        self._last = self._pattern(USER, HOST)

    def text(self, text: str) -> str:
        """The same without anything private. The product's own words, as the name of a setting, stay."""
        if text in _fixed():
            return text
        if text not in self._texts:
            clean = self._first.sub(self._known_name, text)
            for kind, pattern in _FORMS:
                clean = pattern.sub(partial(self._found, kind), clean)
            self._texts[text] = self._last.sub(self._known_name, clean)
        return self._texts[text]

    def record(self, record: Kind) -> Kind:
        """The same record without anything private. Raise StudyError if it would be no record then."""
        try:
            return convert(self._value(plain(record)), type(record))
        except DamagedRecord as error:
            what = f"something private is where no other text may be: {error}"
            raise StudyError(
                what, type(record).__name__, "rename what is named after a host, a user or a secret"
            ) from None

    def _pattern(self, *kinds: str) -> re.Pattern[str]:
        """Of the words of these kinds, the longest first, and of what was replaced already."""
        words = sorted((word for word, (kind, _) in self._kinds.items() if kind in kinds), key=len, reverse=True)
        bounded = [_bounded(word, self._kinds[word][0]) for word in words] or ["(?!)"]
        return re.compile(rf"{_PSEUDONYM.pattern}|(?P<word>{'|'.join(bounded)})(?P<domain>(?:\.[\w-]+)*)")

    def _known_name(self, found: re.Match[str]) -> str:
        if not found["word"]:
            return found[0]
        kind, same = self._kinds[found["word"]]
        return self._name(kind, same) + ("" if kind == HOST else found["domain"])

    def _found(self, kind: str, found: re.Match[str]) -> str:
        place = "value" if "value" in found.re.groupindex else 0
        before, after = found.start(place) - found.start(), found.end(place) - found.start()
        return found[0][:before] + self._name(kind, found[place]) + found[0][after:]

    def _name(self, kind: str, value: str) -> str:
        if _PSEUDONYM.fullmatch(value):
            return value
        if value not in self._names:
            self._counts[kind] += 1
            self._names[value] = f"{kind}_{self._counts[kind]}"
        return self._names[value]

    def _value(self, value: Any, foreign: bool = False) -> Any:
        """foreign: of a cell that ran a program of the user, whose words are anybody's."""
        if isinstance(value, dict):
            foreign = foreign or _is_foreign(value)
            cleaned = {self._key(key): self._of(key, one, foreign) for key, one in value.items()}
            return cleaned | {"other": LEFT_OUT} if value.get("kind") in _OF_PROGRAMS else cleaned
        if isinstance(value, list | tuple):
            return [self._value(one, foreign) for one in value]
        return self.text(value) if isinstance(value, str) else value

    def _key(self, key: Any) -> Any:
        return self.text(key) if isinstance(key, str) else key

    def _of(self, key: str, value: Any, foreign: bool) -> Any:
        if key in _EMPTIED and value:
            return _EMPTIED[key]
        if key == "pci_bus_id" and isinstance(value, str) and _PCI.fullmatch(value):
            return value
        if key == "host" and isinstance(value, str):
            return value and self._name(HOST, _short(value))
        if key in ("uuid", "gpu_uuid") and value:
            return self._name(ID, value)
        if key == "command" and isinstance(value, dict):
            return self._value(_command(value))
        if foreign and key in ("reason", "advice") and value:
            return LEFT_OUT
        if key == "text" and isinstance(value, str):
            return self.text(_THREADS.sub("", _PROCESS.sub("a process: ", value)))
        return self._value(value, foreign)


def private(data: RunData, results: Results) -> Private:
    """What is private is named by the records, and found on this host and in its environment."""
    run_dir = data.path
    started = [word for run in data.runs.values() for word in run.command]
    named = [*_named(plain([results, data.host, data.study])), *(("", word) for word in started)]
    hosts = [results.host, data.host.host, *(run.fingerprint.host for run in data.runs.values()), platform.node()]
    hosts += [value for key, value in named if key == "host"]
    users = _users(run_dir) | {name for _, value in named for name in _HOME.findall(value)}
    # Not Path.home(), which fails for a user without one.
    home = Path(os.path.expanduser("~"))
    folders = {run_dir.resolve(), run_dir.absolute(), home, Path.cwd(), *run_dir.resolve().parents}
    secrets = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    secrets |= {value for key, value in named if key == "env"}
    gpus = _gpus(data, results)
    known = {word: (SECRET, word) for word in secrets if len(word) >= _SHORTEST_SECRET}
    known |= {str(folder): (PATH, str(folder)) for folder in folders if len(folder.parts) > 1}
    known |= {word: (USER, word) for word in users - {"root"} if len(word) >= _SHORTEST_NAME}
    known |= {word: (HOST, _short(host)) for host in hosts for word in _called(host) if len(word) >= _SHORTEST_NAME}
    return Private(known | {uuid: (ID, uuid) for uuid in gpus}, gpus)


def _bounded(word: str, kind: str) -> str:
    """A pattern of the word where it is one; of a long secret and of an identifier, anywhere."""
    escaped = re.escape(word)
    if kind == ID or (kind == SECRET and len(word) >= _SHORTEST_INSIDE):
        return escaped
    of_word = r"[\w-]" if _OWN.fullmatch(word) else "[A-Za-z0-9]"
    return rf"(?<!{of_word}){escaped}(?!{of_word})"


def _short(host: str) -> str:
    return host.partition(".")[0].lower()


def _called(host: str) -> set[str]:
    """With and without its domain, as programs print it."""
    return {one for name in (host, host.partition(".")[0]) for one in (name, name.lower())}


def _gpus(data: RunData, results: Results) -> dict[str, str]:
    """GPU-0 for the identifier of GPU 0, with and without the kind before it."""
    found = [(gpu.index, gpu.uuid) for gpu in (*data.host.gpus, *results.topology.gpus)]
    found += [(cell.gpu, cell.gpu_uuid) for cell in results.cells]
    names = {uuid: f"GPU-{index}" for index, uuid in found if uuid}
    return names | {uuid.removeprefix("GPU-"): name for uuid, name in names.items()}


def _named(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts below a value, each with its key; those of an environment have the key env."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _named(one, "env" if key == "env" else name)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _named(one, key)
    elif isinstance(value, str):
        yield key, value


def _users(run_dir: Path) -> set[str]:
    """Of this process and of the run directory."""
    found = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "LNAME", "USERNAME")}
    for user in (os.getuid(), run_dir.stat().st_uid):
        with suppress(KeyError):  # a user without a name
            found.add(pwd.getpwuid(user).pw_name)
    return found


@cache
def _fixed() -> frozenset[str]:
    """Names of fields, and the texts that a field may have where it may have no other."""
    return frozenset(_texts_of(msgspec.json.schema_components([Results, Host])))


def _texts_of(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        yield from (text for text in schema.get("enum", ()) if isinstance(text, str))
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for one in schema:
            yield from _texts_of(one)


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
