"""Which cells need more repeats, and when to stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bench.errors import StudyError
from bench.legacy.record import OK, read_record
from bench.legacy.statistics import CONFIDENCE_AFTER_LOOKS, MARGIN, Comparison, Estimate, estimate_pairs
from bench.legacy.verdicts import MAX_REPEATS
from bench.records.base import plain
from bench.records.study import TRACED
from bench.study.directory import RunDirectory

# --- demand
# Which cells need more timed runs than the study asks for: for precision, or because a pair was disturbed.

Record = dict[str, Any]


def demanded(directory: RunDirectory) -> dict[str, int]:
    """Timed repeats by cell, for the cells that need more than the study's repeats. Only from what is on disk.

    The number for a cell never falls while records are added, so that asking again after each round ends.
    """
    study = plain(directory.study())
    needed = _for_disturbed(directory, study["repeats"], study["disturbed_repeats"])
    if study["target_precision"]:
        for cell, repeats in _for_precision(directory, study).items():
            needed[cell] = max(needed.get(cell, 0), repeats)
    return {cell: repeats for cell, repeats in needed.items() if repeats > study["repeats"]}


def _for_disturbed(directory: RunDirectory, repeats: int, most: int) -> dict[str, int]:
    """One more block, up to `most`, for each in which the monitor saw a run of the cell disturbed, or of one that it is
    compared with. A cell that is compared with nothing has no pair to lose.
    """
    disturbed: dict[str, set[int]] = {}
    for slot in directory.grid().order if most else ():
        if slot.repeat != TRACED and _was_disturbed(directory, slot.cell, slot.repeat):
            disturbed.setdefault(slot.cell, set()).add(slot.block)
    needed = {}
    for cell, others in (_compared(directory) if disturbed else {}).items():
        lost = {block for name in (cell, *others) for block in disturbed.get(name, ())}
        needed[cell] = repeats + min(len(lost), most)
    return needed


def _compared(directory: RunDirectory) -> dict[str, set[str]]:
    """By cell the cells it is compared with: those of its group, and along each axis."""
    from bench.legacy.aggregate import grid_entry
    from bench.legacy.axes import axes, matched

    grid = directory.grid()
    groups: dict[str, set[str]] = {}
    for slot in grid.order:
        groups.setdefault(slot.group, set()).add(slot.cell)
    found = {cell: group - {cell} for group in groups.values() if len(group) > 1 for cell in group}
    entries = [grid_entry({**plain(cell), "key": cell.key}) for cell in grid.cells]
    for axis in axes(entries, plain(directory.study())):
        for base, other in matched(axis, entries):
            found.setdefault(base["name"], set()).add(other["name"])
            found.setdefault(other["name"], set()).add(base["name"])
    return found


def _was_disturbed(directory: RunDirectory, cell: str, repeat: int | str) -> bool:
    record = read_record(directory.record(cell, repeat))
    return record is not None and record["status"] == OK and bool((record.get("monitor") or {}).get("disturbed"))


def _for_precision(directory: RunDirectory, study: Record) -> dict[str, int]:
    from bench.legacy.load import load
    from bench.legacy.pairs import comparison
    from bench.report.build import build_results

    results = build_results(load(directory.path), "")
    cells = {cell["name"]: cell for cell in results["cells"]}
    told, sides, asked = [], {}, {}
    for penalty in results["penalties"]:
        pair = cells[penalty["local_cell"]], cells[penalty["remote_cell"]]
        one, _ = comparison(penalty["remote_cell"], *pair)
        if one.local_runs.keys() & one.remote_runs.keys():
            told.append(one)
            sides[one.label] = [cell["name"] for cell in pair]
            asked[one.label] = max(len([run for run in cell["runs"] if run["repeat"] != TRACED]) for cell in pair)
    needed: dict[str, int] = {}
    for decision in decide(told, study["target_precision"], study["max_repeats"], asked) if told else []:
        for cell in sides[decision.label]:
            needed[cell] = max(needed.get(cell, 0), asked[decision.label] + decision.more)
    return needed


# --- stopping
# When a study with --target-precision has seen enough.
#
# The data are looked at after 6, 10 and 20 pairs only, and the intervals are those of CONFIDENCE_AFTER_LOOKS:
# looking after every pair would stop on the luckily narrow ones.

LOOKS = (6, 10, 20)


@dataclass(frozen=True)
class Decision:
    """more: pairs to measure before the next look; 0 means that this comparison is finished.

    half_width: of the interval of the penalty, a fraction; repeats_needed: pairs for the target, as it looks.
    """

    label: str
    more: int
    reason: str
    half_width: float | None
    repeats_needed: int | None


def looks(max_repeats: int = MAX_REPEATS) -> tuple[int, ...]:
    """The numbers of pairs at which the data may be looked at."""
    if max_repeats < 1:
        raise StudyError(f"max_repeats is {max_repeats}", "--max-repeats", "ask for 1 or more")
    return (*(look for look in LOOKS if look < max_repeats), max_repeats)


def decide(
    comparisons: Sequence[Comparison],
    target_precision: float,
    max_repeats: int = MAX_REPEATS,
    asked: Mapping[str, int] | None = None,
) -> list[Decision]:
    """What to do with each comparison at this look.

    target_precision: half-width of the interval of a penalty that is narrow enough, a fraction.
    asked: how many pairs were asked for so far, by label, where failed or disturbed runs left fewer.
    Finished comparisons take part: their variances are pooled with the others'.
    """
    if not 0 < target_precision < 1:
        raise StudyError(
            f"target precision {target_precision}", "--target-precision", "a fraction: 0.02 for 2 %"
        )
    found = estimate_pairs(comparisons, CONFIDENCE_AFTER_LOOKS, MARGIN)
    return [
        _decide(one, target_precision, looks(max_repeats), (asked or {}).get(one.label, one.pairs))
        for one in found
    ]


def _decide(found: Estimate, target: float, at: tuple[int, ...], asked: int) -> Decision:
    later = [look for look in at if look > asked]
    if asked < at[0]:
        return Decision(found.label, at[0] - asked, f"no look before {at[0]} pairs", None, None)
    if found.interval is None:
        more = later[0] - asked if later else 0
        return Decision(found.label, more, "one pair has no spread", None, None)
    half = (found.interval[1] - found.interval[0]) / 2
    if half <= target:
        return Decision(found.label, 0, f"narrow enough after {found.pairs} pairs", half, found.pairs)
    needed = pairs_for(found, target)
    if not later:
        return Decision(found.label, 0, f"would take about {needed} pairs", half, needed)
    if pairs_for(found, target, optimism=0.9) > at[-1]:
        return Decision(found.label, 0, f"would take about {needed} pairs, more than {at[-1]}", half, needed)
    return Decision(found.label, later[0] - asked, "not narrow enough yet", half, needed)


def pairs_for(found: Estimate, target: float, optimism: float = 0.5) -> int:
    """Pairs after which the half-width reaches the target, with the spread at this lower bound of its
    estimate (0.5: as it is; 0.9: giving up on a comparison should be a mistake one time in ten)."""
    if found.sd is None:
        raise StudyError(f"{found.label}: one pair has no spread", "--target-precision", "measure more")
    sd = found.sd
    if optimism != 0.5:
        sd *= float(np.sqrt(found.df / stats.chi2.ppf(optimism, found.df)))
    # d(penalty) = (1 - penalty) d(log ratio)
    reach = -float(np.log1p(-min(target / (1 - found.penalty), 0.999999)))
    needed = found.pairs
    for _ in range(50):
        df = max(found.df + needed - found.pairs, 1.0)
        quantile = float(stats.t.ppf((1 + found.confidence) / 2, df))
        step = int(np.ceil((quantile * sd / reach) ** 2))
        if step == needed:
            break
        needed = max(step, 2)
    return needed
