"""A second measurement in the same night, of the cells that the first found slower: no alarm rests on one run of bad
luck. It is a small study of its own, in a run directory beside the first one."""

from pathlib import Path
from typing import Any

from bench.files import write_json
from bench.results.nightly.folder import second_measurements
from bench.results.verdicts import Verdict
from bench.study.directory import RunDirectory, freeze, new_directory
from bench.study.order import measuring_order
from bench.study.resolve import most_repeats

Record = dict[str, Any]


def slower_cells(verdict: Record) -> dict[str, list[str]]:
    """By label of the study, the cells that the verdict of a night calls slower."""
    return {
        study["study"]: names
        for study in verdict["studies"]
        if (names := [cell["name"] for cell in study["cells"] if cell["verdict"] == Verdict.SLOWER])
    }


def measure_again(folder: Path, label: str, first: Path, cells: list[str], invocation: str) -> Path:
    """The run directory in which these cells are to be measured again; made once a night.

    A new one takes its place only if a cell has become slower that it does not have. first: the first measurement's.
    """
    entries = second_measurements(folder)
    entry = entries.get(label)
    if entry and set(cells) <= set(entry["cells"]) and (Path(entry["run_directory"]) / "grid.json").is_file():
        return Path(entry["run_directory"])
    path = _small_study(RunDirectory(first), cells, invocation)
    write_json(folder / "again.json", entries | {label: {"cells": cells, "run_directory": str(path)}})
    return path


def _small_study(first: RunDirectory, names: list[str], invocation: str) -> Path:
    study = first.study() | {"again_of": str(first.path), "created_by": invocation, "measure_link": False}
    cells = [cell for cell in first.grid().cells.values() if cell.name in names]
    order = measuring_order([(cell.name, cell.group) for cell in cells], most_repeats(study), study["seed"])
    path = new_directory(first.path.parents[1])
    freeze(path, study, first.topology(), cells, order)
    return path
