"""What the numbers of a study rest on: proof of placement, disturbance, spread between processes; counts and times."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from bench.records.host import Fingerprint, FingerprintChange
from bench.records.results import (
    Counts,
    FailedCell,
    ForeignFingerprint,
    MeasuredCell,
    NoiseClass,
    Results,
    Summary,
    Trust,
)  # fmt: skip
from bench.records.run import Doubt, Outcome, PlacementVerdict, Run


def trust(
    runs: Iterable[Run], cells: Iterable[MeasuredCell], fingerprint: Fingerprint, noise_floor: float | None = None
) -> Trust:
    """Over the runs that succeeded. fingerprint: the study's; noise_floor: of the host, if known."""
    good = [run for run in runs if run.ok]
    unproved = [run for run in good if not _is_proved(run)]
    monitors = {run.run: run.monitor for run in good if run.monitor}
    spreads: dict[NoiseClass, list[float]] = {}
    for cell in cells:
        if cell.spread is not None:
            spreads.setdefault(cell.noise_class, []).append(cell.spread)
    return Trust(
        runs_ok=len(good),
        timed_ok=sum(run.timed for run in good),
        proved=len(good) - len(unproved),
        unproved=tuple(sorted(run.run for run in unproved)),
        unproved_reasons={run.run: _doubts(run) for run in unproved},
        monitored=len(monitors),
        throttling_unknown=tuple(sorted(run for run, found in monitors.items() if found.throttle_known is False)),
        throttled=tuple(sorted(run for run, found in monitors.items() if found.throttle_reasons)),
        disturbed=tuple(sorted(run for run, found in monitors.items() if found.disturbed)),
        disturbed_by={run: tuple(found.disturbed) for run, found in monitors.items() if found.disturbed},
        noise={name: statistics.median(values) for name, values in sorted(spreads.items())},
        noise_floor=noise_floor,
        foreign_fingerprints=foreign_fingerprints(good, fingerprint),
    )


def foreign_fingerprints(runs: Iterable[Run], fingerprint: Fingerprint) -> tuple[ForeignFingerprint, ...]:
    """The runs of each fingerprint that is not the study's. Facts that only one of the two has are not compared."""
    groups: dict[tuple[FingerprintChange, ...], list[str]] = {}
    for run in runs:
        changes = tuple(
            FingerprintChange(fact=fact, before=before, after=after)
            for fact in Fingerprint.__struct_fields__
            if (before := getattr(fingerprint, fact)) and (after := getattr(run.fingerprint, fact)) and before != after
        )
        if changes:
            groups.setdefault(changes, []).append(run.run)
    return tuple(ForeignFingerprint(runs=tuple(sorted(names)), changes=changes) for changes, names in groups.items())


def count(cells: Sequence[MeasuredCell], expected_runs: int) -> Counts:
    outcomes = Counter(cell.outcome for cell in cells)
    return Counts(
        cells=len(cells),
        ok=outcomes.pop(Outcome.OK, 0),
        runs=expected_runs,
        runs_ok=sum(run.status is Outcome.OK for cell in cells for run in cell.runs),
        outcomes=dict(outcomes),
    )


def duration_s(runs: Iterable[Run]) -> float:
    """From the start of the first run to the end of the last; 0 without runs.

    A study that was interrupted and completed later counts the pause too; see busy_s.
    """
    spans = [(start, start + busy_s([run])) for run in runs if (start := _epoch_s(run.started_at)) is not None]
    return round(max(end for _, end in spans) - min(start for start, _ in spans), 3) if spans else 0.0


def busy_s(runs: Iterable[Run]) -> float:
    """Wall time of all processes together: the runs of one crossing share one."""
    alone, crossed = 0.0, dict[str, float]()
    for run in runs:
        if run.crossing:
            crossed[run.crossing.id] = max(crossed.get(run.crossing.id, 0.0), run.wall_s)
        else:
            alone += run.wall_s
    return round(alone + sum(crossed.values()), 3)


def measured_s(runs: Iterable[Run]) -> float:
    """The part of busy_s in the measured windows of timed runs; of a command all the time that it took."""
    timed = [run for run in runs if run.timed]
    windows = sum(window.duration_s for run in timed if run.result for window in run.result.windows)
    return round(windows + sum(run.of_command.seconds or 0.0 for run in timed if run.of_command), 3)


def summarise(results: Results) -> Summary:
    counts = results.counts
    return Summary(
        study_name=results.study_name,
        run_directory=results.run_directory,
        created_at=results.created_at,
        invocation=results.invocation,
        host=results.host,
        device=results.device,
        counts=counts,
        success_rate=counts.ok / counts.cells if counts.cells else 0.0,
        duration_s=results.duration_s,
        busy_s=results.busy_s,
        measured_s=results.measured_s,
        failures=tuple(
            FailedCell(
                cell=cell.name, run=cell.failed_run, outcome=cell.outcome, reason=cell.reason, advice=cell.advice
            )
            for cell in results.cells
            if cell.outcome is not Outcome.OK
        ),
    )


def _is_proved(run: Run) -> bool:
    return run.certificate is not None and run.certificate.verdict is PlacementVerdict.PROVED


def _doubts(run: Run) -> tuple[Doubt, ...]:
    return tuple(run.certificate.reasons) if run.certificate else ()


def _epoch_s(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
