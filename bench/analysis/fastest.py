"""Of several execution settings of one model: the fastest, and which others cannot be distinguished from it."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import msgspec

from bench.analysis.axes import shared_settings
from bench.analysis.pairs import compared, identity
from bench.analysis.statistics import Estimate, Sample, estimate
from bench.analysis.verdicts import rules_of
from bench.records.results import AxisComparison, Execution, Fastest, Interval, Line, MeasuredCell, Rules, Value
from bench.records.study import EXECUTION_SETTINGS, Study

# By base and other cell.
Lines = Mapping[tuple[str, str], Line]


def fastest(
    cells: Sequence[MeasuredCell],
    study: Study,
    rules: Rules | None = None,
    compared: Sequence[AxisComparison] = (),
) -> tuple[Fastest, ...]:
    """One entry for each model, place and workload that was measured with several execution settings.

    Significantly slower: one-sided, at the study's level shared among all candidates. Each could have come out fastest
    by chance; one that is not is then left without a rival in at most that share of studies (Bonferroni). Models are
    not corrected for each other. Where two candidates are compared along an axis, that comparison is used here too, so
    that a page has one result for two cells.
    """
    rules = rules or rules_of(study)
    lines = {(line.base_cell, line.name): line for entry in compared for line in entry.lines}
    groups: dict[Hashable, dict[Hashable, MeasuredCell]] = {}
    for cell in cells:
        if cell.throughput_samples_s:
            place = identity(cell, ignore=EXECUTION_SETTINGS), cell.cpu_node, cell.mem_node
            groups.setdefault(place, {}).setdefault(_execution_of(cell), cell)
    races = [list(own.values()) for own in groups.values() if len(own) > 1]
    entries = _entries(races, study, rules, lines)
    other_dtype = [index for index, entry in enumerate(entries) if entry.execution.dtype != study.dtype]
    alike = {index: [cell for cell in races[index] if cell.settings.dtype == study.dtype] for index in other_dtype}
    alike = {index: race for index, race in alike.items() if len(race) > 1}
    same_dtype = dict(zip(alike, _entries(list(alike.values()), study, rules, lines), strict=True))
    return tuple(
        msgspec.structs.replace(entry, same_dtype=same_dtype.get(index)) for index, entry in enumerate(entries)
    )


def _entries(races: list[list[MeasuredCell]], study: Study, rules: Rules, lines: Lines) -> list[Fastest]:
    winners = [max(race, key=lambda cell: cell.throughput_samples_s or 0.0) for race in races]
    samples = [
        _sample(winner, cell)
        for winner, race in zip(winners, races, strict=True)
        for cell in race
        if cell is not winner
    ]
    estimates = estimate([sample for sample in samples if sample], rules.confidence, rules.margin)
    found = {one.label: one for one in estimates}
    entries = []
    for winner, race in zip(winners, races, strict=True):
        names = [cell.name for cell in race if cell.name in found and cell is not winner]
        own = {name: _as_along_an_axis(found[name], winner.name, lines) for name in names}
        entries.append(_entry(winner, race, own, study, rules))
    return entries


def _entry(
    winner: MeasuredCell, race: list[MeasuredCell], found: dict[str, Estimate], study: Study, rules: Rules
) -> Fastest:
    others = [cell for cell in race if cell is not winner]
    shared = shared_settings([winner, *others])
    own = tuple(getattr(study, key) for key in EXECUTION_SETTINGS)

    def execution(cell: MeasuredCell) -> Execution:
        settings = {key: value for key, value in cell.differing_settings.items() if key not in shared}
        is_base = _execution_of(cell) == own
        return Execution(cell=cell.name, settings=settings, dtype=cell.settings.dtype, is_base=is_base)

    base = next((cell for cell in others if _execution_of(cell) == own), None)
    gain, interval = _gain(found.get(base.name) if base else None)
    level = (1 - rules.confidence) / len(race)
    return Fastest(
        cell=winner.name,
        gpu=winner.gpu,
        cpu_node=winner.cpu_node,
        mem_node=winner.mem_node,
        model=winner.model.name,
        settings=shared,
        execution=execution(winner),
        candidates=len(race),
        throughput_samples_s=winner.throughput_samples_s or 0.0,
        base_cell=base.name if base else None,
        effect=gain,
        interval=interval,
        pairs=max((found[cell.name].pairs for cell in others if cell.name in found), default=0),
        rivals=tuple(execution(cell) for cell in others if not _is_slower(found.get(cell.name), level)),
    )


def _as_along_an_axis(found: Estimate, winner: str, lines: Lines) -> Estimate:
    """found: of winner (local) and another cell (remote)."""
    for pair, sign in (((winner, found.label), 1), ((found.label, winner), -1)):
        line = lines.get(pair)
        if line and line.effect is not None:
            ends = [sign * math.log1p(end) for end in line.interval] if line.interval else None
            mean_log = sign * math.log1p(line.effect)
            return replace(
                found,
                pairs=line.pairs,
                mean_log=mean_log,
                penalty=-math.expm1(mean_log),
                interval=(-math.expm1(max(ends)), -math.expm1(min(ends))) if ends else None,
                p_difference=line.p_difference,
            )
    return found


def _gain(base: Estimate | None) -> tuple[float | None, Interval | None]:
    """Throughput of the fastest over that of the base - 1, from the base's against the fastest."""
    if base is None:
        return None, None
    interval = None
    if base.interval:
        low, high = (1 / (1 - penalty) - 1 for penalty in base.interval)
        interval = low, high
    return math.expm1(-base.mean_log), interval


def _is_slower(found: Estimate | None, level: float) -> bool:
    return bool(found and found.p_difference is not None and found.penalty > 0 and found.p_difference / 2 <= level)


def _sample(winner: MeasuredCell, cell: MeasuredCell) -> Sample | None:
    return compared(cell.name, winner, cell).sample


def _execution_of(cell: MeasuredCell) -> tuple[Value, ...]:
    return tuple(getattr(cell.settings, key) for key in EXECUTION_SETTINGS)
