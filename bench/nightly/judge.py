"""Tonight against the nights before."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from sqlite_utils import Database

from bench.compare import fingerprint_differences
from bench.history.database import add_study, calm_throughput, open_history, writing
from bench.legacy.load import read_results
from bench.legacy.statistics import Estimate, Sample, estimate
from bench.legacy.verdicts import Verdict, decided, percent, told
from bench.nightly.folder import OK, SLOWER, second_measurements
from bench.records.study import Grid
from bench.storage import write_json
from bench.study.directory import RunDirectory, freeze, new_directory
from bench.study.order import measuring_order

# --- baseline
# From the history: what the nights before measured, cell by cell.

Record = dict[str, Any]
Cell = tuple[str, str]


@dataclass(frozen=True)
class Baseline:
    """cells: {(key, name): samples/s of its nights, oldest first}; nights: all that counted, oldest first.

    last_night: the cells that were ok in the night before, whatever its hardware. changes: what of the host is not
    what it was in that night. left_out: nights on other hardware, each with the reason.
    """

    cells: dict[Cell, tuple[float, ...]]
    nights: tuple[str, ...]
    last_night: frozenset[Cell]
    changes: tuple[str, ...]
    left_out: tuple[str, ...]


def read_baseline(database: Database, tonight: Record, night: str, nights: int, since: str = "") -> Baseline:
    """The nights before `night` of the study and host of `tonight` (its results).

    Each cell has its own last `nights` nights: those that found it slower do not count, or a loss would be the
    normal state of the next night. They do once a later `since` accepts the new level. Those on other silicon
    never count.
    """
    studies = [
        row | {"fingerprint": json.loads(row["fingerprint"] or "{}")}
        for row in database.query(
            "SELECT id, night, device, fingerprint FROM studies WHERE host = ? AND study_name = ? "
            "AND night != '' AND night < ? ORDER BY night, measured_at",
            [tonight["host"]["name"], tonight["study_name"], night],
        )
    ]
    ids, left_out = [], []
    for study in studies:
        refused, _ = fingerprint_differences(study, tonight)
        if refused:
            left_out.append(f"{study['night']}: {'; '.join(refused)}")
        elif study["night"] >= since:
            ids.append(study["id"])
    last = [study for study in studies if study["night"] == studies[-1]["night"]]
    refused, changed = fingerprint_differences(last[-1], tonight) if last else ([], [])
    rows = _cells(database, ids, since)
    return Baseline(
        cells={cell: tuple(value for _, value in values[-nights:]) for cell, values in rows.items()},
        nights=tuple(sorted({night for values in rows.values() for night, _ in values[-nights:]})),
        last_night=frozenset(cell for study in last for cell in _measured(database, study["id"])),
        changes=(*refused, *changed),
        left_out=tuple(left_out),
    )


def _cells(database: Database, studies: list[int], since: str) -> dict[Cell, list[tuple[str, float]]]:
    found: dict[Cell, dict[str, float]] = {}
    rows = database.conn.execute(
        "SELECT cells.key, cells.name, studies.night, m.calm_samples_s FROM measurements m "
        "JOIN studies ON studies.id = m.study_id JOIN cells ON cells.id = m.cell_id "
        "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
        "WHERE m.study_id IN (SELECT value FROM json_each(?)) AND m.outcome = 'ok' AND m.calm_samples_s IS NOT NULL "
        "AND (verdicts.verdict IS NULL OR verdicts.verdict != ? OR verdicts.since < ?) "
        "ORDER BY studies.night, studies.measured_at",
        [json.dumps(studies), Verdict.SLOWER.value, since],
    )
    for key, name, night, value in rows:
        # Of a night that was measured twice the later one counts.
        found.setdefault((key, name), {})[night] = value
    return {cell: list(values.items()) for cell, values in found.items()}


def _measured(database: Database, study: int) -> list[Cell]:
    rows = database.conn.execute(
        "SELECT cells.key, cells.name FROM measurements m JOIN cells ON cells.id = m.cell_id "
        "WHERE m.study_id = ? AND m.outcome = 'ok'",
        [study],
    )
    return [(key, name) for key, name in rows]


# --- judge
# Tonight's cells against the nights before: the estimates of compare, with the spread of the nights themselves.
#
# The unit is the night: one value a cell, the median of its undisturbed runs. What differs between two nights
# (clocks, memory layout, temperature) is no difference of the software, so the spread within a night counts nothing.

# False alarms: 5 % of all such spans of nights have one, whatever the number of cells.
FALSE_ALARM_SPANS = 0.05
SPAN_NIGHTS = 60
# Fewer say too little about how unlike each other nights are.
FEWEST_NIGHTS = 5
GUARDED_LOSS = 0.05
# Above it a loss of 5 % is missed too often at this level (with 28 nights it is found in 9 of 10 cases at 0.8 %).
LARGEST_SPREAD = 0.008
# One-sided, of the second measurement of a night alone: chance makes a quiet cell slower twice in one alarm of 1000.
CONFIRMED_AT = 0.001
FAILED = "FAILED"
NOT_MEASURED = "NOT MEASURED"


@dataclass(frozen=True)
class NightCell:
    """samples_s: tonight, None where the cell failed; before: of the nights of the baseline, oldest first.

    again_samples_s: measured again in the same night, None where it was not.
    pinned: of the pinned run directory, which then takes the place of the nights' median.
    expected: whether it is a finding if the cell cannot run: the night before had it ok, or the study is strict.
    """

    name: str
    outcome: str
    reason: str
    noise_class: str
    samples_s: float | None
    before: tuple[float, ...] = ()
    pinned: float | None = None
    expected: bool = False
    again_samples_s: float | None = None


@dataclass(frozen=True)
class NightVerdict:
    """effect: throughput tonight / baseline - 1, negative is slower; interval likewise, at the level of the night.

    verdict: of compare, or FAILED or NOT MEASURED; None where there is too little to compare with.
    again_samples_s: of the second measurement, where there was one; effect and interval are then of both.
    guarded: whether a loss of GUARDED_LOSS would be found.
    """

    name: str
    verdict: str | None
    effect: float | None
    interval: tuple[float, float] | None
    tonight_samples_s: float | None
    baseline_samples_s: float | None
    nights: int
    nightly_spread: float | None
    guarded: bool
    text: str
    again_samples_s: float | None = None

    @property
    def too_noisy(self) -> bool:
        return self.nightly_spread is not None and self.nightly_spread > LARGEST_SPREAD

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"interval": self.interval and list(self.interval), "too_noisy": self.too_noisy}


def level(comparisons: int) -> float:
    """Of one one-sided test, so that SPAN_NIGHTS nights of as many comparisons rarely have a false alarm (Bonferroni).

    1.7e-5 for 48 cells.
    """
    return FALSE_ALARM_SPANS / (SPAN_NIGHTS * max(comparisons, 1))


def judge_cells(cells: Sequence[NightCell]) -> list[NightVerdict]:
    """A verdict for each cell, in their order.

    Slower is said at once where a cell was measured once. Of a cell that was measured again it is said only if
    the second measurement alone is slower too (at CONFIRMED_AT); what is told is then the mean of both.
    """
    firsts = _estimates(cells, [cell.samples_s for cell in cells], None)
    judged = [_judged(cell, found) for cell, found in zip(cells, firsts, strict=True)]
    twice = [i for i, one in enumerate(judged) if one.verdict == Verdict.SLOWER and cells[i].again_samples_s]
    if twice:
        again = _estimates(cells, [cell.again_samples_s for cell in cells], CONFIRMED_AT)
        both = _estimates(cells, [_mean(cell) for cell in cells], None)
        for i in twice:
            judged[i] = _confirmed(cells[i], judged[i], again[i], both[i])
    return judged


def _estimates(
    cells: Sequence[NightCell], samples_s: Sequence[float | None], one_sided: float | None
) -> list[Estimate | None]:
    """Of each cell with enough nights, these throughputs against its baseline. one_sided: None for that of a night."""
    samples = [_sample(cell, rate) for cell, rate in zip(cells, samples_s, strict=True)]
    comparable = [sample for sample in samples if sample]
    # compare's p-value and interval are two-sided.
    found = iter(estimate(comparable, confidence=1 - 2 * (one_sided or level(len(comparable)))))
    return [next(found) if sample else None for sample in samples]


def _mean(cell: NightCell) -> float | None:
    if cell.samples_s is None or cell.again_samples_s is None:
        return cell.samples_s
    return math.sqrt(cell.samples_s * cell.again_samples_s)


def _confirmed(cell: NightCell, first: NightVerdict, again: Estimate | None, both: Estimate | None) -> NightVerdict:
    """The verdict that the second measurement leaves of a first one that was slower."""
    if again is None or both is None or first.effect is None:
        return first
    losses = ", ".join(told(found) for found in (-first.effect, again.penalty))
    # SAME, which comes before SLOWER, is none here: a confirmed loss below the margin stays in the first verdict.
    slower = again.penalty > 0 and again.p_difference is not None and again.p_difference <= 2 * CONFIRMED_AT
    measured = replace(
        first,
        effect=math.expm1(both.mean_log),
        interval=(-both.interval[1], -both.interval[0]) if both.interval else None,
        again_samples_s=cell.again_samples_s,
    )
    if slower:
        return replace(measured, text=f"{told(both.penalty)} over two measurements of this night ({losses}): confirmed")
    text = f"not confirmed: measured twice this night ({losses})"
    return replace(measured, verdict=Verdict.UNDECIDED.value, text=text)


def spread(before: Sequence[float]) -> float | None:
    """Standard deviation of the nights' logarithms, that is, relative; None below two nights."""
    return float(np.std(np.log(before), ddof=1)) if len(before) > 1 else None


def _sample(cell: NightCell, samples_s: float | None) -> Sample | None:
    if samples_s is None or len(cell.before) < FEWEST_NIGHTS:
        return None
    logs = np.log(cell.before)
    nights = len(logs)
    # Variance of a median of normal values: pi / 2 of that of the mean. A pinned value is one night.
    of_baseline = 1.0 if cell.pinned else math.pi / 2 / nights
    return Sample(
        label=cell.name,
        noise_class=cell.noise_class,
        mean=math.log(samples_s) - (math.log(cell.pinned) if cell.pinned else float(np.median(logs))),
        variance=float(np.var(logs, ddof=1)),
        df=nights - 1,
        scale=1 + of_baseline,
        pairs=nights,
    )


def _judged(cell: NightCell, found: Estimate | None) -> NightVerdict:
    own_spread = spread(cell.before)
    verdict, text = _said(cell, found, own_spread)
    return NightVerdict(
        name=cell.name,
        verdict=verdict,
        effect=math.expm1(found.mean_log) if found else None,
        interval=(-found.interval[1], -found.interval[0]) if found and found.interval else None,
        tonight_samples_s=cell.samples_s,
        baseline_samples_s=cell.pinned or (float(np.median(cell.before)) if cell.before else None),
        nights=len(cell.before),
        nightly_spread=own_spread,
        guarded=len(cell.before) >= FEWEST_NIGHTS and own_spread is not None and own_spread <= LARGEST_SPREAD,
        text=text,
    )


def _said(cell: NightCell, found: Estimate | None, own_spread: float | None) -> tuple[str | None, str]:
    if cell.samples_s is None or cell.outcome != "ok":
        reason = f"{cell.outcome}: {cell.reason}" if cell.reason else cell.outcome
        if cell.outcome not in ("not_runnable", "missing"):
            return FAILED, reason
        return (NOT_MEASURED, f"{reason}; it was to be measured") if cell.expected else (None, reason)
    if found is None:
        nights = len(cell.before)
        return None, f"nothing to compare with yet: {nights} {'night' if nights == 1 else 'nights'} of {FEWEST_NIGHTS}"
    noisy = own_spread is not None and own_spread > LARGEST_SPREAD
    loss = told(found.penalty) + (" than the pinned run" if cell.pinned else "")
    aside = (
        f"; too noisy to guard at {100 * GUARDED_LOSS:g} %: the nights spread by {percent(own_spread or 0)}"
        if noisy
        else ""
    )
    verdict = decided(found) or Verdict.UNDECIDED
    if verdict is Verdict.SAME:
        return verdict.value, f"no difference larger than {100 * found.margin:g} %{aside}"
    if verdict is Verdict.UNDECIDED:
        return verdict.value, f"{loss}, which the spread of the nights explains{aside}"
    return verdict.value, f"{loss}, more than the spread of the nights ({percent(own_spread or 0)}) explains{aside}"


# --- night
# The verdict of one night: what its studies say against the nights before, in values that a program can read.

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
            label: _cells_of_night(one, before[label], pinned[label], strict[label], rates_of(again.get(label)))
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


def _cells_of_night(
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


# --- again
# A second measurement in the same night, of the cells that the first found slower: no alarm rests on one run of bad
# luck. It is a small study of its own, in a run directory beside the first one.

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
    study = structs.replace(first.study(), again_of=str(first.path), created_by=invocation, measure_link=False)
    cells = tuple(cell for cell in first.grid().cells if cell.name in names)
    order = measuring_order([(cell.name, cell.group) for cell in cells], study.most_repeats, study.seed)
    path = new_directory(first.path.parents[1])
    freeze(path, study, first.host(), Grid(cells=cells, order=tuple(order)))
    return path
