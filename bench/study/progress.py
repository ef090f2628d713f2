"""How far a study is that runs, and how long the rest of it may take."""

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bench.records.run import LASTING, Demand, Head, RunHead, read_head, read_record
from bench.records.study import Grid, Slot
from bench.study.directory import RunDirectory
from bench.study.duration import RunClass, processes
from bench.study.on_demand import Further, further_repeats

Heads = Mapping[Slot, Head | None]


@dataclass(frozen=True)
class StudyProgress:
    """done of total runs; current_s, rest_s: expected for the current run and for those after it, None if unknown.

    rest_s: with runs that are expected to be demanded; spare_s: how much longer all take that can be demanded.
    """

    done: int
    total: int
    current_s: float | None
    rest_s: float | None
    spare_s: float = 0.0

    def remaining_s(self, elapsed_s: float) -> float | None:
        """When the current run has run for elapsed_s."""
        if self.current_s is None or self.rest_s is None:
            return None
        return self.rest_s + max(self.current_s - elapsed_s, 0.0)


def read_progress(
    directory: RunDirectory,
    grid: Grid,
    invocation: str,
    present: Collection[Slot] = (),
    current: Collection[Slot] = (),
) -> StudyProgress:
    """The progress on disk. Repeats beyond the study's count if they are demanded, have a record or are `present`."""
    study = directory.study()
    asked = {*grid.asked(study.repeats)}
    demand = read_record(directory.demand, Demand)
    repeats = demand.repeats if demand else {}
    heads: dict[Slot, RunHead | None] = {}
    for slot, path in _paths(directory).items():
        head = read_head(path)
        demanded = isinstance(slot.repeat, int) and slot.repeat <= repeats.get(slot.cell, 0)
        if head or demanded or slot in asked or slot in present:
            heads[slot] = head
    timed = [head for slot, head in heads.items() if head and head.ok and not slot.is_traced]
    share = sum(head.disturbed for head in timed) / len(timed) if timed else 0.0
    further = {
        cell: more.beyond(repeats.get(cell, study.repeats) - study.repeats)
        for cell, more in further_repeats(grid, study, share).items()
    }
    not_runnable = [cell.name for cell in grid.cells if cell.reason]
    return study_progress(heads, invocation, not_runnable, current, further)


@lru_cache(maxsize=4)
def _paths(directory: RunDirectory) -> dict[Slot, Path]:
    return {slot: directory.record(slot.cell, slot.repeat) for slot in directory.grid().order}


def study_progress(
    heads: Heads,
    invocation: str,
    not_runnable: Iterable[str] = (),
    current: Collection[Slot] = (),
    further: Mapping[str, Further] | None = None,
) -> StudyProgress:
    """How far a study is.

    heads: of its runs, None where there is no record. not_runnable: cells that this host cannot run, whose runs end at
    once. current: the runs of the process in progress; they count as not done. further: repeats, by cell, that are not
    demanded yet.
    """
    done = {slot for slot, head in heads.items() if slot not in current and head and head.is_final(invocation)}
    over = {*not_runnable, *_given_up(heads, invocation)}
    expected_s = _expected(heads, done)
    rest = [slot for slot in heads if slot not in done and slot not in current and slot.cell not in over]
    now_s, rest_s = (_sum([expected_s(one) for one in processes(slots)]) for slots in (current, rest))
    if now_s is None or rest_s is None:
        return StudyProgress(len(done), len(heads), None, None)
    more_s = spare_s = 0.0
    first = [slot for slot in heads if slot.repeat == 1 and slot.cell in (further or {}) and slot.cell not in over]
    for slot in processes(first):
        more, run_s = (further or {})[slot.cell], expected_s(slot) or 0.0
        more_s += more.expected * run_s
        spare_s += (more.most - more.expected) * run_s
    return StudyProgress(len(done), len(heads), now_s, rest_s + more_s, spare_s)


def _sum(parts: Iterable[float | None]) -> float | None:
    known = [*parts]
    return None if None in known else sum(part for part in known if part is not None)


def _given_up(heads: Heads, invocation: str) -> set[str]:
    """Cells whose further runs end as the first one did, without being started."""
    return {
        slot.cell for slot, head in heads.items() if head and head.status in LASTING and head.invocation == invocation
    }


def _expected(heads: Heads, done: set[Slot]) -> Callable[[Slot], float | None]:
    """The mean over similar runs: those of its group, else of its mode, else all. None before any run has ended."""
    walls: dict[RunClass, list[float]] = {}
    for slot, head in heads.items():
        if head and slot in done and head.ok:
            for one in _slot_classes(slot):
                walls.setdefault(one, []).append(head.wall_s)
    means = {one: statistics.fmean(values) for one, values in walls.items()}
    return lambda slot: next((means[one] for one in _slot_classes(slot) if one in means), None)


def _slot_classes(slot: Slot) -> list[RunClass]:
    return [(slot.is_traced, slot.group), (slot.is_traced,), ()]
