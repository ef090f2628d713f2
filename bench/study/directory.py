"""The run directory: one study on one host, self-contained; and the index that finds it."""

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from msgspec import structs

from bench.errors import HostChanged, StudyError
from bench.host.fingerprint import describe_change, fingerprint, fingerprint_changes
from bench.host.topology import read_topology
from bench.records.base import DamagedRecord, Kind, convert, plain, read
from bench.records.host import Host, Topology
from bench.records.study import Grid, IndexEntry, Study, run_name
from bench.storage import MOST_NAME, read_regular, real, sync_folders, write_json, write_text
from bench.study.command import COMMAND_SETTINGS
from bench.study.folder import not_a_run
from bench.study.grid import Expansion, expand_here
from bench.study.load import StudyDefinition
from bench.study.settings import KEYS, OF_THE_PIPELINE, SETTINGS
from bench.study.yaml_text import LARGEST_FILE_BYTES, parse_yaml

INDEX = "index.json"
_DAY_AND_CLOCK = "%Y-%m-%d/%H-%M-%S"
PARTS = ("cells", "links", "runs", "logs", "nsys_reports", "latency")
# Of a study on many hosts: the folder of their run directories.
HOSTS = "hosts"
# SQLite opens paths of up to 511 bytes. A file of a cell is in a folder of the run directory, and has a temporary name
# beside it, with the name of its writer.
_LONGEST_PATH = 511
_OF_A_FILE = len("/nsys_reports/..sqlite.12345678-4026531836-4194304-1234567890.12345678.part-journal")
_FRESH = "start the study again with --fresh"


Expand = Callable[[StudyDefinition, Topology], Expansion]


@dataclass(frozen=True)
class RunDirectory:
    """Paths and frozen facts of one study's folder."""

    path: Path

    @property
    def outputs(self) -> Path:
        """The output directory. path is <study>/<date>/<time> below it, or hosts/<host> of a study on many hosts."""
        return self.path.resolve().parents[4 if self.of_cluster else 2]

    @property
    def of_cluster(self) -> bool:
        return self.path.parent.name == HOSTS

    def record(self, cell: str, repeat: int | str) -> Path:
        return self.path / "runs" / f"{run_name(cell, repeat)}.json"

    def log(self, run: str, stream: str) -> Path:
        return self.path / "logs" / f"{run}.{stream}"

    def report(self, cell: str) -> Path:
        """The trace of a cell, without its ending (that is the profiler's)."""
        return self.path / "nsys_reports" / cell

    def sqlite(self, cell: str) -> Path:
        return self.path / "nsys_reports" / f"{cell}.sqlite"

    def export_record(self, cell: str) -> Path:
        return self.path / "nsys_reports" / f"{cell}.export.json"

    def metrics(self, cell: str) -> Path:
        return self.path / "latency" / f"{cell}.json"

    def state(self) -> str:
        """Identifies one state of all records: whatever is derived from them is derived again when it changes."""
        digest = hashlib.sha256()
        for folder, ending in (("runs", ".json"), ("nsys_reports", ".export.json"), ("latency", ".json")):
            with suppress(FileNotFoundError), os.scandir(self.path / folder) as entries:
                for entry in sorted(
                    (each for each in entries if each.name.endswith(ending)), key=lambda each: each.name
                ):
                    status = entry.stat()
                    digest.update(f"{entry.name} {status.st_mtime_ns} {status.st_size}\n".encode())
        return digest.hexdigest()[:16]

    def link(self, name: str) -> Path:
        """The measured link of one GPU from one placement."""
        return self.path / "links" / f"{name}.json"

    def probe(self, when: str) -> Path:
        """Measured locality, "before" the first run or "after" the last."""
        return self.path / f"probe_{when}.json"

    @property
    def preflight(self) -> Path:
        """The checks of doctor when the study began."""
        return self.path / "preflight.json"

    @property
    def demand(self) -> Path:
        """Which cells need more repeats than the study asks for, and why."""
        return self.path / "demand.json"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def experiment_log(self) -> Path:
        return self.path / "logs" / "experiment.log"

    def study(self) -> Study:
        """The resolved study. Raise StudyError if it is missing or damaged. It is read once."""
        file = self.path / "study.yaml"
        return _study_at(self.path, file.stat().st_mtime_ns if file.exists() else 0)

    def host(self) -> Host:
        """The host as it was when the study began. Raise StudyError if the file is missing or damaged."""
        return _read(self.path / "topology.json", Host, "the host of the study")

    def grid(self) -> Grid:
        """Raise StudyError if it is damaged."""
        return _read(self.path / "grid.json", Grid, "the grid of the study")


def check_run_directory(path: Path) -> None:
    """Raise StudyError for a folder that is not a run directory; one that is damaged is reported where it is read."""
    whole = (path / "study.yaml").exists() and (path / "grid.json").exists()
    if not whole or (path / "cluster.json").is_file():
        raise not_a_run(path)


@lru_cache(maxsize=64)
def _study_at(path: Path, _mtime_ns: int) -> Study:
    return read_resolved_study(path)


def read_resolved_study(path: Path) -> Study:
    """study.yaml of the run directory `path`. Raise StudyError if it is missing or damaged."""
    file = path / "study.yaml"
    try:
        text = read_regular(file, LARGEST_FILE_BYTES).decode()
    except (FileNotFoundError, NotADirectoryError):
        raise not_a_run(path) from None
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise StudyError(f"the resolved study cannot be read: {what}", str(file), _FRESH) from None
    try:
        return convert(parse_yaml(text, file, aliases=False), Study)
    except StudyError as error:
        raise StudyError(f"the resolved study cannot be read: {error.what}", error.where, _FRESH) from None
    except DamagedRecord as error:
        raise StudyError(f"the resolved study is damaged: {error}", str(file), _FRESH) from None


def _read(file: Path, kind: type[Kind], name: str, advice: str = _FRESH) -> Kind:
    try:
        return read(file, kind)
    except DamagedRecord as error:
        raise StudyError(f"{name} is damaged: {error}", str(file), advice) from None
    except OSError as error:
        what = f"{name} cannot be read: {error.strerror}"
        raise StudyError(what, str(file), f"make it readable, or {advice}") from None


def freeze(path: Path, study: Study, host: Host, grid: Grid) -> None:
    """Write the files that a run directory is based on. grid.json last: a directory with it is complete."""
    write_text(path / "study.yaml", study_text(study))
    write_json(path / "topology.json", plain(host))
    write_json(path / "grid.json", plain(grid))


def study_text(study: Study) -> str:
    """The study as YAML, its keys in the order of the documentation."""
    values = {key: value for key, value in plain(study).items() if value not in ("", {}, ())}
    if study.command:
        of_pipeline = {*SETTINGS} - {*COMMAND_SETTINGS, *OF_THE_PIPELINE}
        values = {key: value for key, value in values.items() if key not in of_pipeline}
    ordered = {key: values[key] for key in (*KEYS, *values) if key in values}
    return yaml.safe_dump(ordered, sort_keys=False)


def study_fingerprint(study: dict[str, Any], host: str) -> str:
    """Of a study with its overrides, before anything of the host is filled in."""
    return hashlib.sha256(json.dumps([study, host], sort_keys=True).encode()).hexdigest()[:16]


def check_path_length(path: Path, grid: Grid) -> None:
    """Raise StudyError for a run directory in which the files of a cell could not be opened.

    path: with its date and time.
    """
    longest = max(len(cell.name) for cell in grid.cells)
    most, bytes_of_path = _LONGEST_PATH - _OF_A_FILE - min(longest, MOST_NAME), len(os.fsencode(path))
    if bytes_of_path > most:
        raise StudyError(
            f"the path of the run directory would have {bytes_of_path} bytes; with these cells it may have {most}",
            str(path),
            "choose an --output-dir with a shorter path",
        )


def path_of_new(definition: StudyDefinition, output_dir: Path) -> Path:
    """The path that a new run directory would have now."""
    return real(output_dir) / definition.name / time.strftime(_DAY_AND_CLOCK)


# The index of outputs/<study name>/: run directories by the study's fingerprint.
Index = dict[str, IndexEntry]


def read_index(folder: Path) -> Index:
    """Raise StudyError if it is damaged, or points out of the folder."""
    path = folder / INDEX
    return _read(path, Index, "the index of the study", "delete it, or repair it by hand") if path.exists() else {}


@contextmanager
def study_index(folder: Path) -> Iterator[Index]:
    """The index, locked; written back if it was changed. Raise StudyError if it cannot be written or locked."""
    with _writing_below(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".index.lock").open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise without_locks(error, folder) from None
        index = read_index(folder)
        before = dict(index)
        yield index
        if index != before:
            write_json(folder / INDEX, plain(index))


def without_locks(error: OSError, where: Path) -> StudyError:
    return StudyError(
        f"this file system cannot lock files: {error.strerror}",
        str(where),
        "mount it with locks (nfs: without nolock; lustre: -o flock), or choose another --output-dir",
    )


def new_directory(folder: Path, parts: tuple[str, ...] = PARTS) -> Path:
    """outputs/<study name>/<YYYY-MM-DD>/<HH-MM-SS>/, created with its parts; a second one in that second gets -2.

    Raise StudyError if it cannot be created.
    """
    day = folder / time.strftime("%Y-%m-%d")
    clock = time.strftime("%H-%M-%S")
    for attempt in range(1, 1000):
        path = day / (clock if attempt == 1 else f"{clock}-{attempt}")
        with _writing_below(folder):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            make_parts(path, parts)
            # The folders of the time, of the day and of the study, and the one above.
            sync_folders(path, levels=3)
        return path
    raise StudyError("too many run directories in one second", str(day), "try again")


def make_parts(path: Path, parts: tuple[str, ...] = PARTS) -> None:
    """Raise StudyError if they cannot be created."""
    with _writing_below(path):
        for part in parts:
            (path / part).mkdir(parents=True, exist_ok=True)


@contextmanager
def _writing_below(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"cannot write there: {error.strerror}",
            str(folder),
            "make room, or choose another folder with --output-dir",
        ) from None


def resolve(
    definition: StudyDefinition,
    output_dir: Path,
    fresh: bool,
    invocation: str,
    night: str = "",
    expand: Expand = expand_here,
) -> RunDirectory:
    """The run directory of this study on this host: the existing one, else (or with `fresh`) a new one.

    night: a date, for which the study is measured once; each has a run directory of its own.
    expand: how a new one is laid out on the host (budget.expand_in_time).
    Raise HostChanged, StudyError.
    """
    of_night = {"night": night} if night else {}
    identity = study_fingerprint(definition.as_json() | of_night, socket.gethostname())
    folder = real(output_dir) / definition.name
    with study_index(folder) as index:
        entry = _own_entry(index.get(identity), fresh, invocation)
        host = _read_host(socket.gethostname())
        if entry and _is_begun(folder / entry.path):
            found = RunDirectory(folder / entry.path)
            _check_same_host(found, host)
            return found
        here = expand(definition, host)
        check_path_length(path_of_new(definition, output_dir), here.grid)
        path = folder / entry.path if entry and (folder / entry.path).is_dir() else new_directory(folder)
        make_parts(path)
        # Entered before it is complete: a complete one that is not in the index would never be found again.
        index[identity] = IndexEntry(path=str(path.relative_to(folder)), invocation=invocation)
        write_json(folder / INDEX, plain(index))
        freeze(path, structs.replace(here.study, night=night, created_by=invocation), host, here.grid)
        return RunDirectory(path)


def resolve_into(
    definition: StudyDefinition, path: Path, name: str, invocation: str, expand: Expand = expand_here
) -> RunDirectory:
    """This folder as the run directory of one host of many, which its caller alone may use.

    name: of the host among them; expand: as of resolve().
    Raise HostChanged, StudyError.
    """
    found = RunDirectory(real(path))
    host = _read_host(name)
    if _is_complete(found.path):
        _check_same_host(found, host)
        return found
    here = expand(definition, host)
    check_path_length(found.path, here.grid)
    make_parts(found.path)
    freeze(found.path, structs.replace(here.study, created_by=invocation), host, here.grid)
    return found


def _read_host(name: str) -> Host:
    topology = read_topology()
    return Host(host=name, fingerprint=fingerprint(topology), **structs.asdict(topology))


def find(definition: StudyDefinition, output_dir: Path) -> RunDirectory | None:
    """The run directory that resolve() would complete, without creating one. Raise StudyError if it cannot be read."""
    folder = real(output_dir) / definition.name
    try:
        entry = read_index(folder).get(study_fingerprint(definition.as_json(), socket.gethostname()))
        return RunDirectory(folder / entry.path) if entry and _is_begun(folder / entry.path) else None
    except OSError as error:
        advice = "make it readable, or choose another folder with --output-dir"
        raise StudyError(f"cannot read there: {error.strerror}", str(folder), advice) from None


def _own_entry(entry: IndexEntry | None, fresh: bool, invocation: str) -> IndexEntry | None:
    """None for one that this call must not use: with --fresh, those of other calls."""
    return None if entry is None or (fresh and entry.invocation != invocation) else entry


def _is_complete(path: Path) -> bool:
    return (path / "grid.json").exists()


def _is_begun(path: Path) -> bool:
    """Else a call was killed while it created this run directory.

    One with runs and without grid.json is refused where that is read: measured again, its runs would be lost.
    """
    return _is_complete(path) or any(path.glob("runs/*"))


def _check_same_host(directory: RunDirectory, host: Host) -> None:
    changes = fingerprint_changes(directory.host().fingerprint, host.fingerprint)
    if changes:
        raise HostChanged(
            "this host has changed since the study began: " + "; ".join(map(describe_change, changes)),
            str(directory.path),
            "numbers of two systems do not belong in one study: start a new one with --fresh",
        )
