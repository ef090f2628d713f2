"""The penalties of a study: what each other placement costs a GPU and a model, against the local node."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from bench.analysis.crossing import Values, birth_contrasts, combined, crossed_sample, process_values
from bench.analysis.latency import changes, judged_changes, paired_samples
from bench.analysis.pairs import (
    LocalNode,
    class_of,
    compared,
    comparison_settings,
    estimated,
    estimating_runs,
    identity,
    runs_by_block,
    throughputs,
)
from bench.analysis.statistics import Estimate, Sample, estimate, sample_of
from bench.analysis.verdicts import judged
from bench.records.results import (
    Contrast,
    Effect,
    Measure,
    MeasuredCell,
    Penalty,
    PenaltyKind,
    Rules,
)  # fmt: skip
from bench.records.study import Design

# (CPU node, memory node)
Placement = tuple[int, int]
Placed = dict[Placement, MeasuredCell]
Contrasts = dict[Contrast, Sample]


@dataclass(frozen=True)
class TwoByTwo:
    """The contrasts of four cells. design: of the runs compared."""

    contrasts: Contrasts
    design: Design


@dataclass(frozen=True)
class _Pair:
    """here, there: with the runs that estimate the penalty, which is `entry` before anything is known of it."""

    entry: Penalty
    here: MeasuredCell
    there: MeasuredCell
    sample: Sample | None
    split: TwoByTwo | None


def penalties(
    cells: Sequence[MeasuredCell], local: Mapping[int, LocalNode], rules: Rules | None = None
) -> tuple[Penalty, ...]:
    """One for each cell that is not on its GPU's local node, before correction (bench.analysis.claims).

    local: by GPU (pairs.local_nodes).
    """
    rules = rules or Rules()
    pairs = [pair for placed in _groups(cells) for pair in _pairs(placed, local)]
    estimates = estimated([pair.sample for pair in pairs], rules)
    others = changes([paired_samples(pair.there.name, pair.here, pair.there) for pair in pairs], rules)
    effects = _effects(pairs, rules)
    return tuple(
        _judged(pair, one, effects.get(index), other, rules)
        for index, (pair, one, other) in enumerate(zip(pairs, estimates, others, strict=True))
    )


def _pairs(placed: Placed, local: Mapping[int, LocalNode]) -> Iterator[_Pair]:
    """Each cell of a group with that on the local node; none where that was not measured."""
    known = local.get(next(iter(placed.values())).gpu)
    if known is None or (home := (known.node, known.node)) not in placed:
        return
    estimating = {placement: estimating_runs(cell, known) for placement, cell in placed.items()}
    for placement, there in estimating.items():
        if placement != home:
            here, found = estimating[home], compared(there.name, estimating[home], there)
            # Of all runs, those that chose the node too: a node that disturbs, disturbs each.
            sides = [runs_by_block(placed[each]).values() for each in (home, placement)]
            entry = Penalty(
                gpu=here.gpu,
                model=here.model.name,
                settings=comparison_settings(here),
                local_node=known.node,
                remote_node=there.mem_node,
                remote_cpu_node=there.cpu_node,
                kind=_kind(known.node, there),
                local_source=known.source,
                local_cell=here.name,
                remote_cell=there.name,
                noise_class=class_of(here, there),
                disturbed_pairs=found.excluded,
                timed_runs=(len(sides[0]), len(sides[1])),
                disturbed_runs=(sum(run.disturbed for run in sides[0]), sum(run.disturbed for run in sides[1])),
                design=found.design,
                births=birth_contrasts(here, there),
            )
            yield _Pair(entry, here, there, found.sample, two_by_two(estimating, known.node, placement))


def two_by_two(placed: Placed, local: int, remote: Placement) -> TwoByTwo | None:
    """CPU effect, memory effect and interaction, from the blocks that have all four cells.

    With y the log throughput and (CPU, memory) local L or remote R: the CPU effect is the mean over both memory nodes
    of y(R, .) - y(L, .), the memory effect likewise, the interaction y(RR) - y(RL) - y(LR) + y(LL). None unless
    `remote` has CPU and memory on one node and all four ran.
    """
    node = remote[0]
    if remote != (node, node):
        return None
    corners = [placed.get(corner) for corner in ((local, local), (node, local), (local, node), remote)]
    cells = [corner for corner in corners if corner]
    if len(cells) < len(corners):
        return None
    noise = class_of(*cells)
    if crossed := _crossed_contrasts(cells):
        samples = {contrast: crossed_sample(contrast, noise, values) for contrast, values in crossed.items()}
        return TwoByTwo(samples, "crossing")
    runs = [throughputs(cell) for cell in cells]
    blocks = sorted(set.intersection(*(set(side) for side in runs)))
    if not blocks:
        return None
    ll, rl, lr, rr = (np.log([side[block] for block in blocks]) for side in runs)
    contrasts = {
        Contrast.CPU: (rl - ll + rr - lr) / 2,
        Contrast.MEMORY: (lr - ll + rr - rl) / 2,
        Contrast.INTERACTION: rr - rl - lr + ll,
    }
    samples = {contrast: sample_of(contrast, noise, values) for contrast, values in contrasts.items()}
    return TwoByTwo(samples, "processes")


def _crossed_contrasts(cells: Sequence[MeasuredCell]) -> dict[Contrast, Values] | None:
    """The same inside each process that measured all four by turns; None where none did. cells: LL, RL, LR, RR."""
    ll, rl, lr, rr = cells
    first, second = process_values(ll, rl), process_values(lr, rr)
    memory, beside = process_values(ll, lr), process_values(rl, rr)
    contrasts = {
        Contrast.CPU: combined(first, second, (0.5, 0.5)),
        Contrast.MEMORY: combined(memory, beside, (0.5, 0.5)),
        Contrast.INTERACTION: combined(first, second, (-1.0, 1.0)),
    }
    return contrasts if all(contrasts.values()) else None


def _groups(cells: Sequence[MeasuredCell]) -> list[Placed]:
    """Cells that differ only in node, by placement."""
    groups: dict[Hashable, Placed] = {}
    for cell in cells:
        groups.setdefault((identity(cell), cell.occurrence), {})[cell.cpu_node, cell.mem_node] = cell
    return list(groups.values())


def _kind(local: int, there: MeasuredCell) -> PenaltyKind:
    if there.cpu_node == local:
        return PenaltyKind.MEMORY
    return PenaltyKind.CPU if there.mem_node == local else PenaltyKind.NODE


def _judged(
    pair: _Pair,
    found: Estimate | None,
    effects: dict[Contrast, Effect] | None,
    other: Mapping[Measure, Estimate],
    rules: Rules,
) -> Penalty:
    settings = pair.there.settings
    found_changes = judged_changes(other, settings, rules, pair.entry.design)
    entry = msgspec.structs.replace(pair.entry, effects=effects, changes=found_changes)
    if found is None:
        return entry
    known = judged(found, settings, rules.max_repeats)
    return msgspec.structs.replace(entry, penalty=found.penalty, interval=found.interval, **known)


def _effects(pairs: Sequence[_Pair], rules: Rules) -> dict[int, dict[Contrast, Effect]]:
    """By the index of the pair."""
    named = [
        (index, split.design, contrast, sample)
        for index, pair in enumerate(pairs)
        if (split := pair.split)
        for contrast, sample in split.contrasts.items()
    ]
    estimates = estimate([sample for *_, sample in named], rules.confidence, rules.margin)
    effects: dict[int, dict[Contrast, Effect]] = {}
    for (index, design, contrast, _), one in zip(named, estimates, strict=True):
        known = judged(one, pairs[index].there.settings, rules.max_repeats)
        effect = Effect(penalty=one.penalty, interval=one.interval, **known, design=design)
        effects.setdefault(index, {})[contrast] = effect
    return effects
