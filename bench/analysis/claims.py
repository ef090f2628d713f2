"""One level for all that a study claims: every test of a difference is corrected together with all others.

Holm's correction (Scand. J. Statist. 6 (1979) 65) over penalties, their parts, latencies, births, axes and fastest
settings: in at most 5 % of studies is one of all their claims wrong, where families with a level each would be wrong in
5 % each.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from bench.analysis import latency
from bench.analysis.axes import summarise
from bench.analysis.statistics import holm
from bench.analysis.verdicts import is_headline
from bench.records.results import AxisComparison, BirthContrast, Claims, Fastest, Judged, Penalty, Rules

Entry = TypeVar("Entry", bound=Judged)
# By p-value, what the correction makes of it.
Adjusted = Mapping[float, float]


@dataclass(frozen=True)
class Claimed:
    """The comparisons of a study with what holds after correction."""

    penalties: tuple[Penalty, ...]
    comparisons: tuple[AxisComparison, ...]
    fastest: tuple[Fastest, ...]
    claims: Claims


def claimed(
    penalties: Sequence[Penalty], comparisons: Sequence[AxisComparison], fastest: Sequence[Fastest], rules: Rules
) -> Claimed:
    """The families as their modules return them, before correction."""
    p_values = list(_tests(penalties, comparisons, fastest))
    adjusted = dict(zip(p_values, holm(p_values), strict=True)) if p_values else {}
    level = 1 - rules.confidence
    return Claimed(
        tuple(_penalty(entry, adjusted, rules) for entry in penalties),
        tuple(_axis(entry, adjusted, rules) for entry in comparisons),
        tuple(_fastest(entry, adjusted, level) for entry in fastest),
        Claims(tests=len(p_values), hold=sum(p <= level for p in map(adjusted.__getitem__, p_values)), level=level),
    )


def _tests(
    penalties: Iterable[Penalty], comparisons: Iterable[AxisComparison], fastest: Iterable[Fastest]
) -> Iterator[float]:
    found: list[float | None] = []
    for penalty in penalties:
        found += [entry.p_difference for entry in (penalty, *(penalty.effects or {}).values())]
        found += [p for birth in penalty.births for p in (birth.p_effect, birth.p_change)]
        found += latency.p_values(penalty.changes)
    found += [line.p_difference for comparison in comparisons for line in comparison.lines]
    for race in fastest:
        for one in (race, race.same_dtype):
            found += [other.p_slower for other in one.rivals] if one else []
    return (p for p in found if p is not None)


def _penalty(entry: Penalty, adjusted: Adjusted, rules: Rules) -> Penalty:
    effects = entry.effects and {
        contrast: _judged(effect, effect.penalty, adjusted, rules) for contrast, effect in entry.effects.items()
    }
    births = tuple(_birth(birth, adjusted, rules) for birth in entry.births)
    changes = latency.corrected(entry.changes, adjusted, rules)
    entry = replace(entry, effects=effects, births=births, changes=changes)
    if entry.penalty is None or entry.p_difference is None:
        return entry
    return replace(_judged(entry, entry.penalty, adjusted, rules), p_adjusted=adjusted[entry.p_difference])


def _judged(entry: Entry, penalty: float, adjusted: Adjusted, rules: Rules) -> Entry:
    if entry.p_difference is None:
        return entry
    return replace(entry, headline=is_headline(entry, math.log1p(-penalty), adjusted[entry.p_difference], rules))


def _birth(birth: BirthContrast, adjusted: Adjusted, rules: Rules) -> BirthContrast:
    effect, change = (p is not None and adjusted[p] <= 1 - rules.confidence for p in (birth.p_effect, birth.p_change))
    return replace(birth, effect_holds=effect, change_holds=change)


def _axis(entry: AxisComparison, adjusted: Adjusted, rules: Rules) -> AxisComparison:
    return summarise(
        entry,
        [line if line.effect is None else _judged(line, -line.effect, adjusted, rules) for line in entry.lines],
    )


def _fastest(entry: Fastest, adjusted: Adjusted, level: float) -> Fastest:
    rivals = tuple(one for one in entry.rivals if one.p_slower is None or adjusted[one.p_slower] > level)
    same = entry.same_dtype
    return replace(entry, rivals=rivals, same_dtype=_fastest(same, adjusted, level) if same else None)
