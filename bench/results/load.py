"""A run directory as plain values. What is damaged or half written is named, and the rest is read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError

Record = dict[str, Any]
_NAME_A_RUN = "name a folder outputs/<study name>/<date>/<time>"
_FRESH = "start the study again with --fresh"
_RUN_KEYS = ("run", "cell", "repeat", "status")


@dataclass(frozen=True)
class Damage:
    """path: relative to the run directory; what: why the file could not be used."""

    path: str
    what: str


@dataclass(frozen=True)
class Stored:
    """All that a run directory holds. runs are keyed by run, exports and metrics by cell."""

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
    damaged: tuple[Damage, ...]

    def runs_of(self, cell: str) -> list[Record]:
        """The runs of a cell: timed ones by repeat, then the traced one."""
        own = [record for record in self.runs.values() if record["cell"] == cell]
        return sorted(own, key=lambda record: (record["repeat"] == "traced", str(record["repeat"]).zfill(9)))


def load(run_dir: Path | str) -> Stored:
    """Read a run directory. Raise StudyError if it holds no resolved study or grid; damage is listed."""
    path = Path(run_dir)
    study = _read_study(path)
    cells, order = _read_grid(path)
    damaged: list[Damage] = []

    def records(pattern: str, keys: tuple[str, ...]) -> list[tuple[Path, Record]]:
        found = []
        for file in sorted(path.glob(pattern)):
            record = _read_record(file, keys)
            if isinstance(record, str):
                damaged.append(Damage(str(file.relative_to(path)), record))
            else:
                found.append((file, record))
        return found

    topology = dict(records("topology.json", ()))
    probes = records("probe_*.json", ("found",))
    preflight = next((record["checks"] for _, record in records("preflight.json", ("checks",))), [])
    runs = records("runs/*.json", _RUN_KEYS)
    exports = records("nsys_reports/*.export.json", ("status",))
    metrics = records("latency/*.json", ("status",))
    return Stored(
        path=path,
        study=study,
        cells=cells,
        order=order,
        topology=next(iter(topology.values()), {}),
        probes={file.stem.removeprefix("probe_"): record["found"] or {} for file, record in probes},
        preflight=tuple(preflight),
        runs={record["run"]: record for _, record in runs},
        exports={file.name.removesuffix(".export.json"): record for file, record in exports},
        metrics={file.stem: record for file, record in metrics},
        damaged=tuple(damaged),
    )


def read_results(run_dir: Path | str) -> Record:
    """results.json of a run directory. Raise StudyError if it is not there or damaged."""
    path = Path(run_dir) / "results.json"
    results = _read_record(path, ("cells", "counts"))
    if isinstance(results, str):
        advice = f"make it again: numastudy report {run_dir}"
        raise StudyError(f"the results cannot be used: {results}", str(path), advice)
    return results


def _read_study(path: Path) -> Record:
    file = path / "study.yaml"
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        study = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
    except FileNotFoundError:
        raise StudyError("no study.yaml: this is not a run directory", str(path), _NAME_A_RUN) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StudyError(f"the resolved study cannot be read: {error}", str(file), _FRESH) from None
    if not isinstance(study, dict):
        raise StudyError(f"the resolved study is a {type(study).__name__}, not a mapping", str(file), _FRESH)
    return study


def _read_grid(path: Path) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """The cells and the measuring order."""
    file = path / "grid.json"
    grid = _read_record(file, ("cells", "order"))
    if isinstance(grid, str):
        raise StudyError(f"the grid of the study: {grid}", str(file), _FRESH)
    cells, order = grid["cells"], grid["order"]
    if not isinstance(cells, list) or not cells or not all(_is_cell(cell) for cell in cells):
        raise StudyError("the grid names no cells", str(file), _FRESH)
    return tuple(cells), tuple(slot for slot in order if isinstance(slot, dict))


def _is_cell(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value and isinstance(value.get("model"), dict)


def _read_record(file: Path, keys: tuple[str, ...]) -> Record | str:
    """The record, or what is wrong with it."""
    try:
        # NaN and infinity are no JSON, but Python writes them: unknown here, so that results.json is strict.
        value = json.loads(file.read_bytes(), parse_constant=lambda _: None)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        return f"not valid JSON: {error}"
    if not isinstance(value, dict):
        return f"not a record but a {type(value).__name__}"
    missing = [key for key in keys if key not in value]
    return f"half a record: {', '.join(missing)} missing" if missing else value
