"""Which cells need more timed runs than the study asks for: for precision, or because a pair was disturbed.

With --target-precision the data are looked at after 6, 10 and 20 pairs only, and the intervals are those of
CONFIDENCE_AFTER_LOOKS: looking after every pair would stop on the luckily narrow ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, stdtrit

from bench.analysis.aggregate import measured_cells, unmeasured_cells
from bench.analysis.axes import axes, matched
from bench.analysis.load import RunData, load
from bench.analysis.pairs import compared, estimating_runs, local_nodes
from bench.analysis.penalties import penalties
from bench.analysis.statistics import CONFIDENCE_AFTER_LOOKS, MARGIN, Estimate, Sample, estimate
from bench.analysis.verdicts import rules_of
from bench.errors import StudyError
from bench.records.results import Rules
from bench.records.study import Placement
from bench.study.directory import RunDirectory
from bench.study.on_demand import LOOKS


@dataclass(frozen=True)
class Demanded:
    """Timed repeats by cell, where they are more than the study's; and by cell what disturbed pairs and the target
    precision ask for, each alone."""

    repeats: Mapping[str, int]
    for_disturbed: Mapping[str, int]
    for_precision: Mapping[str, int]


def demanded(directory: RunDirectory) -> Demanded:
    """What the data ask for. Only from what is on disk.

    The number for a cell never falls while records are added, so that asking again after each round ends.
    """
    data = load(directory.path)
    disturbed = _for_disturbed(data) if data.study.disturbed_repeats else {}
    precision = _for_precision(data) if data.study.target_precision else {}
    needed = {cell: max(disturbed.get(cell, 0), precision.get(cell, 0)) for cell in (*disturbed, *precision)}
    more = {cell: repeats for cell, repeats in _whole_groups(data, needed).items() if repeats > data.study.repeats}
    return Demanded(more, disturbed, precision)


def _whole_groups(data: RunData, needed: Mapping[str, int]) -> dict[str, int]:
    """The same, but for the cells of a crossed group equal, and a multiple of its births: processes measure all."""
    births: dict[str, set[Placement]] = {}
    cells: dict[str, list[str]] = {}
    for slot in data.order:
        if slot.birth and slot.block == 1:
            cells.setdefault(slot.group, []).append(slot.cell)
        if slot.birth:
            births.setdefault(slot.group, set()).add(slot.birth)
    found = dict(needed)
    for group, own in cells.items():
        most, size = max(needed.get(cell, 0) for cell in own), len(births[group])
        if most:
            found |= dict.fromkeys(own, size * -(-most // size))
    return found


def _for_disturbed(data: RunData) -> dict[str, int]:
    """One more block for each in which the monitor saw a run of the cell disturbed, or of one that it is compared with.

    A cell that is compared with nothing has no pair to lose. Whatever disturbed a crossing disturbed all of its cells.
    """
    disturbed: dict[str, set[int]] = {}
    for slot in data.order:
        run = None if slot.birth else data.runs.get(slot.run)
        if run and run.timed and run.ok and run.disturbed:
            disturbed.setdefault(slot.cell, set()).add(slot.block)
    needed = {}
    crossed = {slot.cell for slot in data.order if slot.birth}
    for cell, others in (_compared(data) if disturbed else {}).items():
        if cell in crossed:
            continue
        lost = {block for name in (cell, *others) for block in disturbed.get(name, ())}
        needed[cell] = data.study.repeats + min(len(lost), data.study.disturbed_repeats)
    return needed


def _compared(data: RunData) -> dict[str, set[str]]:
    """By cell the cells it is compared with: those of its group, and along each axis."""
    groups: dict[str, set[str]] = {}
    for slot in data.order:
        groups.setdefault(slot.group, set()).add(slot.cell)
    found = {cell: group - {cell} for group in groups.values() if len(group) > 1 for cell in group}
    cells = unmeasured_cells(data.cells, data.study)
    for axis in axes(cells, data.study):
        for base, other in matched(axis, cells):
            found.setdefault(base.name, set()).add(other.name)
            found.setdefault(other.name, set()).add(base.name)
    return found


def _for_precision(data: RunData) -> dict[str, int]:
    cells = measured_cells(data)
    by_name = {cell.name: cell for cell in cells}
    local = local_nodes(cells, data.host, data.probes.get("before"))
    samples: list[Sample] = []
    sides, asked = {}, {}
    for penalty in penalties(cells, local, rules_of(data.study)):
        both = by_name[penalty.local_cell], by_name[penalty.remote_cell]
        estimating = [estimating_runs(cell, local[penalty.gpu]) for cell in both]
        if sample := compared(penalty.remote_cell, *estimating).sample:
            samples.append(sample)
            sides[sample.label] = [cell.name for cell in both]
            asked[sample.label] = max(len([run for run in cell.runs if run.repeat != "traced"]) for cell in both)
    needed: dict[str, int] = {}
    for decision in decide(samples, data.study.target_precision, data.study.max_repeats, asked) if samples else []:
        for cell in sides[decision.label]:
            needed[cell] = max(needed.get(cell, 0), asked[decision.label] + decision.more)
    return needed


@dataclass(frozen=True)
class Decision:
    """more: pairs to measure before the next look; 0 means that this comparison is finished."""

    label: str
    more: int


def looks(max_repeats: int = Rules().max_repeats) -> tuple[int, ...]:
    """The numbers of pairs at which the data may be looked at."""
    if max_repeats < 1:
        raise StudyError(f"max_repeats is {max_repeats}", "--max-repeats", "ask for 1 or more")
    return (*(look for look in LOOKS if look < max_repeats), max_repeats)


def decide(
    samples: Sequence[Sample],
    target_precision: float,
    max_repeats: int = Rules().max_repeats,
    asked: Mapping[str, int] | None = None,
) -> list[Decision]:
    """What to do with each comparison at this look.

    target_precision: half-width of the interval of a penalty that is narrow enough, a fraction.
    asked: how many pairs were asked for so far, by label, where failed or disturbed runs left fewer.
    """
    if not 0 < target_precision < 1:
        raise StudyError(f"target precision {target_precision}", "--target-precision", "a fraction: 0.02 for 2 %")
    found = estimate(samples, CONFIDENCE_AFTER_LOOKS, MARGIN)
    counts = [(one, (asked or {}).get(one.label, one.pairs)) for one in found]
    return [Decision(one.label, _more(one, target_precision, looks(max_repeats), count)) for one, count in counts]


def _more(found: Estimate, target: float, at: tuple[int, ...], asked: int) -> int:
    """0 once the interval is narrow, or the last look cannot be expected to make it so."""
    later = [look for look in at if look > asked]
    if later and asked >= at[0] and found.interval is not None:
        narrow = (found.interval[1] - found.interval[0]) / 2 <= target
        if narrow or pairs_for(found, target, optimism=0.9) > at[-1]:
            return 0
    return later[0] - asked if later else 0


def pairs_for(found: Estimate, target: float, optimism: float = 0.5) -> int:
    """Pairs after which the half-width reaches the target, with the spread at this lower bound of its estimate.

    0.5: as it is; 0.9: giving up on a comparison should be a mistake one time in ten.
    """
    if found.sd is None:
        raise StudyError(f"{found.label}: one pair has no spread", "--target-precision", "measure more")
    sd = found.sd
    if optimism != 0.5:
        sd *= float(np.sqrt(found.df / chdtri(found.df, 1 - optimism)))
    # d(penalty) = (1 - penalty) d(log ratio)
    reach = -float(np.log1p(-min(target / (1 - found.penalty), 0.999999)))
    needed = found.pairs
    for _ in range(50):
        df = max(found.df + needed - found.pairs, 1.0)
        quantile = float(stdtrit(df, (1 + found.confidence) / 2))
        step = int(np.ceil((quantile * sd / reach) ** 2))
        if step == needed:
            break
        needed = max(step, 2)
    return needed
