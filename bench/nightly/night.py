"""The verdict of one night: its studies against the nights before, and what is measured a second time."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from msgspec.structs import replace

from bench.analysis.crossing import design_of
from bench.analysis.latency import undisturbed
from bench.analysis.load import read_results
from bench.analysis.pairs import undisturbed_throughput
from bench.history.database import add_study, add_verdicts, open_history
from bench.nightly.baseline import Baseline, CellId, SeriesId, read_baseline
from bench.nightly.judge import FEWEST_NIGHTS, GUARDED_LOSS, Tonight, judge_cells, level
from bench.records.base import plain
from bench.records.metric import Better, Metric
from bench.records.nightly import (
    THROUGHPUT,
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
from bench.records.results import Measure, MeasuredCell, Results
from bench.records.run import Outcome
from bench.records.study import Grid, LeftOut
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

# Odd: their median is a slow process only if most of them are. If one process in ten is slow, so is the median of three
# in 2.8 % of nights, and that of thirteen in 0.01 %.
SECOND_RUNS = 13
# Latency has the unit of a time; a spread is a number.
_UNITS = {Measure.LATENCY_P50: "us", Measure.LATENCY_P99: "us", Measure.SPREAD_IN_RUNS: "of the time per batch"}


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
    confirm_next_night: bool = False,
) -> Night:
    """The verdict of a night. Adds the night's studies and its verdicts to the history.

    confirm_next_night: see judge_cells. inputs: see the record Night. without_gpu: labels of studies that were left
    out, as this host has no GPU.
    Raises StudyError if results or the history cannot be read.
    """
    results = {study.label: read_results(study.run_dir) for study in planned if study.run_dir}
    seconds = {study.label: read_results(study.second) for study in planned if study.second}
    ids = {label: add_study(one, database) for label, one in results.items()}
    second_ids = {label: add_study(one, database) for label, one in seconds.items()}
    with open_history(database) as history:
        before = {label: read_baseline(history, one, night, nights, since) for label, one in results.items()}
        cells: dict[str, list[TonightCell]] = {
            study.label: _tonight(study, results[study.label], before[study.label], seconds.get(study.label))
            for study in planned
            if study.label in results
        }
        # All cells of a night are one family of comparisons.
        verdicts = iter(
            judge_cells(
                [one for own in cells.values() for cell in own for one in (cell.rate, *cell.others)],
                confirm_next_night,
            )
        )
        judged = {label: [_judged(cell, verdicts) for cell in own] for label, own in cells.items()}
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
    return _night(night, host, studies, database, inputs, without_gpu, confirm_next_night)


@dataclass(frozen=True)
class TonightCell:
    """A cell as the night measured it: its throughput, and what else of it is compared."""

    rate: Tonight
    others: tuple[Tonight, ...]


def _tonight(study: NightlyStudy, results: Results, before: Baseline, second: Results | None) -> list[TonightCell]:
    pinned, again = (_by_series(one) for one in (read_results(study.pinned) if study.pinned else None, second))
    cells = []
    for cell in results.cells:
        in_series = _series_of(cell)
        every, counting = before.every.get(in_series, ()), before.cells.get(in_series, ())
        pending = before.pending.get(in_series, frozenset())
        rate = Tonight(
            name=cell.name,
            outcome=cell.outcome,
            reason=cell.reason,
            noise_class=cell.noise_class,
            samples_s=_rate(cell),
            before={value.night: value.samples_s for value in counting},
            pinned=_rate(pinned.get(in_series)),
            expected=study.strict or (cell.key, cell.name) in before.last_night,
            second_samples_s=_rate(again.get(in_series)),
            metric=cell.metric.primary if cell.metric else None,
            every=tuple(value.samples_s for value in every),
            first_night=every[0].night if every else "",
            pending_before=THROUGHPUT in pending,
        )
        others = []
        for measure, unit in _UNITS.items():
            if (value := _inverse(cell, measure)) is None:
                continue
            others.append(
                dataclasses.replace(
                    rate,
                    measure=measure,
                    samples_s=value,
                    before={one.night: 1 / known for one in counting if (known := one.others.get(measure))},
                    pinned=_inverse(pinned.get(in_series), measure),
                    second_samples_s=_inverse(again.get(in_series), measure),
                    metric=Metric(value=1 / value, unit=unit, better=Better.LOWER),
                    every=(),
                    first_night="",
                    pending_before=measure in pending,
                )
            )
        cells.append(TonightCell(rate, tuple(others)))
    return cells


def _judged(cell: TonightCell, verdicts: Iterator[NightCell]) -> NightCell:
    """The next verdicts, which are of this cell."""
    judged = next(verdicts)
    others = {one.measure: next(verdicts) for one in cell.others}
    return replace(judged, others={measure: one for measure, one in others.items() if measure})


def _by_series(results: Results | None) -> dict[SeriesId, MeasuredCell]:
    return {_series_of(cell): cell for cell in results.cells} if results else {}


def _series_of(cell: MeasuredCell) -> SeriesId:
    return cell.key, cell.name, design_of(cell)


def _rate(cell: MeasuredCell | None) -> float | None:
    return undisturbed_throughput(cell) if cell and cell.outcome is Outcome.OK else None


def _inverse(cell: MeasuredCell | None, measure: Measure) -> float | None:
    value = undisturbed(cell, measure) if cell and cell.outcome is Outcome.OK else None
    return 1 / value if value else None


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
    night: str,
    host: str,
    studies: list[NightStudy],
    database: Path,
    inputs: str,
    without_gpu: Sequence[str],
    confirm_next_night: bool,
) -> Night:
    cells = [cell for study in studies for cell in study.cells]

    def named(verdict: NightlyVerdict | None) -> tuple[str, ...]:
        return tuple(cell.name for cell in cells if cell.worst is verdict)

    unmeasured = (*named(NightlyVerdict.NOT_MEASURED), *(study.study for study in studies if study.problem))
    findings = {
        NightState.SLOWER: named(NightlyVerdict.SLOWER),
        NightState.FAILED: named(NightlyVerdict.FAILED),
        NightState.NOT_MEASURED: unmeasured,
    }
    compared = sum(cell.effect is not None for cell in cells)
    others = sum(one.effect is not None for cell in cells for one in cell.others.values())
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
        level=level(compared, others),
        compared_others=others,
        level_of_others=level(others, compared) if others else 1.0,
        confirm_next_night=confirm_next_night,
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
    if pending := sum(cell.worst is NightlyVerdict.PENDING and _waits_for_host(cell) for cell in cells):
        text = slower_host_text(pending, sum(cell.effect is not None for cell in cells))
        warnings.append(NightWarning(kind=kinds.HOST_SLOWER, text=text))
    warnings += [NightWarning(kind=kinds.NO_GPU, study=label, text=no_gpu_text(label)) for label in without_gpu]
    return tuple(warnings)


def _waits_for_host(cell: NightCell) -> bool:
    """Whether it is pending because most cells were slower: such a cell is not measured again."""
    return any(one.verdict is NightlyVerdict.PENDING and not one.second_effect for one in (cell, *cell.others.values()))


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
    if study.left_out:
        # Of what a budget left out of the first measurement only the traced runs are missing here by it.
        study = replace(study, left_out=LeftOut(traced=True) if study.left_out.traced else None)
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
