"""A study within a budget of time: what decides least is left out before anything runs, and is named."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from msgspec import structs

from bench.records.host import Topology, format_cpulist
from bench.records.study import Cell, Grid, LeftOut, LeftOutCell, Slot, Study
from bench.study.crossing import whole_sets
from bench.study.duration import (
    Earlier,
    Estimate,
    Rate,
    earlier_runs,
    estimated,
    forward_flops,
    measured_rate,
    processes,
)
from bench.study.grid import Expansion, expand_here, order_of
from bench.study.load import StudyDefinition
from bench.study.on_demand import further_repeats
from bench.units import duration, plural

# With fewer pairs a study claims no difference (bench/analysis/verdicts.py, FEWEST_FOR_HEADLINE).
FEWEST_REPEATS = 6
# Beside the runs: the start of luigi, the two probes and the report, and the benchmark of each link. On an H200 host
# 24 s passed before the first of them with one link; how these divide was not measured.
AROUND_S, LINK_S = 30.0, 8.0

Seconds = Callable[[Grid, Iterable[Slot]], Estimate | None]


def expand_in_time(
    definition: StudyDefinition,
    topology: Topology,
    output_dir: Path,
    root: Path = Path("/"),
    rate: Rate | None = None,
) -> Expansion:
    """The study on this host, as expand_here, within its budget by what its runs are estimated to take.

    root: other than "/" for a recorded host, for which no earlier run counts.
    """
    here = expand_here(definition, topology, root)
    if not definition.settings.budget:
        return here
    recorded = root != Path("/")
    earlier = Earlier({}) if recorded else earlier_runs(output_dir, None)
    return within(here, partial(estimated, earlier=earlier, rate=rate if recorded else cache(rate or measured_rate)))


def within(here: Expansion, seconds: Seconds) -> Expansion:
    """The first of what the study could be that fits; the smallest, where even that does not.

    First fewer repeats, but as many as a claim needs; then without what decides nothing, traced runs and the benchmark
    of links; then without the groups that decide least. A study of which the time is unknown stays as it is.
    """
    budget_s, last = here.study.budget, here
    if not budget_s or seconds(here.grid, here.grid.order) is None:
        return here
    for last in _same_cells(here):
        if _cost_s(last, seconds) <= budget_s:
            return last
    groups = by_importance(here.grid)
    usable = {cell.group for cell in here.grid.cells if not cell.reason}
    # The cost grows with the groups: the most that fit, by halving.
    fit, too_many = 1 + sum(group not in usable for group in groups), len(groups)
    while too_many - fit > 1:
        middle = (fit + too_many) // 2
        if _cost_s(_of_groups(last, groups[:middle]), seconds) <= budget_s:
            fit = middle
        else:
            too_many = middle
    return _of_groups(last, groups[:fit])


def _same_cells(here: Expansion) -> Iterator[Expansion]:
    """The study as it is; without runs on demand; with fewer and fewer repeats; without traced runs; without links."""
    yield here
    study, left_out = here.study, LeftOut()

    def without(left_out: LeftOut, **changes: Any) -> Expansion:
        return _laid_out(here, structs.replace(study, left_out=left_out, **changes), here.grid.cells)

    if further_repeats(here.grid, study, 0.0):
        left_out = LeftOut(on_demand=True)
        study = structs.replace(study, disturbed_repeats=0, target_precision=0.0)
        yield without(left_out)
    asked, step = study.repeats, whole_sets(1, here.births)
    for repeats in range(asked - step, min(asked, whole_sets(FEWEST_REPEATS, here.births)) - 1, -step):
        left_out = structs.replace(left_out, repeats=asked)
        study = structs.replace(study, repeats=repeats)
        yield without(left_out)
    if study.is_traced:
        left_out = structs.replace(left_out, traced=True)
        yield without(left_out)
    if study.measure_link:
        yield without(structs.replace(left_out, links=True), measure_link=False)


def _of_groups(here: Expansion, groups: list[str]) -> Expansion:
    cells = here.grid.cells
    left_out = tuple(
        LeftOutCell(name=cell.name, gpu=cell.gpu, model=cell.model.name) for cell in cells if cell.group not in groups
    )
    if not left_out:
        return here
    study = structs.replace(here.study, left_out=structs.replace(here.study.left_out or LeftOut(), cells=left_out))
    return _laid_out(here, study, [cell for cell in cells if cell.group in groups])


def _laid_out(here: Expansion, study: Study, cells: Iterable[Cell]) -> Expansion:
    cells = tuple(cells)
    births = {group: own for group, own in here.births.items() if group in {cell.group for cell in cells}}
    return Expansion(study, Grid(cells=cells, order=tuple(order_of(study, cells, births))), births)


def by_importance(grid: Grid) -> list[str]:
    """The groups, those that decide most first: those with the least compute for each byte that is copied.

    No program that copies through one link at a time loses a larger share than copies alone, so that a model without
    compute bounds every other one. Among equal ones each GPU has its turn, in the order of the study. Groups that
    cannot run here come first, as they take no time.
    """
    turns: dict[tuple[float, int], int] = {}
    keys: dict[str, tuple[bool, float, int, int]] = {}
    for position, cell in enumerate(grid.cells):
        if cell.group in keys:
            keys[cell.group] = (keys[cell.group][0] or not cell.reason, *keys[cell.group][1:])
            continue
        # How much a model from elsewhere computes, only its run knows.
        flops = float("inf") if cell.model.source else forward_flops(cell.model, cell.image_size) / cell.image_size**2
        turn = turns[flops, cell.gpu] = turns.get((flops, cell.gpu), -1) + 1
        keys[cell.group] = not cell.reason, flops, turn, position
    return sorted(keys, key=lambda group: keys[group])


def _cost_s(here: Expansion, seconds: Seconds) -> float:
    grid, study = here.grid, here.study
    usable = {cell.name for cell in grid.cells if not cell.reason}
    slots = [slot for slot in grid.asked(study.repeats) if slot.cell in usable]
    further = further_repeats(grid, study, 0.0)
    links = {(cell.gpu, cell.placement) for cell in grid.cells if not cell.reason} if study.measure_link else ()
    found = seconds(grid, slots)
    if found is None:
        return 0.0
    on_demand = {grid.slot(name, 1): more.most for name, more in further.items()}
    further_s = sum(on_demand[slot] * found.seconds[slot] for slot in processes(on_demand))
    return found.sum_s(slots) + further_s + AROUND_S + LINK_S * len(links)


def left_out_text(study: Study) -> str:
    """What the budget left out of the study; "" for nothing. Cells by model and GPU; their names are in the record."""
    left_out = study.left_out
    if left_out is None:
        return ""
    of_models: dict[str, list[int]] = {}
    for cell in left_out.cells:
        of_models.setdefault(cell.model, []).append(cell.gpu)
    parts = [
        f"{model} on GPU {format_cpulist(set(gpus))} ({plural(len(gpus), 'cell')})" for model, gpus in of_models.items()
    ]
    parts += ["the benchmark of links"] * left_out.links + ["traced runs"] * left_out.traced
    if left_out.repeats:
        parts.append(f"repeats {study.repeats + 1} to {left_out.repeats}")
    parts += ["runs on demand"] * left_out.on_demand
    return f"left out for the budget of {duration(study.budget)}: {'; '.join(parts)}"
