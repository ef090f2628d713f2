"""A run directory as typed records, damage listed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.legacy import shapes
from bench.records.base import plain
from bench.shape import ANY, Each, Must, parse
from bench.study.directory import RunDirectory, read_resolved_study

# --- load
# A run directory as plain values. What is damaged or half written is named, and the rest is read.

Record = dict[str, Any]


@dataclass(frozen=True)
class Damage:
    """path: relative to the run directory; what: why the file could not be used."""

    path: str
    what: str


@dataclass(frozen=True)
class Stored:
    """All that a run directory holds. runs are keyed by run, exports and metrics by cell, links by their name."""

    path: Path
    study: Record
    cells: tuple[Record, ...]
    order: tuple[Record, ...]
    topology: Record
    probes: dict[str, Record]
    preflight: tuple[Record, ...]
    runs: dict[str, Record]
    exports: dict[str, Record]
    metrics: dict[str, Record]
    links: dict[str, Record]
    damaged: tuple[Damage, ...]

    def runs_of(self, cell: str) -> list[Record]:
        """The runs of a cell: timed ones by repeat, then the traced one."""
        own = [record for record in self.runs.values() if record["cell"] == cell]
        return sorted(own, key=lambda record: (record["repeat"] == "traced", str(record["repeat"]).zfill(9)))


def load(run_dir: Path | str) -> Stored:
    """Read a run directory. Raise StudyError if it holds no resolved study or grid; damage is listed."""
    path = Path(run_dir)
    study = json.loads(json.dumps(plain(read_resolved_study(path))))
    grid = RunDirectory(path).grid()
    cells = tuple({**plain(cell), "key": cell.key} for cell in grid.cells)
    order = tuple(plain(slot) for slot in grid.order)
    damaged: list[Damage] = []

    def records(pattern: str, shape: Any, wrong: Callable[[Record], str | None] = lambda _: None) -> list:
        found = []
        for file in sorted(path.glob(pattern)):
            record = _read_record(file, shape)
            record = record if isinstance(record, str) else wrong(record) or record
            if isinstance(record, str):
                damaged.append(Damage(str(file.relative_to(path)), record))
            else:
                found.append((file, record))
        return found

    topology = dict(records("topology.json", shapes.TOPOLOGY))
    probes = records("probe_*.json", shapes.PROBE)
    preflight = next((record["checks"] for _, record in records("preflight.json", shapes.PREFLIGHT)), [])
    runs = records("runs/*.json", shapes.RUN, shapes.wrong_run)
    exports = records("nsys_reports/*.export.json", shapes.EXPORT)
    metrics = records("latency/*.json", shapes.METRICS)
    links = records("links/*.json", shapes.LINK)
    return Stored(
        path=path,
        study=study,
        cells=cells,
        order=order,
        topology=next(iter(topology.values()), {}),
        probes={file.stem.removeprefix("probe_"): record.get("found") or {} for file, record in probes},
        preflight=tuple(preflight),
        runs={record["run"]: record for _, record in runs},
        exports={file.name.removesuffix(".export.json"): record for file, record in exports},
        metrics={file.stem: record for file, record in metrics},
        links={file.stem: record for file, record in links},
        damaged=tuple(damaged),
    )


def read_results(run_dir: Path | str) -> Record:
    """results.json of a run directory. Raise StudyError if it is not there or damaged."""
    path = Path(run_dir) / "results.json"
    results = _read_record(path, {"cells": Must([ANY]), "counts": Must(Each(ANY))})
    if isinstance(results, str):
        advice = f"make it again: numastudy report {run_dir}"
        raise StudyError(f"the results cannot be used: {results}", str(path), advice)
    return results


def _read_record(file: Path, shape: Any) -> Record | str:
    """The record, or what is wrong with it."""
    try:
        return parse(file.read_bytes(), shape)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


# --- measured
# When a study was measured, which is not when its report was made.

def measured_at(results: dict[str, Any]) -> str:
    """Start of the first run, ISO 8601 in UTC; of results without runs, when they were made."""
    started = [run["started_at"] for cell in results["cells"] for run in cell["runs"] if run.get("started_at")]
    return min(started, default=results["created_at"])
