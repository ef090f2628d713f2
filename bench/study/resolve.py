"""From a study to its run directory: found again by the same call, made by a new one."""

import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.files import write_json
from bench.host.binding import choose_binding
from bench.host.fingerprint import fingerprint, fingerprint_changes
from bench.host.topology import Topology, read_topology
from bench.study.cell import Cell
from bench.study.directory import (
    INDEX,
    RunDirectory,
    freeze,
    make_parts,
    new_directory,
    read_index,
    study_fingerprint,
    study_index,
)
from bench.study.grid import expand
from bench.study.order import Slot, measuring_order
from bench.study.study import Study
from bench.trace.profilers import choose_profiler


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
