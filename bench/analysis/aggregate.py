"""The runs, export and metrics of a cell folded into one cell."""

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from bench.analysis.bound import cell_bound
from bench.analysis.contention import bytes_per_batch, peer_rates, peers_of_cell
from bench.analysis.crossing import carry_over_difference, counted_runs, crossed_runs, huge_pages_difference
from bench.analysis.load import RunData
from bench.analysis.metric import cell_metric, command_remarks
from bench.analysis.pairs import exclude_disturbed, number_duplicates
from bench.analysis.verdicts import noise_class
from bench.analysis.windows import facts_of_run, mean_samples_s, window_remarks
from bench.records.base import Repeat
from bench.records.results import (
    CellRemark,
    CellRemarkKind,
    CellRun,
    CellState,
    Clocks,
    CrossedRun,
    Extremes,
    MeasuredCell,
    Values,
)  # fmt: skip
from bench.records.run import Latency, Outcome, Result, Run, Stage, Stages, StartMethod
from bench.records.study import TRACED, Cell, Settings, Study
from bench.records.trace import Metrics

CLOCKS_AGREE_WITHIN = 0.02
# A profiler that costs more than this made another run of it; latencies of the two are then not compared.
PERTURBED = 0.05
# The host's window also has the first launch and the closing synchronise: 0.18 to 0.26 ms on one H200.
WINDOW_ENDS_NS = 500_000


def measured_cells(data: RunData) -> tuple[MeasuredCell, ...]:
    """The cells of a run directory with what was measured of each, in the order of the study."""
    crossed = crossed_runs(data.runs.values(), {cell.name: cell.batch_size for cell in data.cells})
    cells = tuple(
        measured_cell(
            entry,
            cell,
            data.runs_of(cell.name),
            data.exports.get(cell.name),
            data.extractions.get(cell.name),
            data.metrics.get(cell.name),
            data.study.repeats,
            crossed,
            data.study.is_traced,
        )
        for cell, entry in zip(data.cells, unmeasured_cells(data.cells, data.study), strict=True)
    )
    return _with_differences(cells) if crossed else cells


def unmeasured_cells(cells: Sequence[Cell], study: Study) -> list[MeasuredCell]:
    """Cells of a grid before any run."""
    occurrences = number_duplicates(cells, lambda cell: (cell.gpu, cell.placement, cell.model, cell.settings))
    first_heads: dict[str, int] = {}
    entries = []
    for cell, occurrence in zip(cells, occurrences, strict=True):
        heads = first_heads.setdefault(cell.model.name, cell.model.heads)
        differing: Values = {} if cell.model.heads == heads else {"heads": cell.model.heads}
        differing |= {
            key: value for key in Settings.__struct_fields__ if (value := getattr(cell, key)) != getattr(study, key)
        }
        entries.append(
            MeasuredCell(
                name=cell.name,
                key=cell.key,
                gpu=cell.gpu,
                gpu_uuid=cell.gpu_uuid,
                cpu_node=cell.cpu_node,
                mem_node=cell.mem_node,
                cpus=cell.cpus,
                model=cell.model,
                settings=cell.settings,
                differing_settings=differing,
                occurrence=occurrence,
            )
        )
    return entries


def measured_cell(
    entry: MeasuredCell,
    cell: Cell,
    runs: Sequence[Run],
    export: Stage | None,
    extraction: Stage | None,
    metrics: Metrics | None,
    repeats: int,
    crossed: Mapping[str, CrossedRun] | None = None,
    is_traced: bool = True,
) -> MeasuredCell:
    """entry: of the same cell before any run. runs: timed ones by repeat, then the traced one.

    repeats: timed runs that the study asks for; there may be more, measured on demand. crossed: by run.
    is_traced: whether the study has traced runs.
    throughput_samples_s is the geometric mean over the timed runs that succeeded and count (pairs.exclude_disturbed);
    of a crossed cell the median over the processes that do (crossing.counted_runs).
    """
    crossed = crossed or {}
    traced = next((run for run in runs if not run.timed), None)
    succeeded = [run for run in runs if run.timed and run.ok]
    is_crossed = any(run.crossing for run in succeeded)
    if is_crossed:
        counted = counted_runs(succeeded, cell.cpu_node)
    else:
        counted = exclude_disturbed(succeeded, lambda run: run.disturbed)
    results = [run.result for run in counted if run.result]
    rates = [result.throughput_samples_s for result in results]
    latencies = [result.latency_us for result in results if result.latency_us]
    latency = merge_latencies(latencies)
    metric = cell_metric([run.of_command.measured for run in counted if run.of_command and run.of_command.measured])
    # Traced runs have interpreters of their own: forked runs are not what they are compared with.
    alike = [run.rate for run in counted if run.rate and (is_crossed or run.start is StartMethod.EXEC)]
    mean = statistics.median if is_crossed else statistics.geometric_mean
    perturbation = _ratio(traced, statistics.geometric_mean(alike) if alike else None)
    regime = metrics.regime if metrics else None
    failure = _first_failure(cell, runs, (export, extraction), repeats, is_traced)
    measured = msgspec.structs.replace(
        entry,
        outcome=failure.outcome,
        state=_state(failure, runs),
        reason=failure.reason,
        advice=failure.advice,
        log_tail=failure.log_tail,
        failed_run=failure.run,
        failed_repeat=failure.repeat,
        throughput_samples_s=mean(rates) if rates else None,
        throughput_spread=statistics.stdev(rates) / statistics.fmean(rates) if len(rates) > 1 else None,
        throughput_runs=tuple(rates),
        metric=metric,
        mean_samples_s=mean([mean_samples_s(one, cell.batch_size) for one in results]) if rates else None,
        worst_p99_us=max((one.p99 for one in latencies if one.p99 is not None), default=None),
        latency_us=latency,
        solo_us=_median_stages(results),
        compile_s=_compile_s(runs),
        issue_us=_median(result.issue_us for result in results),
        waited_share=_median(_waited_share(result) for result in results) if cell.preprocess_queue else None,
        buffer_layout=results[0].buffer_layout or "separate" if results else "separate",
        bytes_per_batch=bytes_per_batch(results[0]) if results else None,
        metrics=metrics,
        perturbation=perturbation,
        clocks=clocks(traced, metrics, latency, perturbation),
        peers=peers_of_cell(counted, cell.batch_size),
        runs=tuple(_cell_run(run, cell.batch_size, crossed.get(run.run)) for run in runs),
    )
    bound = cell_bound(measured)
    measured = msgspec.structs.replace(
        measured,
        bound=bound,
        efficiency_solo=bound.efficiency if bound else None,
        noise_class=noise_class(regime, bound.limit if bound else None),
    )
    excluded = 0 if is_crossed else len(succeeded) - len(counted)
    return msgspec.structs.replace(measured, remarks=_remarks(measured, succeeded, excluded))


def _with_differences(cells: tuple[MeasuredCell, ...]) -> tuple[MeasuredCell, ...]:
    """With a remark on each whose turns leave more, or less, behind than those of the first cell of its crossings, or
    that had more, or fewer, huge pages."""
    first: dict[Hashable, MeasuredCell] = {}
    found = []
    for cell in cells:
        crossing = next((run.crossing for run in cell.runs if run.crossing), None)
        base = first.setdefault(crossing.id, cell) if crossing else cell
        # On another node only: another kind of memory has other pages by intention.
        alike = first.setdefault((crossing.id, cell.settings), cell) if crossing else cell
        differences = [
            (CellRemarkKind.CARRY_OVER_DIFFERS, base, carry_over_difference(cell, base)),
            (CellRemarkKind.HUGE_PAGES_DIFFER, alike, huge_pages_difference(cell, alike)),
        ]
        remarks = [
            CellRemark(kind=kind, ratio=differs, other=other.name)
            for kind, other, differs in differences
            if differs is not None and other is not cell
        ]
        found.append(msgspec.structs.replace(cell, remarks=(*cell.remarks, *remarks)) if remarks else cell)
    return tuple(found)


@dataclass(frozen=True)
class _Failure:
    """The first stage of a cell that did not succeed, OK where all did; outcome MISSING: it has no record yet."""

    outcome: Outcome = Outcome.OK
    run: str | None = None
    repeat: Repeat | None = None
    reason: str = ""
    advice: str = ""
    log_tail: tuple[str, ...] = ()


def _first_failure(
    cell: Cell, runs: Sequence[Run], of_trace: Sequence[Stage | None], repeats: int, is_traced: bool
) -> _Failure:
    """A run that cannot run here takes precedence."""
    by_repeat = {run.repeat: run for run in runs}
    # A command has no traced run.
    traced = is_traced and not cell.model.command
    asked: list[Repeat] = [*range(1, repeats + 1), *([TRACED] if traced else [])]
    wanted = [*asked, *(run.repeat for run in runs if run.repeat not in asked)]
    of_runs = [_failure(cell, repeat, by_repeat.get(repeat), cell.reason) for repeat in wanted]
    refused = [failure for failure in of_runs if failure and failure.outcome is Outcome.NOT_RUNNABLE]
    later = [_failure(cell, TRACED, stage) for stage in of_trace] if traced else []
    return next((failure for failure in (*refused, *of_runs, *later) if failure), _Failure())


def _failure(cell: Cell, repeat: Repeat, stage: Stage | None, why_not: str = "") -> _Failure | None:
    """why_not: why the cell cannot run on this host."""
    run = f"{cell.name}_{TRACED}" if repeat == TRACED else f"{cell.name}_r{repeat}"
    if stage is None:
        outcome = Outcome.NOT_RUNNABLE if why_not else Outcome.MISSING
        return _Failure(outcome, run, repeat, why_not)
    if stage.ok:
        return None
    log_tail = tuple(stage.log_tail) if isinstance(stage, Run) else ()
    return _Failure(stage.status, run, repeat, stage.reason, stage.advice, log_tail)


def _state(failure: _Failure, runs: Sequence[Run]) -> CellState:
    if failure.outcome is Outcome.OK:
        return CellState.DONE
    if failure.outcome is not Outcome.MISSING:
        return CellState.FAILED
    if not any(run.timed and run.ok for run in runs):
        return CellState.NOT_STARTED
    if failure.repeat != TRACED:
        return CellState.STARTED
    traced = any(run.ok and not run.timed for run in runs)
    return CellState.TRACE_NOT_READ if traced else CellState.NOT_TRACED


def merge_latencies(latencies: Iterable[Latency | None]) -> Latency | None:
    """Over runs: the median of each percentile that all of them support, the largest maximum.

    The slowest runs have the fewest batches: without them a p99 would be too small, even below the p90 of all.
    """
    known = [latency for latency in latencies if latency]
    if not known:
        return None
    curves = [latency.quantiles for latency in known if len(latency.quantiles) == 101]
    return Latency(
        count=sum(latency.count for latency in known),
        p50=_median_of_all(latency.p50 for latency in known),
        p90=_median_of_all(latency.p90 for latency in known),
        p99=_median_of_all(latency.p99 for latency in known),
        max=max((latency.max for latency in known if latency.max is not None), default=None),
        reasons={name: reason for latency in known for name, reason in latency.reasons.items()},
        quantiles=[_median_of_all(values) for values in zip(*curves, strict=True)] if curves else [],
    )


def clocks(
    traced: Run | None, metrics: Metrics | None, latency_us: Latency | None, perturbation: float | None
) -> Clocks:
    """Whether the clocks of a cell agree: the host's timer, CUDA events, the trace.

    latency_us: of the timed runs, by CUDA events; on the cpu device by the host's clock.
    """
    host_ns = 1e9 * sum(window.duration_s for window in traced.result.windows) if traced and traced.result else None
    host = host_ns / metrics.window_ns if host_ns and metrics and metrics.window_ns else None
    timed_p50, traced_p50 = latency_us.p50 if latency_us else None, metrics.latency_us.p50 if metrics else None
    events = timed_p50 / traced_p50 if timed_p50 and traced_p50 else None
    comparable = perturbation is not None and abs(perturbation - 1) <= PERTURBED
    host_differs = False
    if host and host_ns and metrics:
        most_ns = CLOCKS_AGREE_WITHIN * metrics.window_ns + WINDOW_ENDS_NS
        host_differs = host < 1 - CLOCKS_AGREE_WITHIN or host_ns - metrics.window_ns > most_ns
    return Clocks(
        host_over_trace=host,
        events_over_trace=events,
        events_comparable=comparable,
        host_differs=host_differs,
        events_differ=events is not None and comparable and abs(events - 1) > CLOCKS_AGREE_WITHIN,
    )


def _remarks(cell: MeasuredCell, succeeded: list[Run], excluded: int) -> tuple[CellRemark, ...]:
    """succeeded: the timed runs that did; excluded: how many of them were disturbed and do not count."""
    found = []
    if cell.clocks and cell.clocks.host_differs:
        found.append(CellRemark(kind=CellRemarkKind.HOST_CLOCK_DIFFERS, ratio=cell.clocks.host_over_trace))
    if cell.clocks and cell.clocks.events_differ:
        found.append(CellRemark(kind=CellRemarkKind.EVENT_CLOCK_DIFFERS, ratio=cell.clocks.events_over_trace))
    if cell.perturbation is not None and abs(cell.perturbation - 1) > PERTURBED:
        found.append(CellRemark(kind=CellRemarkKind.PROFILER_CHANGED_RATE, ratio=cell.perturbation))
    if (bound := cell.bound) and bound.is_above_measured:
        ratio = bound.bound_us / bound.batch_us
        found.append(CellRemark(kind=CellRemarkKind.BOUND_ABOVE_MEASURED, term=bound.limit, ratio=ratio))
    # The windows of a crossing follow warm-ups of all placements, and drift meets all of them alike.
    warmups = [run.result.warmup for run in succeeded if run.result and not run.crossing]
    spreads = [warmup.spread or 0.0 for warmup in warmups if not warmup.settled]
    total = len(succeeded)
    if spreads:
        kind = CellRemarkKind.WARMUP_NOT_SETTLED
        found.append(CellRemark(kind=kind, count=len(spreads), total=total, ratio=max(spreads)))
    if reasons := [run.failed_before for run in succeeded if run.failed_before]:
        kind = CellRemarkKind.SECOND_ATTEMPT
        found.append(CellRemark(kind=kind, count=len(reasons), total=total, other=reasons[0]))
    found += window_remarks([run.result for run in succeeded if run.result])
    found += command_remarks([run.of_command for run in succeeded if run.of_command])
    if excluded:
        found.append(CellRemark(kind=CellRemarkKind.DISTURBED_EXCLUDED, count=excluded, total=total))
    if disturbed := sum(run.disturbed for run in succeeded if run.crossing):
        found.append(CellRemark(kind=CellRemarkKind.DISTURBED_ALIKE, count=disturbed, total=total))
    return tuple(found)


def _cell_run(run: Run, batch_size: int, crossed: CrossedRun | None) -> CellRun:
    return CellRun(
        run=run.run,
        repeat=run.repeat,
        status=run.status,
        reason=run.reason,
        block=run.block,
        position=run.position,
        attempts=run.attempts,
        wall_s=run.wall_s,
        throughput_samples_s=run.result.throughput_samples_s if run.result else None,
        placement=run.certificate.verdict if run.certificate else None,
        disturbed=run.disturbed,
        started_at=run.started_at or None,
        peers=tuple(peer_rates(peer, batch_size) for peer in run.peers),
        crossing=crossed,
        **(facts_of_run(run.result, batch_size) if run.timed and run.result else {}),
        metric=run.metric,
    )


# Small parts


def _compile_s(runs: Iterable[Run]) -> Extremes | None:
    """Over the processes that compiled the model, the traced one too: the most is without a cache."""
    compilations = [run.result.compile for run in runs if run.result and run.result.compile]
    known = [compilation.compile_s for compilation in compilations if compilation.compile_s]
    return Extremes(least=min(known), most=max(known)) if known else None


def _waited_share(result: Result) -> float | None:
    batches = sum(window.batches for window in result.windows)
    waited = result.waited_batches_in_windows
    return waited / batches if batches and waited is not None else None


def _ratio(traced: Run | None, throughput: float | None) -> float | None:
    return traced.rate / throughput if traced and traced.rate and throughput else None


def _median_stages(results: Sequence[Result]) -> Stages | None:
    known = [result.solo_us for result in results if result.solo_us]
    if not known:
        return None
    return Stages(
        h2d=_median(solo.h2d for solo in known),
        compute=_median(solo.compute for solo in known),
        d2h=_median(solo.d2h for solo in known),
        prepare=_median(solo.prepare for solo in known),
    )


def _median_of_all(values: Iterable[float | None]) -> float | None:
    known = [*values]
    return None if None in known else _median(known)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(known) if known else None
