"""Processes that measured several placements by turns: what each says of two cells, and what all say together.

The unit is the process. Its value is the midmean of the ln ratios of its half rounds; half rounds never count as units,
because whatever a process has for life (where its pages are, which CPU its interrupts use) is in all of them.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, variance
from typing import TypeVar

from scipy.special import stdtr, stdtrit

from bench.analysis.statistics import CONFIDENCE, Sample, welch_error
from bench.records.results import (
    BirthContrast,
    CellRun,
    CrossedRatio,
    CrossedRun,
    Crossings,
    Extremes,
    Interval,
    MeasuredCell,
    NoiseClass,
)  # fmt: skip
from bench.records.run import Outcome, Result, Run
from bench.records.study import Design
from bench.workload.turns import carry_over, half_ratios, midmean, yuen_error

Kind = TypeVar("Kind", Run, CellRun)
# Level of the test for births that differ. After a false alarm the interval of within-birth spread is too narrow: where
# the processes of one birth vary four times as much, 12 % of studies of 24 comparisons would have a false headline at
# 1 % (at 0.1 % 3.5 %; equal births 6.0 and 5.1 %). A difference that it misses only widens the plain interval.
BIRTHS_DIFFER_AT = 0.001
# Of the throughput: with a larger difference of what a turn leaves behind the lead-in is too short for one placement.
CARRY_OVER_DIFFERS, HUGE_PAGES_DIFFER = 0.001, 0.1


@dataclass(frozen=True)
class ProcessValue:
    """ln ratio of two cells, or a contrast of more, in one process. error: None where unknown; birth: its CPU node."""

    value: float
    error: float | None
    birth: int


# By the id of the process.
Values = Mapping[str, ProcessValue]


@dataclass(frozen=True)
class Difference:
    """Of two means. interval and p: None where one side has fewer than two values."""

    value: float
    interval: Interval | None
    p: float | None


# From run records


def crossed_runs(runs: Iterable[Run], batch_sizes: Mapping[str, int]) -> dict[str, CrossedRun]:
    """Of the runs that were turns of a crossing, by run: the ratios to the other cells of the same process.

    batch_sizes: by cell, since windows count batches, and throughput counts samples.
    """
    found = {}
    for own in _processes(runs):
        measured = [run for run in own if run.timed and run.ok and run.result]
        for run in measured:
            crossing, windows = run.crossing, run.result.windows if run.result else []
            assert crossing is not None
            others = [other for other in measured if other is not run]
            ratios = {
                other.cell: _ratio(other, run, batch_sizes[run.cell] / batch_sizes[other.cell]) for other in others
            }
            found[run.run] = CrossedRun(
                id=crossing.id,
                birth_cpu_node=crossing.birth_cpu_node,
                birth_mem_node=crossing.birth_mem_node,
                rounds=crossing.rounds,
                carry_over=carry_over(windows),
                huge_pages=_huge_pages(run.result),
                ratios={name: ratio for name, ratio in ratios.items() if ratio},
            )
    return found


def _huge_pages(result: Result | None) -> float | None:
    """The share of the host rings that is in huge pages; None where there are none that could be."""
    if not result or not result.host_memory or not result.certificate:
        return None
    huge = [
        one for one in (result.host_memory.huge_pages.inputs, result.host_memory.huge_pages.outputs) if one is not None
    ]
    total = sum(buffer.bytes for buffer in result.certificate.buffers.values())
    return sum(huge) / total if huge and total else None


def crossings(runs: Iterable[Run]) -> Crossings | None:
    """None where no process measured several cells."""
    processes = [timed for own in _processes(runs) if (timed := [run for run in own if run.timed and run.ok])]
    facts = [own[0].crossing for own in processes if own[0].crossing]
    if not facts:
        return None
    windows = [window for own in processes for run in own if run.result for window in run.result.windows]
    return Crossings(
        groups=len({one.group for one in facts}),
        processes=len(facts),
        births=tuple(sorted({one.birth_cpu_node for one in facts})),
        rounds=Extremes(least=min(one.rounds for one in facts), most=max(one.rounds for one in facts)),
        wall_s=round(sum(max(run.wall_s for run in own) for own in processes), 3),
        windows_s=round(sum(window.duration_s for window in windows), 3),
        lead_ins_s=round(sum(window.lead_batches * window.batch_s for window in windows), 3),
    )


def _processes(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs of each crossing."""
    by_id: dict[str, list[Run]] = {}
    for run in runs:
        if run.crossing:
            by_id.setdefault(run.crossing.id, []).append(run)
    return list(by_id.values())


def _ratio(base: Run, other: Run, samples: float) -> CrossedRatio | None:
    """samples: of a batch of the other to one of the base. None where no half round has both."""
    assert base.result and other.result
    halves = half_ratios(base.result.windows, other.result.windows)
    if not halves:
        return None
    error = yuen_error(halves)
    return CrossedRatio(log_ratio=midmean(halves) + math.log(samples), error=error if math.isfinite(error) else None)


# Of a cell


def counted_runs(runs: Sequence[Kind], cpu_node: int) -> list[Kind]:
    """Those that give a crossed cell its throughput: born on its own CPU node, all if none was."""
    own = [run for run in runs if run.crossing and run.crossing.birth_cpu_node == cpu_node]
    return own or list(runs)


def design_of(cell: MeasuredCell) -> Design:
    return "crossing" if any(run.crossing for run in cell.runs) else "processes"


def carry_over_difference(cell: MeasuredCell, other: MeasuredCell) -> float | None:
    """How much more a turn of `cell` leaves behind than one of `other`, where that is beyond CARRY_OVER_DIFFERS."""
    changes = _changes(cell, other, lambda crossing: crossing.carry_over)
    found = _student(changes)
    if found is None:
        return None
    low, high = found
    return fmean(changes) if low > CARRY_OVER_DIFFERS or high < -CARRY_OVER_DIFFERS else None


def huge_pages_difference(cell: MeasuredCell, other: MeasuredCell) -> float | None:
    """How much more of the rings of `cell` is in huge pages, the mean over processes, if that is a tenth or more.

    How small pages lie is worth several percent of what a CPU reads, and is a property of what is free on a node.
    """
    changes = _changes(cell, other, lambda crossing: crossing.huge_pages)
    return fmean(changes) if changes and abs(fmean(changes)) >= HUGE_PAGES_DIFFER else None


def _changes(cell: MeasuredCell, other: MeasuredCell, value_of: Callable[[CrossedRun], float | None]) -> list[float]:
    """How much larger the value is for `cell`, in each process that knows it of both."""
    ours, theirs = (
        {
            run.crossing.id: value
            for run in _timed(each)
            if run.crossing and (value := value_of(run.crossing)) is not None
        }
        for each in (cell, other)
    )
    return [value - theirs[process] for process, value in ours.items() if process in theirs]


# Of two cells


def process_values(local: MeasuredCell, remote: MeasuredCell) -> Values:
    """ln(remote / local) of each process that measured both; empty where none did."""
    return {
        run.crossing.id: ProcessValue(ratio.log_ratio, ratio.error, run.crossing.birth_cpu_node)
        for run in _timed(remote)
        if run.crossing and (ratio := run.crossing.ratios.get(local.name))
    }


def combined(first: Values, second: Values, signs: tuple[float, float]) -> Values:
    """signs[0] x first + signs[1] x second, of the processes that have both."""
    found = {}
    for process in first.keys() & second.keys():
        one, other = first[process], second[process]
        value = signs[0] * one.value + signs[1] * other.value
        known = one.error is not None and other.error is not None
        error = math.hypot(signs[0] * (one.error or 0.0), signs[1] * (other.error or 0.0)) if known else None
        found[process] = ProcessValue(value, error, one.birth)
    return found


def crossed_sample(label: str, noise: NoiseClass, of_processes: Values) -> Sample:
    """Student with n - 1 degrees of freedom; where births differ, the mean of their means with n - births.

    What the half rounds of a process say of its error may only widen the interval.
    """
    values = list(of_processes.values())
    births = _by_birth(values)
    groups = list(births.values()) if _births_differ(births) else [[one.value for one in values]]
    n, df = len(values), len(values) - len(groups)
    between = sum((value - fmean(group)) ** 2 for group in groups for value in group) / df if df else math.nan
    errors = [one.error for one in values if one.error is not None]
    within = fmean(error**2 for error in errors) if errors else 0.0
    return Sample(
        label=label,
        noise_class=noise,
        mean=fmean(fmean(group) for group in groups),
        variance=max(between, within) if df else math.nan,
        df=df,
        scale=sum(1 / len(group) for group in groups) / len(groups) ** 2,
        pairs=n,
    )


def birth_contrasts(local: MeasuredCell, remote: MeasuredCell) -> tuple[BirthContrast, ...]:
    """Each birth against that on the local cell's CPU node, or on the lowest node where none was there."""
    values = _by_birth(process_values(local, remote).values())
    if len(values) < 2:
        return ()
    base = local.cpu_node if local.cpu_node in values else min(values)
    rates = {birth: _levels((local, remote), birth) for birth in values}
    found = []
    for birth in sorted(values.keys() - {base}):
        level, change = welch(rates[base], rates[birth]), welch(values[base], values[birth])
        penalty, there = -math.expm1(fmean(values[base])), -math.expm1(fmean(values[birth]))
        found.append(
            BirthContrast(
                node=birth,
                base_node=base,
                processes=(len(values[birth]), len(values[base])),
                effect=math.expm1(level.value),
                interval=level.interval and (math.expm1(level.interval[0]), math.expm1(level.interval[1])),
                penalty_change=there - penalty,
                penalty_change_interval=change.interval and _as_penalty_change(change.interval, penalty),
                differs=_differs(change),
                p_effect=level.p,
                p_change=change.p,
            )
        )
    return tuple(found)


def welch(base: Sequence[float], new: Sequence[float]) -> Difference:
    """mean(new) - mean(base) with its 95 % interval for unequal variances (Welch 1947)."""
    value = fmean(new) - fmean(base)
    if min(len(base), len(new)) < 2:
        return Difference(value, None, None)
    parts = [variance(side) / len(side) for side in (base, new)]
    error, df = welch_error(parts, [len(base), len(new)])
    half = float(stdtrit(df, (1 + CONFIDENCE) / 2)) * error
    p = 2 * float(stdtr(df, -abs(value) / error)) if error else float(value == 0)
    return Difference(value, (value - half, value + half), p)


def _as_penalty_change(of_logs: Interval, penalty: float) -> Interval:
    """By how much a penalty changes, whose ln ratio changes by this."""
    low, high = ((1 - penalty) * -math.expm1(end) for end in of_logs)
    return min(low, high), max(low, high)


def _births_differ(births: dict[int, list[float]]) -> bool:
    return any(_differs(welch(one, other)) for one, other in combinations(births.values(), 2))


def _differs(change: Difference) -> bool:
    return change.p is not None and change.p <= BIRTHS_DIFFER_AT


def _by_birth(values: Iterable[ProcessValue]) -> dict[int, list[float]]:
    births: dict[int, list[float]] = {}
    for one in values:
        births.setdefault(one.birth, []).append(one.value)
    return births


def _levels(cells: Sequence[MeasuredCell], birth: int) -> list[float]:
    """Mean ln throughput over the cells, of each process of a birth that measured all of them."""
    by_process: dict[str, list[float]] = {}
    for cell in cells:
        for run in _timed(cell):
            if run.crossing and run.crossing.birth_cpu_node == birth and run.throughput_samples_s:
                by_process.setdefault(run.crossing.id, []).append(math.log(run.throughput_samples_s))
    return [fmean(levels) for levels in by_process.values() if len(levels) == len(cells)]


def _timed(cell: MeasuredCell) -> list[CellRun]:
    return [run for run in cell.runs if run.repeat != "traced" and run.status is Outcome.OK]


def _student(values: Sequence[float]) -> Interval | None:
    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance(values) / len(values))
    return fmean(values) - half, fmean(values) + half
