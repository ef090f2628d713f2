"""The run directory: one study on one host, self-contained. And the index that finds it again."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError
from bench.files import read_json, sync_folders, write_json, write_text
from bench.host.topology import Topology
from bench.shape import NAME, TEXT, Each, Kind, Must, misfit
from bench.study.cell import Cell
from bench.study.frozen import FRESH, GRID, read_frozen_study
from bench.study.order import TRACED, Slot

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
