"""Of several execution settings of one model: the fastest, and which others cannot be distinguished from it."""

import math
from collections.abc import Hashable, Sequence

import msgspec

from bench.analysis.axes import shared_settings
from bench.analysis.metric import inverse_change
from bench.analysis.pairs import compared, identity
from bench.analysis.statistics import Estimate, estimate
from bench.analysis.verdicts import has_enough_pairs, rules_of
from bench.records.results import Execution, Fastest, Interval, MeasuredCell, Rules, Value
from bench.records.study import EXECUTION_SETTINGS, Study


def fastest(cells: Sequence[MeasuredCell], study: Study, rules: Rules | None = None) -> tuple[Fastest, ...]:
    """One entry for each model, place and workload that was measured with several execution settings.

    Before correction (bench.analysis.claims) all others are rivals. That one is slower is tested one-sided, times the
    candidates: each could have come out fastest by chance, and one that is not is then left without a rival no more
    often than at the level (Hsu, Ann. Statist. 12 (1984) 1136, with Bonferroni's inequality, since candidates differ in
    their spread and are paired).
    """
    rules = rules or rules_of(study)
    groups: dict[Hashable, dict[Hashable, MeasuredCell]] = {}
    for cell in cells:
        if cell.throughput_samples_s:
            place = identity(cell, ignore=EXECUTION_SETTINGS), cell.cpu_node, cell.mem_node
            groups.setdefault(place, {}).setdefault(_execution_of(cell), cell)
    entries = []
    for race in (list(own.values()) for own in groups.values() if len(own) > 1):
        entry = _entry(race, study, rules)
        alike = [cell for cell in race if cell.settings.dtype == study.dtype]
        if entry.execution.dtype != study.dtype and len(alike) > 1:
            entry = msgspec.structs.replace(entry, same_dtype=_entry(alike, study, rules))
        entries.append(entry)
    return tuple(entries)


def _entry(race: list[MeasuredCell], study: Study, rules: Rules) -> Fastest:
    winner = max(race, key=lambda cell: cell.throughput_samples_s or 0.0)
    others = [cell for cell in race if cell is not winner]
    pairs = {cell.name: compared(cell.name, winner, cell) for cell in others}
    samples = [pair.sample for pair in pairs.values() if pair.sample]
    # Simultaneously for all candidates against one of them (as Dunnett, J. Am. Statist. Assoc. 50 (1955) 1096).
    confidence = 1 - (1 - rules.confidence) / len(others)
    found = {one.label: one for one in estimate(samples, confidence, rules.margin)}
    shared = shared_settings([winner, *others])
    own = tuple(getattr(study, key) for key in EXECUTION_SETTINGS)

    def execution(cell: MeasuredCell) -> Execution:
        settings = {key: value for key, value in cell.differing_settings.items() if key not in shared}
        p_slower = None
        if (one := found.get(cell.name)) and has_enough_pairs(one.mean_log, one.pairs, pairs[cell.name].design):
            p_slower = _p_slower(one, len(race))
        return Execution(
            cell=cell.name,
            settings=settings,
            dtype=cell.settings.dtype,
            is_base=_execution_of(cell) == own,
            p_slower=p_slower,
        )

    base = next((cell for cell in others if _execution_of(cell) == own), None)
    gain, interval = _gain(found.get(base.name) if base else None)
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
        pairs=max((one.pairs for one in found.values()), default=0),
        rivals=tuple(execution(cell) for cell in others),
    )


def _gain(base: Estimate | None) -> tuple[float | None, Interval | None]:
    """Throughput of the fastest over that of the base - 1, from the base's against the fastest."""
    if base is None:
        return None, None
    interval = None
    if base.interval:
        interval = inverse_change(base.interval[0]), inverse_change(base.interval[1])
    return math.expm1(-base.mean_log), interval


def _p_slower(found: Estimate, candidates: int) -> float | None:
    if found.p_difference is None:
        return None
    one_sided = found.p_difference / 2 if found.penalty > 0 else 1 - found.p_difference / 2
    return min(1.0, candidates * one_sided)


def _execution_of(cell: MeasuredCell) -> tuple[Value, ...]:
    return tuple(getattr(cell.settings, key) for key in EXECUTION_SETTINGS)
