"""The penalties of a study: what each other placement costs a GPU and a model, against the local node."""

from collections.abc import Callable, Hashable, Mapping, Sequence
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
from bench.analysis.verdicts import judge, judged
from bench.records.results import (
    CellRun,
    Changes,
    Contrast,
    Effect,
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


def penalties(
    cells: Sequence[MeasuredCell], local: Mapping[int, LocalNode], rules: Rules | None = None
) -> tuple[Penalty, ...]:
    """One for each cell that is not on its GPU's local node, before correction (bench.analysis.claims).

    local: by GPU (pairs.local_nodes).
    """
    rules = rules or Rules()
    entries: list[Penalty] = []
    remote: list[MeasuredCell] = []
    local_cells: list[MeasuredCell] = []
    samples: list[Sample | None] = []
    designs: dict[int, TwoByTwo] = {}
    for placed in _groups(cells):
        known = local.get(next(iter(placed.values())).gpu)
        here = placed.get((known.node, known.node)) if known else None
        if known is None or here is None:
            continue
        measured, placed = placed, {placement: estimating_runs(cell, known) for placement, cell in placed.items()}
        here = placed[known.node, known.node]
        for placement, there in placed.items():
            if placement != (known.node, known.node):
                entry, sample = _entry(known, here, there)
                entry = _with_runs(entry, measured[known.node, known.node], measured[placement])
                entries.append(entry)
                remote.append(there)
                local_cells.append(here)
                samples.append(sample)
                if design := two_by_two(placed, known.node, placement):
                    designs[len(entries) - 1] = design
    estimates = estimated(samples, rules)
    others = changes([paired_samples(two.name, one, two) for one, two in zip(local_cells, remote, strict=True)], rules)
    effects = _effects(designs, remote, rules)
    return tuple(
        _judged(
            entry, there, one, effects.get(index), judged_changes(other, there.settings, rules, entry.design), rules
        )
        for index, (entry, there, one, other) in enumerate(zip(entries, remote, estimates, others, strict=True))
    )


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


def _entry(local: LocalNode, here: MeasuredCell, there: MeasuredCell) -> tuple[Penalty, Sample | None]:
    found = compared(there.name, here, there)
    entry = Penalty(
        gpu=here.gpu,
        model=here.model.name,
        settings=comparison_settings(here),
        local_node=local.node,
        remote_node=there.mem_node,
        remote_cpu_node=there.cpu_node,
        kind=_kind(local.node, there),
        local_source=local.source,
        local_cell=here.name,
        remote_cell=there.name,
        noise_class=class_of(here, there),
        disturbed_pairs=found.excluded,
        design=found.design,
        births=birth_contrasts(here, there),
    )
    return entry, found.sample


def _with_runs(entry: Penalty, here: MeasuredCell, there: MeasuredCell) -> Penalty:
    """here, there: with all of their runs, those that chose the node too: a node that disturbs, disturbs each."""
    return msgspec.structs.replace(
        entry,
        timed_runs=_both(here, there, lambda run: True),
        disturbed_runs=_both(here, there, lambda run: run.disturbed),
    )


def _both(here: MeasuredCell, there: MeasuredCell, counts: Callable[[CellRun], bool]) -> tuple[int, int]:
    local, remote = (sum(map(counts, runs_by_block(cell).values())) for cell in (here, there))
    return local, remote


def _kind(local: int, there: MeasuredCell) -> PenaltyKind:
    if there.cpu_node == local:
        return PenaltyKind.MEMORY
    return PenaltyKind.CPU if there.mem_node == local else PenaltyKind.NODE


def _judged(
    entry: Penalty,
    there: MeasuredCell,
    found: Estimate | None,
    effects: dict[Contrast, Effect] | None,
    changes: Changes,
    rules: Rules,
) -> Penalty:
    entry = msgspec.structs.replace(entry, effects=effects, changes=changes)
    if found is None:
        return entry
    judgement = judge(found, there.settings, rules.max_repeats)
    return msgspec.structs.replace(
        entry,
        penalty=found.penalty,
        interval=found.interval,
        **judged(found, judgement),
    )


def _effects(
    designs: dict[int, TwoByTwo], remote: Sequence[MeasuredCell], rules: Rules
) -> dict[int, dict[Contrast, Effect]]:
    named = [(index, contrast, sample) for index, own in designs.items() for contrast, sample in own.contrasts.items()]
    estimates = estimate([sample for *_, sample in named], rules.confidence, rules.margin)
    effects: dict[int, dict[Contrast, Effect]] = {}
    for (index, contrast, _), one in zip(named, estimates, strict=True):
        judgement = judge(one, remote[index].settings, rules.max_repeats)
        effects.setdefault(index, {})[contrast] = Effect(
            penalty=one.penalty,
            interval=one.interval,
            **judged(one, judgement),
            design=designs[index].design,
        )
    return effects
