"""A run directory as typed records. What is damaged or half written is listed, and the rest is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from bench.errors import StudyError
from bench.records.base import DamagedRecord, Record, read
from bench.records.host import Check, Host, Preflight, Probe
from bench.records.results import SCHEMA, AnySchema, Damage, Results
from bench.records.run import Export, Link, ProbeStage, Run, Stage, read_record
from bench.records.study import Cell, Slot, Study
from bench.records.trace import Metrics
from bench.study.directory import RunDirectory, read_resolved_study
from bench.study.folder import not_a_run

Kind = TypeVar("Kind", bound=Record)
_NO_RECORDS = "name a run directory that has its records, or a results.json that this version wrote"


@dataclass(frozen=True)
class RunData:
    """All that a run directory holds.

    runs are keyed by run; exports, extractions (the stages that read the traces) and their metrics by cell; links by
    name; probes by when: before, after.
    """

    path: Path
    study: Study
    cells: tuple[Cell, ...]
    order: tuple[Slot, ...]
    host: Host
    probes: dict[str, Probe]
    preflight: tuple[Check, ...]
    runs: dict[str, Run]
    exports: dict[str, Export]
    extractions: dict[str, Stage]
    metrics: dict[str, Metrics]
    links: dict[str, Link]
    damaged: tuple[Damage, ...]

    @cached_property
    def _runs_by_cell(self) -> dict[str, list[Run]]:
        runs: dict[str, list[Run]] = {}
        for run in self.runs.values():
            runs.setdefault(run.cell, []).append(run)
        return runs

    def runs_of(self, cell: str) -> list[Run]:
        """The runs of a cell: timed ones by repeat, then the traced one."""
        own = self._runs_by_cell.get(cell, [])
        return sorted(own, key=lambda run: (not run.timed, run.repeat if isinstance(run.repeat, int) else 0))


def load(run_dir: Path | str) -> RunData:
    """Read a run directory. Raise StudyError if it has no resolved study or grid; damage is listed."""
    path = Path(run_dir)
    study, grid = read_resolved_study(path), RunDirectory(path).grid()
    damaged: list[Damage] = []

    def records(pattern: str, kind: type[Kind]) -> Iterator[tuple[Path, Kind]]:
        for file in sorted(path.glob(pattern)):
            try:
                yield file, read(file, kind)
            except (DamagedRecord, OSError) as error:
                damaged.append(Damage(path=str(file.relative_to(path)), what=_what(error)))

    extractions, metrics = {}, {}
    for file, stage in records("latency/*.json", Stage):
        try:
            if stage.ok:
                metrics[file.stem] = read(file, Metrics)
            extractions[file.stem] = stage
        except (DamagedRecord, OSError) as error:
            damaged.append(Damage(path=str(file.relative_to(path)), what=_what(error)))
    return RunData(
        path=path,
        study=study,
        cells=grid.cells,
        order=grid.order,
        host=next((host for _, host in records("topology.json", Host)), Host()),
        probes={file.stem.removeprefix("probe_"): stage.found for file, stage in records("probe_*.json", ProbeStage)},
        preflight=next((preflight.checks for _, preflight in records("preflight.json", Preflight)), ()),
        runs={run.run: run for _, run in records("runs/*.json", Run)},
        exports={
            file.name.removesuffix(".export.json"): export
            for file, export in records("nsys_reports/*.export.json", Export)
        },
        extractions=extractions,
        metrics=metrics,
        links={file.stem: link for file, link in records("links/*.json", Link)},
        damaged=tuple(damaged),
    )


def read_results(run_dir: Path | str) -> Results:
    """results.json of a run directory. Raise StudyError if it is missing, damaged or of another schema."""
    return read_results_file(Path(run_dir) / "results.json")


def read_results_file(path: Path) -> Results:
    """A results.json, wherever it was copied to. Raise StudyError as read_results."""
    try:
        return read(path, Results)
    except (DamagedRecord, OSError) as error:
        what = f"the results cannot be used: {_what(error)}"
        known = read_record(path, AnySchema)
        if isinstance(error, DamagedRecord) and known and known.schema not in (None, SCHEMA):
            what = f"these results have schema {known.schema}, this version reads {SCHEMA}"
        if isinstance(error, FileNotFoundError) and not (path.parent / "grid.json").exists():
            raise not_a_run(path.parent if path.name == "results.json" else path) from None
        # They can be regenerated only where the records are that they were made from.
        has_records = (path.parent / "grid.json").is_file()
        advice = f"regenerate it: numastudy report {path.parent}" if has_records else _NO_RECORDS
        raise StudyError(what, str(path), advice) from None


def measured_at(results: Results) -> str:
    """Start of the first run, ISO 8601 in UTC, which is not when the report was made; without runs it is that."""
    started = [run.started_at for cell in results.cells for run in cell.runs if run.started_at]
    return min(started, default=results.created_at)


def _what(error: DamagedRecord | OSError) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
