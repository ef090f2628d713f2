"""The run directory and the index that finds it."""

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError
from bench.host.binding import choose_binding
from bench.host.fingerprint import fingerprint, fingerprint_changes
from bench.host.topology import Topology, read_topology
from bench.shape import NAME, TEXT, Each, Kind, Must, misfit
from bench.storage import read_json, sync_folders, write_json, write_text
from bench.study.cell import Cell
from bench.study.frozen import FRESH, GRID, read_frozen_study
from bench.study.grid import expand
from bench.study.load import Study
from bench.study.order import TRACED, Slot, measuring_order
from bench.trace.profilers import choose_profiler

# --- directory
# The run directory: one study on one host, self-contained. And the index that finds it again.

INDEX = "index.json"
PARTS = ("runs", "logs", "nsys_reports", "latency")
_BELOW = Kind(
    "a path below the study's folder",
    lambda value: isinstance(value, str) and all(map(NAME.fits, value.split("/"))),
)
# Of a study on many hosts: the folder of their run directories.
HOSTS = "hosts"


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
        """Where the trace of a cell goes, without its ending (that is the profiler's)."""
        return self.path / "nsys_reports" / cell

    def sqlite(self, cell: str) -> Path:
        return self.path / "nsys_reports" / f"{cell}.sqlite"

    def export_record(self, cell: str) -> Path:
        return self.path / "nsys_reports" / f"{cell}.export.json"

    def metrics(self, cell: str) -> Path:
        return self.path / "latency" / f"{cell}.json"

    def state(self) -> str:
        """Names one state of all records: what was made from them is made again whenever one of them was."""
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
        """What one GPU's link gave from one placement."""
        return self.path / "links" / f"{name}.json"

    def probe(self, when: str) -> Path:
        """Measured locality, "before" the first run or "after" the last."""
        return self.path / f"probe_{when}.json"

    @property
    def preflight(self) -> Path:
        """What doctor said when the study began."""
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

    def study(self) -> dict[str, Any]:
        """The resolved study as it was frozen. It is read once: not to be changed."""
        file = self.path / "study.yaml"
        return _study_at(self.path, file.stat().st_mtime_ns if file.exists() else 0)

    def topology(self) -> dict[str, Any]:
        return read_json(self.path / "topology.json")

    def host(self) -> Topology:
        """The nodes and GPUs of the host as they were when the study began."""
        facts = self.topology()
        return Topology.from_json({key: value for key, value in facts.items() if key not in ("host", "fingerprint")})

    def grid(self) -> "Grid":
        file = self.path / "grid.json"
        record = read_json(file)
        wrong = misfit(record, GRID) or _stranger(record)
        if wrong:
            raise StudyError(f"the grid of the study is damaged: {wrong}", str(file), FRESH)
        try:
            return Grid(
                cells={cell["name"]: Cell.from_json(cell) for cell in record["cells"]},
                order=tuple(Slot(**slot) for slot in record["order"]),
            )
        except TypeError as error:
            raise StudyError(f"the grid of the study is not of this version: {error}", str(file), FRESH) from None


def _stranger(record: dict[str, Any]) -> str | None:
    names = {cell["name"] for cell in record["cells"]}
    return next((f"no cell is named {slot['cell']}" for slot in record["order"] if slot["cell"] not in names), None)


@dataclass(frozen=True)
class Grid:
    """The cells by name, and every run in measuring order."""

    cells: dict[str, Cell]
    order: tuple[Slot, ...]

    @cached_property
    def _slots(self) -> dict[tuple[str, int | str], Slot]:
        return {(slot.cell, slot.repeat): slot for slot in self.order}

    def asked(self, repeats: int) -> list[Slot]:
        """The runs that every cell has: its first repeats and the traced run. Later ones are measured on demand."""
        return [slot for slot in self.order if slot.repeat == TRACED or slot.repeat <= repeats]

    def slot(self, cell: str, repeat: int | str) -> Slot:
        return self._slots[cell, repeat]


@lru_cache(maxsize=64)
def _study_at(path: Path, _mtime_ns: int) -> dict[str, Any]:
    return read_frozen_study(path)


def run_name(cell: str, repeat: int | str) -> str:
    return f"{cell}_{TRACED}" if repeat == TRACED else f"{cell}_r{repeat}"


def study_fingerprint(study: dict[str, Any], host: str) -> str:
    """Of a study with its overrides, before anything of the host is filled in."""
    return hashlib.sha256(json.dumps([study, host], sort_keys=True).encode()).hexdigest()[:16]


def read_index(folder: Path) -> dict[str, dict[str, str]]:
    """What study_index() yields. Raise StudyError if it is damaged, or leads out of the folder."""
    path = folder / INDEX
    index = read_json(path) if path.exists() else {}
    wrong = misfit(index, Each(Must({"path": Must(_BELOW), "invocation": Must(TEXT)})))
    if wrong:
        raise StudyError(f"the index of the study is damaged: {wrong}", str(path), "delete it, or mend it by hand")
    return index


@contextmanager
def study_index(folder: Path) -> Iterator[dict[str, dict[str, str]]]:
    """The index of outputs/<study name>/: {fingerprint: {"path", "invocation"}}, locked; written back if changed.

    Raise StudyError if it cannot be written or locked.
    """
    with _writing_below(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".index.lock").open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise without_locks(error, folder) from None
        path = folder / INDEX
        index = read_index(folder)
        before = json.dumps(index)
        yield index
        if json.dumps(index) != before:
            write_json(path, index)


def without_locks(error: OSError, where: Path) -> StudyError:
    return StudyError(
        f"this file system cannot lock files: {error.strerror}",
        str(where),
        "mount it with locks (nfs: without nolock; lustre: -o flock), or choose another --output-dir",
    )


def new_directory(folder: Path, parts: tuple[str, ...] = PARTS) -> Path:
    """outputs/<study name>/<YYYY-MM-DD>/<HH-MM-SS>/, created with its parts; a second one in that second gets -2.

    Raise StudyError if it cannot be made.
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
            # Below the study's folder, the day's.
            sync_folders(path, levels=3)
        return path
    raise StudyError("too many run directories in one second", str(day), "try again")


def make_parts(path: Path, parts: tuple[str, ...] = PARTS) -> None:
    """Raise StudyError if they cannot be made."""
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


def freeze(path: Path, study: dict[str, Any], topology: dict[str, Any], cells: list[Cell], order: list[Slot]) -> None:
    """Write what a run directory stands on. grid.json last: a directory with it is whole."""
    write_text(path / "study.yaml", yaml.safe_dump(study, sort_keys=False))
    write_json(path / "topology.json", topology)
    write_json(
        path / "grid.json",
        {"cells": [cell.as_json() for cell in cells], "order": [vars(slot) for slot in order]},
    )


# --- resolve
# From a study to its run directory: found again by the same call, made by a new one.

@dataclass(frozen=True)
class Expansion:
    """A study with everything of this host filled in."""

    study: Study
    cells: list[Cell]
    order: list[Slot]
    binding_reason: str


def expand_here(study: Study, topology: Topology) -> Expansion:
    """Fill in device, profiler and binding where they are auto, and lay out the grid and the order."""
    settings = dict(study.settings)
    if settings["device"] == "auto":
        settings["device"] = "cuda" if topology.gpus else "cpu"
    settings["profiler"] = choose_profiler(settings["profiler"], settings["device"])
    reason = f"binding {settings['binding']} as the study says"
    if settings["binding"] == "auto":
        settings["binding"], reason = choose_binding("auto", topology)
    study = replace(study, settings=settings)
    cells = expand(study, topology)
    order = measuring_order(
        [(cell.name, cell.group) for cell in cells],
        most_repeats(settings),
        settings["seed"],
        families={cell.group: cell.family for cell in cells},
    )
    return Expansion(study, cells, order, reason)


def most_repeats(settings: dict[str, Any]) -> int:
    """Repeats that have a place in the order: those asked for, those that may be, and those for disturbed pairs."""
    wanted = max(settings["repeats"], settings["max_repeats"]) if settings["target_precision"] else settings["repeats"]
    return wanted + settings["disturbed_repeats"]


def resolve(study: Study, output_dir: Path, fresh: bool, invocation: str, night: str = "") -> RunDirectory:
    """The run directory of this study on this host: the one it has, or a new one if there is none or `fresh`.

    night: a date, for which the study is measured once; each has a run directory of its own.
    Raise StudyError if the host has changed since the directory was made.
    """
    host = socket.gethostname()
    of_night = {"night": night} if night else {}
    known_as = study_fingerprint(study.as_json() | of_night, host)
    folder = output_dir.resolve() / study.name
    with study_index(folder) as index:
        entry = index.get(known_as)
        found = _usable(folder, entry, fresh, invocation)
        topology = read_topology()
        facts = fingerprint(topology)
        if found:
            _check_same_host(found, facts)
            return found
        here = expand_here(study, topology)
        path = _begun(folder, entry, fresh, invocation) or new_directory(folder)
        make_parts(path)
        # Entered before it is whole: one that is whole and not in the index would never be found again.
        index[known_as] = {"path": str(path.relative_to(folder)), "invocation": invocation}
        write_json(folder / INDEX, index)
        _freeze_here(path, here, of_night | {"created_by": invocation}, host, facts, topology)
        return RunDirectory(path)


def resolve_into(study: Study, path: Path, host: str, invocation: str) -> RunDirectory:
    """This folder as the run directory of one host of many, which its caller alone may use.

    host: the name it has among them. Raise StudyError if the host has changed since the directory was made.
    """
    found = RunDirectory(path.resolve())
    topology = read_topology()
    facts = fingerprint(topology)
    if (found.path / "grid.json").exists():
        _check_same_host(found, facts)
        return found
    here = expand_here(study, topology)
    make_parts(found.path)
    _freeze_here(found.path, here, {"created_by": invocation}, host, facts, topology)
    return found


def _freeze_here(
    path: Path, here: Expansion, more: dict[str, str], host: str, facts: dict[str, str], topology: Topology
) -> None:
    freeze(
        path,
        here.study.as_json() | more | {"binding_reason": here.binding_reason},
        {"host": host, "fingerprint": facts, **topology.to_json()},
        here.cells,
        here.order,
    )


def find(study: Study, output_dir: Path) -> RunDirectory | None:
    """The run directory that resolve() would complete, without making one."""
    folder = output_dir.resolve() / study.name
    if not (folder / INDEX).exists():
        return None
    entry = read_index(folder).get(study_fingerprint(study.as_json(), socket.gethostname()))
    return _usable(folder, entry, False, "")


def _usable(folder: Path, entry: dict[str, str] | None, fresh: bool, invocation: str) -> RunDirectory | None:
    if entry is None or (fresh and entry["invocation"] != invocation):
        return None
    path = folder / entry["path"]
    return RunDirectory(path) if (path / "grid.json").exists() else None


def _begun(folder: Path, entry: dict[str, str] | None, fresh: bool, invocation: str) -> Path | None:
    """A run directory that a call was killed in making."""
    if entry is None or (fresh and entry["invocation"] != invocation):
        return None
    path = folder / entry["path"]
    return path if path.is_dir() and not (path / "grid.json").exists() and not any(path.glob("runs/*")) else None


def _check_same_host(directory: RunDirectory, facts: dict[str, str]) -> None:
    changes = fingerprint_changes(directory.topology()["fingerprint"], facts)
    if changes:
        raise StudyError(
            "this host is not what it was when the study began: " + "; ".join(changes),
            str(directory.path),
            "numbers of two systems do not belong in one study: start a new one with --fresh",
        )
