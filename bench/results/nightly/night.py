"""The verdict of one night: what its studies say against the nights before, in values that a program can read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from bench.results.history.add import add_study, calm_throughput
from bench.results.history.database import open_history, writing
from bench.results.load import read_results
from bench.results.nightly.baseline import Baseline, read_baseline
from bench.results.nightly.folder import OK, SLOWER
from bench.results.nightly.judge import FAILED, FEWEST_NIGHTS, NOT_MEASURED, NightCell, NightVerdict, judge_cells, level
from bench.results.verdicts import Verdict, percent

Record = dict[str, Any]
SCHEMA = 1


@dataclass(frozen=True)
class Asked:
    """A study that the night was to measure. run_dir: where it lies; without one, `problem` says why.

    pinned: the run directory that stands for the nights' median. strict: a cell that cannot run here is a finding.
    again: the run directory of a second measurement, of the cells that the first found slower.
    """

    label: str
    run_dir: Path | None
    problem: str = ""
    pinned: Path | None = None
    strict: bool = False
    again: Path | None = None


def judge_night(night: str, host: str, asked: Sequence[Asked], database: Path, nights: int, since: str = "") -> Record:
    """verdict.json of a night, as values. Adds the night's studies and its verdicts to the history.

    Raises StudyError where results or the history cannot be read.
    """
    results = {study.label: read_results(study.run_dir) for study in asked if study.run_dir}
    again = {study.label: read_results(study.again) for study in asked if study.again}
    ids = {label: add_study(one, database) for label, one in results.items()}
    ids_again = {label: add_study(one, database) for label, one in again.items()}
    with open_history(database) as history:
        before = {label: read_baseline(history, one, night, nights, since) for label, one in results.items()}
        pinned = {study.label: _pinned(study.pinned) for study in asked}
        strict = {study.label: study.strict for study in asked}
        cells = {
            label: _cells(one, before[label], pinned[label], strict[label], rates_of(again.get(label)))
            for label, one in results.items()
        }
        # All cells of a night are one family of comparisons.
        told = iter(judge_cells([cell for own in cells.values() for cell in own]))
        judged = {label: [next(told) for _ in own] for label, own in cells.items()}
        for label, verdicts in judged.items():
            _remember(history, ids[label], verdicts, since)
            if label in ids_again:
                # Both belong to this night: a loss is kept out of later baselines with both its measurements.
                _remember(history, ids_again[label], verdicts, since)
    vanished = _vanished(results, before)
    studies = [
        _study(study, results.get(study.label), before.get(study.label), judged.get(study.label, []), vanished)
        for study in asked
    ]
    return _summed_up(night, host, studies, database)


def _pinned(run_dir: Path | None) -> dict[tuple[str, str], float]:
    return rates_of(read_results(run_dir) if run_dir else None)


def rates_of(results: Record | None) -> dict[tuple[str, str], float]:
    """By (key, name) the samples/s that count for a night."""
    cells = results["cells"] if results else []
    return {(cell["key"], cell["name"]): rate for cell in cells if (rate := calm_throughput(cell))}


def _cells(
    results: Record,
    before: Baseline,
    pinned: dict[tuple[str, str], float],
    strict: bool,
    again: dict[tuple[str, str], float],
) -> list[NightCell]:
    found = []
    for cell in results["cells"]:
        known_as = cell["key"], cell["name"]
        found.append(
            NightCell(
                name=cell["name"],
                outcome=cell["outcome"],
                reason=cell["reason"],
                noise_class=cell["noise_class"],
                samples_s=calm_throughput(cell) if cell["outcome"] == "ok" else None,
                before=before.cells.get(known_as, ()),
                pinned=pinned.get(known_as),
                expected=strict or known_as in before.last_night,
                again_samples_s=again.get(known_as),
            )
        )
    return found


def _vanished(results: dict[str, Record], before: dict[str, Baseline]) -> dict[str, list[str]]:
    """By study name: cells that the night before had ok and that tonight's grids do not have at all."""
    there: dict[str, set[tuple[str, str]]] = {}
    for one in results.values():
        there.setdefault(one["study_name"], set()).update((cell["key"], cell["name"]) for cell in one["cells"])
    names = {one["study_name"]: before[label].last_night for label, one in results.items()}
    return {name: sorted(cell for _, cell in names[name] - there[name]) for name in names}


def _study(
    asked: Asked,
    results: Record | None,
    before: Baseline | None,
    judged: list[NightVerdict],
    vanished: dict[str, list[str]],
) -> Record:
    if results is None or before is None:
        return {
            "study": asked.label,
            "run_directory": None,
            "again": None,
            "problem": asked.problem,
            "changes": [],
            "cells": [],
        }
    gone = [
        NightVerdict(
            name,
            NOT_MEASURED,
            None,
            None,
            None,
            None,
            0,
            None,
            False,
            "the night before had it; tonight's grid has not",
        )
        for name in vanished.pop(results["study_name"], [])
    ]
    return {
        "study": asked.label,
        "study_name": results["study_name"],
        "run_directory": results["run_directory"],
        "again": str(asked.again) if asked.again else None,
        "problem": "",
        "baseline": {
            "kind": f"pinned: {asked.pinned}" if asked.pinned else "median of the nights",
            "nights": list(before.nights),
            "left_out": list(before.left_out),
        },
        "changes": list(before.changes),
        "cells": [verdict.as_json() for verdict in (*judged, *gone)],
    }


def _summed_up(night: str, host: str, studies: list[Record], database: Path) -> Record:
    cells = [cell for study in studies for cell in study["cells"]]

    def named(verdict: str) -> list[str]:
        return [cell["name"] for cell in cells if cell["verdict"] == verdict]

    slower, failed, faster = named(Verdict.SLOWER), named(FAILED), named(Verdict.FASTER)
    missing = [*named(NOT_MEASURED), *(study["study"] for study in studies if study["problem"])]
    verdict = next(
        (name for name, found in ((SLOWER, slower), ("failed", failed), ("not measured", missing)) if found), OK
    )
    compared = sum(cell["effect"] is not None for cell in cells)
    return {
        "schema": SCHEMA,
        "night": night,
        "host": host,
        "verdict": verdict,
        "text": _text(cells, slower, failed, missing),
        "slower": slower,
        "failed": failed,
        "not_measured": missing,
        "faster": faster,
        "too_noisy": [cell["name"] for cell in cells if cell["too_noisy"]],
        "not_compared": [cell["name"] for cell in cells if cell["verdict"] is None],
        "compared": compared,
        "level": level(compared),
        "warnings": _warnings(night, studies),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "history": os.fspath(database),
        "studies": studies,
    }


def _text(cells: list[Record], slower: list[str], failed: list[str], missing: list[str]) -> str:
    losses = {cell["name"]: percent(cell["effect"]) for cell in cells if cell["effect"] is not None}
    parts = [
        f"{len(slower)} slower: {_few([f'{name} by {losses[name]}' for name in slower])}" if slower else "",
        f"{len(failed)} failed: {_few(failed)}" if failed else "",
        f"{len(missing)} not measured: {_few(missing)}" if missing else "",
    ]
    said = "; ".join(part for part in parts if part)
    if said:
        return said
    compared = sum(cell["effect"] is not None for cell in cells)
    if not compared:
        return f"nothing to compare with yet: no cell has {FEWEST_NIGHTS} nights before"
    return f"nothing got slower: {compared} of {len(cells)} cells compared"


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _warnings(night: str, studies: list[Record]) -> list[str]:
    told = [f"{study['study']}: {change}" for study in studies for change in study["changes"]]
    for study in studies:
        left_out = study.get("baseline", {}).get("left_out", [])
        if left_out:
            told.append(f"{study['study']}: {len(left_out)} nights on other hardware left out, the last {left_out[-1]}")
    today = date.today()
    if abs((today - date.fromisoformat(night)).days) > 1:
        told.append(f"judged on {today}: a night that was missed cannot be measured later")
    return told


def _remember(history: Database, study_id: int, verdicts: list[NightVerdict], since: str) -> None:
    with writing(history) as connection:
        connection.execute("DELETE FROM verdicts WHERE study_id = ?", [study_id])
        connection.executemany(
            "INSERT INTO verdicts (study_id, cell_id, verdict, effect, low, high, baseline_samples_s, nights, "
            "nightly_spread, guarded, text, since) SELECT :study, cells.id, :verdict, :effect, :low, :high, :baseline, "
            ":nights, :spread, :guarded, :text, :since FROM measurements m JOIN cells ON cells.id = m.cell_id "
            "WHERE m.study_id = :study AND cells.name = :name",
            [
                {
                    "study": study_id,
                    "name": one.name,
                    "verdict": one.verdict,
                    "effect": one.effect,
                    "low": one.interval and one.interval[0],
                    "high": one.interval and one.interval[1],
                    "baseline": one.baseline_samples_s,
                    "nights": one.nights,
                    "spread": one.nightly_spread,
                    "guarded": one.guarded,
                    "text": one.text,
                    "since": since,
                }
                for one in verdicts
            ],
        )
