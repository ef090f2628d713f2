"""What changed between two studies."""

import json
import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.legacy import shapes
from bench.legacy.pairs import class_of, occurrences, throughputs
from bench.legacy.statistics import MARGIN, Estimate, Sample, estimate, unpaired
from bench.legacy.verdicts import MAX_REPEATS, Verdict, graph_of, judge
from bench.report.tables import csv_table
from bench.shape import misfit
from bench.storage import read_json
from bench.trace.export import PLAIN_TABLES, connect_read_only

# --- stored
# Results of an earlier study, wherever they lie: a run directory, results.json or results.db.

Record = dict[str, Any]
_ADVICE = "name a run directory, its results.json, or its results.db, there with ?CONDITION on table cells"


def read_results(place: str) -> Record:
    """The results with the keys that a comparison needs: study_name, created_at, device, fingerprint, cells.

    place: a path; for a database also `results.db?model = 'vit32x2x128' and gpu = 0`.
    Raises StudyError for what is not there or not results.
    """
    name, _, condition = place.partition("?")
    path = Path(name)
    if path.is_dir():
        path, place = _in_directory(path), name
        if path.is_dir():
            return _built(path)
    if not path.is_file():
        raise StudyError("no results here", place, _ADVICE)
    if path.suffix == ".json":
        return _checked(read_json(path), path)
    return _from_database(path, condition)


def _in_directory(path: Path) -> Path:
    return next((path / name for name in ("results.json", "results.db") if (path / name).is_file()), path)


def _built(path: Path) -> Record:
    from bench.legacy.build import build_results
    from bench.legacy.load import load

    return build_results(load(path), invocation="compare")


def _checked(results: Any, path: Path) -> Record:
    if not isinstance(results, dict) or not isinstance(results.get("cells"), list):
        raise StudyError("this is JSON, but not results: it has no list of cells", str(path), _ADVICE)
    wrong = misfit(results, shapes.RESULTS)
    if wrong:
        raise StudyError(f"these results are damaged: {wrong}", str(path), "make the report again")
    return results


def _from_database(path: Path, condition: str) -> Record:
    try:
        with closing(connect_read_only(path)) as connection:
            # A view may never end.
            missing = {"study", "cells", "runs"}.difference(name for (name,) in connection.execute(PLAIN_TABLES))
            if missing:
                raise StudyError(f"the database has no table {', '.join(sorted(missing))}", str(path), _ADVICE)
            connection.row_factory = sqlite3.Row
            study = dict(connection.execute("select * from study").fetchone() or {})
            where = f" where {condition}" if condition else ""
            cells = [dict(row) for row in connection.execute(f"select * from cells{where}")]
            runs = [dict(row) for row in connection.execute("select * from runs")]
        fingerprint = json.loads(study.get("fingerprint") or "{}")
    except (sqlite3.Error, sqlite3.Warning, OverflowError, MemoryError, ValueError, TypeError, RecursionError) as error:
        raise StudyError(f"the database cannot be read: {error}", str(path), _ADVICE) from None
    found = {
        **{key: study.get(key) for key in ("study_name", "created_at", "device", "run_directory")},
        "fingerprint": fingerprint,
        "cells": [_cell(cell, [run for run in runs if run.get("cell") == cell.get("name")]) for cell in cells],
    }
    return _checked(found, path)


def _cell(row: Record, runs: list[Record]) -> Record:
    identity = ("name", "key", "gpu", "cpu_node", "mem_node", "outcome", "reason", "noise_class")
    return {
        **{key: row.get(key) for key in identity},
        "model": {"name": row.get("model"), "heads": row.get("heads")},
        "settings": {
            **{key: row[key] for key in ("batch_size", "dtype", "compile_model", "device") if key in row},
            "cuda_graph": bool(row.get("cuda_graph")),
        },
        "throughput_samples_s": row.get("throughput_samples_s"),
        "runs": runs,
    }


# --- compare
# What changed between two studies: the verdicts of the penalties.

Record = dict[str, Any]
EXIT_SLOWER = 3
# Other silicon: a difference then says nothing of the software. The rest is what people compare on purpose.
REFUSED = ("machine", "cpu", "gpus")
IGNORED = ("host",)
_CSV_COLUMNS = ("name", "verdict", "effect", "low", "high", "base_samples_s", "new_samples_s", "text", "hint")


@dataclass(frozen=True)
class Line:
    """One cell. effect: throughput of NEW / BASE - 1, negative is slower; interval likewise."""

    name: str
    verdict: str | None
    effect: float | None
    interval: tuple[float, float] | None
    base_samples_s: float | None
    new_samples_s: float | None
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Compared:
    lines: tuple[Line, ...]
    warnings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_SLOWER if any(line.verdict == Verdict.SLOWER for line in self.lines) else 0

    def as_json(self) -> Record:
        cells = [vars(line) | {"interval": line.interval and list(line.interval)} for line in self.lines]
        return {"cells": cells, "warnings": list(self.warnings)}

    def as_csv(self) -> str:
        low_high = [line.interval or (None, None) for line in self.lines]
        rows = [vars(line) | {"low": low, "high": high} for line, (low, high) in zip(self.lines, low_high, strict=True)]
        return csv_table(_CSV_COLUMNS, rows)

    def as_text(self) -> str:
        lines = [f"warning: {warning}" for warning in self.warnings]
        width = max((len(line.name) for line in self.lines), default=0)
        for line in self.lines:
            lines.append(f"{line.name:<{width}}  {line.verdict or '-':<14}  {line.text}")
            if line.hint:
                lines.append(f"{'':<{width}}  {'':<14}  {line.hint}")
        return "\n".join(lines)


def compare_command(
    base: str,
    new: str,
    output: str = "text",
    margin: float = MARGIN,
    max_repeats: int = MAX_REPEATS,
    force: bool = False,
) -> tuple[str, int]:
    """(what to print, exit code): the work of `numastudy compare BASE NEW`. output: text, json or csv.

    Raises StudyError for places that hold no results, and for hosts that cannot be compared unless forced.
    """
    compared = compare(read_results(base), read_results(new), margin, max_repeats, force)
    if output == "json":
        return json.dumps(compared.as_json(), indent=1, allow_nan=False), compared.exit_code
    if output == "csv":
        return compared.as_csv().rstrip("\n"), compared.exit_code
    return compared.as_text(), compared.exit_code


def compare(
    base: Record, new: Record, margin: float = MARGIN, max_repeats: int = MAX_REPEATS, force: bool = False
) -> Compared:
    """Cells of the same settings against each other, as two independent groups of runs.

    The runs of two studies were not measured side by side: block r of one has nothing to do with block r of
    the other. What differs between two afternoons is therefore part of the effect.
    """
    refused, warnings = fingerprint_differences(base, new)
    if _is_one_study(base, new):
        warnings.append("BASE and NEW are the same study: its runs are compared with themselves")
    if refused and not force:
        raise StudyError(
            "these studies ran on different machines: " + "; ".join(refused),
            "fingerprint",
            "compare studies of one machine, or say --force to compare all the same",
        )
    matched, alone = _matched(base["cells"], new["cells"])
    if not matched:
        raise StudyError("no cell of the two studies has the same settings", "compare", "run the same study twice")
    told = [_sample(old, fresh) for old, fresh in matched]
    lines = _lines(told, matched, margin, max_repeats)
    return Compared(tuple(lines), (*refused, *warnings, *alone))


def fingerprint_differences(base: Record, new: Record) -> tuple[list[str], list[str]]:
    """(what makes the studies incomparable, what a reader must know), each naming both values."""
    old, fresh = base.get("fingerprint") or {}, new.get("fingerprint") or {}
    refused, warnings = [], []
    if base.get("device") != new.get("device"):
        refused.append(f"device was {base.get('device')}, is {new.get('device')}")
    for key in dict.fromkeys((*old, *fresh)):
        before, after = old.get(key, "not recorded"), fresh.get(key, "not recorded")
        if before != after and key not in IGNORED:
            (refused if key in REFUSED else warnings).append(f"{key} was {before}, is {after}")
    if not old or not fresh:
        warnings.append("a study without fingerprint: nothing proves that both ran on one machine")
    return refused, warnings


def _is_one_study(base: Record, new: Record) -> bool:
    """created_at: a report made again has another one, its run directory is the same."""
    place = base.get("run_directory")
    return bool(place) and place == new.get("run_directory") and base.get("fingerprint") == new.get("fingerprint")


def _matched(base: Sequence[Record], new: Sequence[Record]) -> tuple[list[tuple[Record, Record]], list[str]]:
    """Cells by key (a hash of the settings), a model listed twice by its turn; then who has no partner."""

    def key(cell: Record) -> Any:
        return cell.get("key") or cell["name"]

    old = {number: cell for cell, number in occurrences(base, key)}
    fresh = {number: cell for cell, number in occurrences(new, key)}
    alone = [f"only in BASE: {cell['name']}" for number, cell in old.items() if number not in fresh]
    alone += [f"only in NEW: {cell['name']}" for number, cell in fresh.items() if number not in old]
    return [(cell, fresh[number]) for number, cell in old.items() if number in fresh], alone


def _sample(old: Record, fresh: Record) -> Sample | None:
    sides = [list(throughputs(cell).values()) for cell in (old, fresh)]
    return unpaired(fresh["name"], class_of(old, fresh), *sides) if all(sides) else None


def _lines(
    samples: Sequence[Sample | None],
    matched: Sequence[tuple[Record, Record]],
    margin: float,
    max_repeats: int,
) -> list[Line]:
    found = iter(estimate([sample for sample in samples if sample], margin=margin))
    return [
        _line(next(found) if sample else None, old, fresh, max_repeats)
        for sample, (old, fresh) in zip(samples, matched, strict=True)
    ]


def _line(found: Estimate | None, old: Record, fresh: Record, max_repeats: int) -> Line:
    rates = old.get("throughput_samples_s"), fresh.get("throughput_samples_s")
    if found is None:
        why = "; ".join(
            f"{side} {cell.get('outcome')}: {cell.get('reason') or 'no timed run'}"
            for side, cell in (("BASE", old), ("NEW", fresh))
            if not throughputs(cell)
        )
        return Line(fresh["name"], None, None, None, *rates, f"not compared: {why}")
    said = judge(found, max_repeats, graph_of(fresh["settings"]))
    interval = None if found.interval is None else (-found.interval[1], -found.interval[0])
    return Line(
        fresh["name"],
        said.verdict.value,
        math.expm1(found.mean_log),
        interval,
        *rates,
        said.text,
        said.hint,
    )
