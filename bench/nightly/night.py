"""The verdict of one night: its studies against the nights before, and what is measured a second time."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from msgspec.structs import replace
from sqlite_utils import Database

from bench.analysis.crossing import design_of
from bench.analysis.load import read_results
from bench.analysis.pairs import undisturbed_throughput
from bench.compare import host_differences
from bench.history.database import add_study, add_verdicts, connection_of, open_history
from bench.history.query import Rate, stored_fingerprint
from bench.nightly.judge import FEWEST_NIGHTS, GUARDED_LOSS, Tonight, judge_cells, level
from bench.records.base import convert, plain
from bench.records.host import FingerprintChange
from bench.records.nightly import (
    ExcludedNight,
    Night,
    NightBaseline,
    NightCell,
    NightlyVerdict,
    NightState,
    NightStudy,
    NightWarning,
    NightWarningKind,
    SecondMeasurement,
    second_measurements,
)
from bench.records.results import Results
from bench.records.run import Outcome
from bench.records.study import Design, Grid
from bench.report.text.studies import (
    cell_text,
    changed_host_text,
    excluded_nights_text,
    judged_late_text,
    night_text,
    no_gpu_text,
    slower_host_text,
)
from bench.storage import utc_now, write_json
from bench.study.crossing import births_of
from bench.study.directory import RunDirectory, freeze, new_directory
from bench.study.grid import order_of

CellId = tuple[str, str]
# A cell by its design: what was measured by turns in one process is a series of its own.
SeriesId = tuple[str, str, Design]
# Odd: their median is a slow process only if most of them are. If one process in ten is slow, so is the median of three
# in 2.8 % of nights, and that of thirteen in 0.01 %.
SECOND_RUNS = 13
_LOST = (NightlyVerdict.SLOWER, NightlyVerdict.PENDING)


@dataclass(frozen=True)
class NightlyStudy:
    """A study that the night was to measure. run_dir: None if it could not be planned; `problem` says why.

    pinned: the run directory that takes the place of the nights' median. strict: a cell that cannot run here is a
    finding. second: the run directory of a second measurement, of the cells that the first found slower.
    """

    label: str
    run_dir: Path | None
    problem: str = ""
    pinned: Path | None = None
    strict: bool = False
    second: Path | None = None


@dataclass(frozen=True)
class NightValue:
    """One cell in one night. slower: or pending, by its verdict; counts: in later baselines."""

    night: str
    samples_s: float
    slower: bool
    counts: bool


@dataclass(frozen=True)
class Baseline:
    """The nights before. cells: their values that count, by (key, name, design); every: all of their values.

    nights: all that counted. slower: cells that the night before found slower, or pending.
    last_night: the cells that were ok in the night before, whatever its hardware. changes: of the host since then.
    excluded: nights on other hardware.
    """

    cells: dict[SeriesId, tuple[float, ...]]
    every: dict[SeriesId, tuple[NightValue, ...]]
    slower: frozenset[SeriesId]
    nights: tuple[str, ...]
    last_night: frozenset[CellId]
    changes: tuple[FingerprintChange, ...]
    excluded: tuple[ExcludedNight, ...]


# The nights before


def read_baseline(database: Database, tonight: Results, night: str, nights: int, since: str = "") -> Baseline:
    """The nights before `night` of the study and host of `tonight`.

    Each cell has its own last `nights` nights: those that found it slower, or pending, do not count, or a loss would be
    the normal state of the next night. They do count once a later `since` accepts the new level. Those on other
    hardware never count.
    """
    rows = list(
        database.query(
            "SELECT id, night, device, fingerprint FROM studies WHERE host = ? AND study_name = ? "
            "AND night != '' AND night < ? ORDER BY night, measured_at",
            [tonight.host, tonight.study_name, night],
        )
    )
    differences = {
        row["id"]: host_differences(
            str(row["device"] or ""),
            stored_fingerprint(row["fingerprint"]),
            tonight.device,
            tonight.fingerprint,
        )
        for row in rows
    }
    excluded = [
        ExcludedNight(night=row["night"], changes=refused)
        for row in rows
        if (refused := differences[row["id"]].incomparable)
    ]
    counted = [row["id"] for row in rows if not differences[row["id"]].incomparable and row["night"] >= since]
    last = [row["id"] for row in rows if row["night"] == rows[-1]["night"]]
    changes = (*differences[last[-1]].incomparable, *differences[last[-1]].notable) if last else ()
    every = _values(database, counted, since)
    counting = {cell: [value for value in values if value.counts][-nights:] for cell, values in every.items()}
    return Baseline(
        cells={cell: tuple(value.samples_s for value in values) for cell, values in counting.items()},
        every=every,
        slower=frozenset(
            cell for cell, values in every.items() if values[-1].slower and values[-1].night == rows[-1]["night"]
        ),
        nights=tuple(sorted({value.night for values in counting.values() for value in values})),
        last_night=frozenset(cell for study_id in last for cell in _measured_cells(database, study_id)),
        changes=changes,
        excluded=tuple(excluded),
    )


def _values(database: Database, studies: list[int], since: str) -> dict[SeriesId, tuple[NightValue, ...]]:
    """Of each cell, oldest first. Of a night that was measured twice the later value counts."""
    rows = connection_of(database).execute(
        "SELECT cells.key, cells.name, m.design, studies.night, m.undisturbed_samples_s, "
        "coalesce(verdicts.verdict, ''), coalesce(verdicts.since, '') FROM measurements m "
        "JOIN studies ON studies.id = m.study_id JOIN cells ON cells.id = m.cell_id "
        "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
        "WHERE m.study_id IN (SELECT value FROM json_each(?)) AND m.outcome = ? "
        "AND m.undisturbed_samples_s IS NOT NULL ORDER BY studies.night, studies.measured_at",
        [json.dumps(studies), Outcome.OK.value],
    )
    by_cell: dict[SeriesId, dict[str, NightValue]] = {}
    for row in rows:
        key, name, design, night, rate, verdict, judged_since = convert(
            row, tuple[str, str, Design, str, Rate, str, str]
        )
        slower = verdict in _LOST
        value = NightValue(night, rate, slower, not slower or judged_since < since)
        by_cell.setdefault((key, name, design), {})[night] = value
    return {cell: tuple(values.values()) for cell, values in by_cell.items()}


def _measured_cells(database: Database, study_id: int) -> list[CellId]:
    rows = connection_of(database).execute(
        "SELECT cells.key, cells.name FROM measurements m JOIN cells ON cells.id = m.cell_id "
        "WHERE m.study_id = ? AND m.outcome = ?",
        [study_id, Outcome.OK.value],
    )
    return [(key, name) for key, name in rows]


# The verdict


def judge_night(
    night: str,
    host: str,
    planned: Sequence[NightlyStudy],
    database: Path,
    nights: int,
    since: str = "",
    inputs: str = "",
    without_gpu: Sequence[str] = (),
) -> Night:
    """The verdict of a night. Adds the night's studies and its verdicts to the history.

    inputs: see the record Night. without_gpu: labels of studies that were left out, as this host has no GPU.
    Raises StudyError if results or the history cannot be read.
    """
    results = {study.label: read_results(study.run_dir) for study in planned if study.run_dir}
    seconds = {study.label: read_results(study.second) for study in planned if study.second}
    ids = {label: add_study(one, database) for label, one in results.items()}
    second_ids = {label: add_study(one, database) for label, one in seconds.items()}
    with open_history(database) as history:
        before = {label: read_baseline(history, one, night, nights, since) for label, one in results.items()}
        cells = {
            study.label: _tonight(study, results[study.label], before[study.label], seconds.get(study.label))
            for study in planned
            if study.label in results
        }
        # All cells of a night are one family of comparisons.
        verdicts = iter(judge_cells([cell for own in cells.values() for cell in own]))
        judged = {label: [next(verdicts) for _ in own] for label, own in cells.items()}
        for label, own in judged.items():
            add_verdicts(history, ids[label], own, since)
            if label in second_ids:
                # Both belong to this night: a loss is kept out of later baselines with both its measurements.
                add_verdicts(history, second_ids[label], own, since)
    vanished = _vanished(results, before)
    studies = []
    for study in planned:
        if study.label in results:
            gone = vanished.pop(results[study.label].study_name, ())
            studies.append(_study(study, results[study.label], before[study.label], [*judged[study.label], *gone]))
        else:
            studies.append(NightStudy(study=study.label, problem=study.problem))
    return _night(night, host, studies, database, inputs, without_gpu)


def _tonight(study: NightlyStudy, results: Results, before: Baseline, second: Results | None) -> list[Tonight]:
    pinned = rates_of(read_results(study.pinned)) if study.pinned else {}
    second_rates = rates_of(second) if second else {}
    cells = []
    for cell in results.cells:
        known_as, in_series = (cell.key, cell.name), (cell.key, cell.name, design_of(cell))
        every = before.every.get(in_series, ())
        cells.append(
            Tonight(
                name=cell.name,
                outcome=cell.outcome,
                reason=cell.reason,
                noise_class=cell.noise_class,
                samples_s=undisturbed_throughput(cell) if cell.outcome is Outcome.OK else None,
                before=before.cells.get(in_series, ()),
                pinned=pinned.get(in_series),
                expected=study.strict or known_as in before.last_night,
                second_samples_s=second_rates.get(in_series),
                metric=cell.metric.primary if cell.metric else None,
                every=tuple(value.samples_s for value in every),
                first_night=every[0].night if every else "",
                slower_before=in_series in before.slower,
            )
        )
    return cells


def rates_of(results: Results) -> dict[SeriesId, float]:
    """By (key, name, design) the samples/s that count for a night."""
    return {
        (cell.key, cell.name, design_of(cell)): rate for cell in results.cells if (rate := undisturbed_throughput(cell))
    }


def _vanished(results: dict[str, Results], before: dict[str, Baseline]) -> dict[str, tuple[NightCell, ...]]:
    """By study name: cells that the night before had ok and that tonight's grids do not have at all."""
    present: dict[str, set[CellId]] = {}
    expected: dict[str, frozenset[CellId]] = {}
    for label, one in results.items():
        present.setdefault(one.study_name, set()).update((cell.key, cell.name) for cell in one.cells)
        expected[one.study_name] = before[label].last_night
    return {
        study_name: tuple(_not_in_grid(name) for name in sorted(name for _, name in known - present[study_name]))
        for study_name, known in expected.items()
    }


def _not_in_grid(name: str) -> NightCell:
    cell = NightCell(name=name, verdict=NightlyVerdict.NOT_MEASURED)
    return replace(cell, text=cell_text(cell, FEWEST_NIGHTS, GUARDED_LOSS))


def _study(study: NightlyStudy, results: Results, before: Baseline, cells: list[NightCell]) -> NightStudy:
    return NightStudy(
        study=study.label,
        study_name=results.study_name,
        run_directory=results.run_directory,
        second_run_directory=str(study.second) if study.second else None,
        baseline=NightBaseline(
            pinned=str(study.pinned) if study.pinned else None, nights=before.nights, excluded=before.excluded
        ),
        changes=before.changes,
        cells=tuple(cells),
    )


def _night(
    night: str, host: str, studies: list[NightStudy], database: Path, inputs: str, without_gpu: Sequence[str]
) -> Night:
    cells = [cell for study in studies for cell in study.cells]

    def named(verdict: NightlyVerdict | None) -> tuple[str, ...]:
        return tuple(cell.name for cell in cells if cell.verdict is verdict)

    unmeasured = (*named(NightlyVerdict.NOT_MEASURED), *(study.study for study in studies if study.problem))
    findings = {
        NightState.SLOWER: named(NightlyVerdict.SLOWER),
        NightState.FAILED: named(NightlyVerdict.FAILED),
        NightState.NOT_MEASURED: unmeasured,
    }
    compared = sum(cell.effect is not None for cell in cells)
    return Night(
        night=night,
        host=host,
        verdict=next((state for state, names in findings.items() if names), NightState.OK),
        text=night_text(cells, unmeasured, FEWEST_NIGHTS),
        slower=findings[NightState.SLOWER],
        failed=findings[NightState.FAILED],
        not_measured=unmeasured,
        faster=named(NightlyVerdict.FASTER),
        too_noisy=tuple(cell.name for cell in cells if cell.too_noisy),
        not_compared=named(None),
        compared=compared,
        level=level(compared),
        warnings=_warnings(night, studies, without_gpu),
        created_at=utc_now(),
        history=os.fspath(database),
        studies=tuple(studies),
        inputs=inputs,
    )


def _warnings(night: str, studies: Sequence[NightStudy], without_gpu: Sequence[str]) -> tuple[NightWarning, ...]:
    kinds = NightWarningKind
    warnings = [
        NightWarning(kind=kinds.HOST_CHANGED, study=study.study, text=changed_host_text(study, change))
        for study in studies
        for change in study.changes
    ]
    for study in studies:
        if study.baseline and (excluded := study.baseline.excluded):
            text = excluded_nights_text(study, excluded)
            warnings.append(NightWarning(kind=kinds.NIGHTS_EXCLUDED, study=study.study, text=text))
    today = date.today()
    if abs((today - date.fromisoformat(night)).days) > 1:
        warnings.append(NightWarning(kind=kinds.JUDGED_LATE, text=judged_late_text(today.isoformat())))
    cells = [cell for study in studies for cell in study.cells]
    if pending := sum(cell.verdict is NightlyVerdict.PENDING for cell in cells):
        text = slower_host_text(pending, sum(cell.effect is not None for cell in cells))
        warnings.append(NightWarning(kind=kinds.HOST_SLOWER, text=text))
    warnings += [NightWarning(kind=kinds.NO_GPU, study=label, text=no_gpu_text(label)) for label in without_gpu]
    return tuple(warnings)


# The second measurement


def measure_again(folder: Path, label: str, first: Path, cells: Sequence[str], invocation: str) -> Path:
    """The run directory in which these cells are measured a second time; created once a night.

    A new one takes its place only if a cell has become slower that it does not have. first: the first measurement's.
    """
    entries = second_measurements(folder)
    entry = entries.get(label)
    if entry and set(cells) <= set(entry.cells) and (Path(entry.run_directory) / "grid.json").is_file():
        return Path(entry.run_directory)
    path = _small_study(RunDirectory(first), cells, invocation)
    entry = SecondMeasurement(cells=tuple(cells), run_directory=str(path))
    write_json(folder / "again.json", plain(entries | {label: entry}))
    return path


def _small_study(first: RunDirectory, names: Sequence[str], invocation: str) -> Path:
    """A study of some cells of another one, in a run directory beside it, with at least SECOND_RUNS of each.

    Of a cell that is measured by turns only the processes that started on its own node count.
    """
    study = replace(first.study(), again_of=str(first.path), created_by=invocation, measure_link=False)
    grid, host = first.grid(), first.host()
    # A cell that was measured by turns with others is measured with them again.
    crossed = {slot.group for slot in grid.order if slot.birth and slot.cell in names}
    cells = tuple(cell for cell in grid.cells if cell.name in names or cell.group in crossed)
    births = births_of([cell for cell in cells if cell.group in crossed], host)[0]
    starts = max((len(own) for own in births.values()), default=1)
    study = replace(study, repeats=max(study.repeats, SECOND_RUNS * starts))
    path = new_directory(first.path.parents[1])
    freeze(path, study, host, Grid(cells=cells, order=tuple(order_of(study, cells, births))))
    return path
