"""Timed runs that a study may need beyond its repeats: how many to expect and how many at most, before any is demanded.

Which ones are demanded is decided from the data (bench/analysis/repeats.py).
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from bench.records.study import Cell, Grid, Study
from bench.units import percent

# With target_precision the data are looked at after this many pairs.
LOOKS = (6, 10, 20)
_SHAPE = ("patch_size", "depth", "dim")
# Fewer models in a row are not compared along their shape.
_SHORTEST_SERIES = 3


@dataclass(frozen=True)
class Further:
    """Repeats of a cell beyond those of the study."""

    expected: float
    most: int

    def beyond(self, demanded: int) -> "Further":
        """When so many of them are demanded."""
        return Further(max(self.expected - demanded, 0.0), max(self.most - demanded, 0))


def further_repeats(grid: Grid, study: Study, disturbed_share: float) -> dict[str, Further]:
    """For each cell that may need any.

    disturbed_share: of timed runs; a pair is lost if either of its runs is disturbed. With target_precision the repeats
    until the first look are certain; how many follow depends on a spread that is not known before.
    """
    cells = _runnable(grid)
    crossed, penalties, partners = _crossed(grid), _with_penalty(cells), _partners(cells)
    found = {}
    for cell in cells:
        expected, most = 0.0, 0
        if cell.name in partners and cell.name not in crossed:
            pair_lost = 1 - (1 - disturbed_share) ** (1 + partners[cell.name])
            most = study.disturbed_repeats
            expected = min(study.repeats * pair_lost, most)
        if study.target_precision and cell.name in penalties:
            most = max(most, study.max_repeats - study.repeats)
            expected = max(expected, min(LOOKS[0], study.max_repeats) - study.repeats)
        if most:
            found[cell.name] = Further(expected, most)
    return found


def why_further(grid: Grid, study: Study) -> list[str]:
    """What may demand them: a phrase each."""
    cells = _runnable(grid)
    crossed = _crossed(grid)
    reasons = []
    if study.disturbed_repeats and any(cell not in crossed for cell in _partners(cells)):
        reasons.append(f"a disturbed pair is measured again, up to {study.disturbed_repeats} times (disturbed_repeats)")
    if study.target_precision and study.max_repeats > study.repeats and _with_penalty(cells):
        until = f"until its interval is within {percent(study.target_precision)} (target_precision)"
        reasons.append(f"a penalty is measured {until}, with up to {study.max_repeats} repeats (max_repeats)")
    return reasons


def _runnable(grid: Grid) -> list[Cell]:
    return [cell for cell in grid.cells if not cell.reason]


def _crossed(grid: Grid) -> set[str]:
    return {slot.cell for slot in grid.order if slot.birth}


def _partners(cells: Iterable[Cell]) -> dict[str, int]:
    """With how many others a cell may be compared: along its nodes, its settings, and the shape in a series of models.

    Never too few: which of these are compared is known to the analysis.
    """
    alike: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(cell.group, []).append(cell)
        alike.setdefault((cell.family, cell.placement), []).append(cell)
    for key in _SHAPE:
        series: dict[Hashable, list[Cell]] = {}
        for cell in cells:
            if cell.model.computes:
                rest = tuple(getattr(cell.model, other) for other in _SHAPE if other != key)
                series.setdefault((key, cell.gpu, cell.placement, cell.settings, rest), []).append(cell)
        alike |= {one: own for one, own in series.items() if len({cell.model.name for cell in own}) >= _SHORTEST_SERIES}
    found: dict[str, set[str]] = {}
    for own in alike.values():
        for cell in own if len(own) > 1 else ():
            found.setdefault(cell.name, set()).update(other.name for other in own if other is not cell)
    return {name: len(others) for name, others in found.items()}


def _with_penalty(cells: Iterable[Cell]) -> set[str]:
    """Cells of groups with several placements."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    return {cell.name for own in groups.values() if len({one.placement for one in own}) > 1 for cell in own}
