"""How far a study is, and how long the rest may take: from its own finished runs."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.run.record import LASTING, OK, is_final
from bench.study.order import TRACED, Slot

Records = Mapping[Slot, Mapping[str, Any] | None]


@dataclass(frozen=True)
class Standing:
    """done of total runs; current_s and rest_s: what the running one and those after it may take, None if unknown."""

    done: int
    total: int
    current_s: float | None
    rest_s: float | None

    def left_s(self, elapsed_s: float) -> float | None:
        """Time left when the running one has run for elapsed_s."""
        if self.current_s is None or self.rest_s is None:
            return None
        return self.rest_s + max(self.current_s - elapsed_s, 0.0)


def standing(records: Records, invocation: str, free: Iterable[str] = (), current: Slot | None = None) -> Standing:
    """Where a study stands.

    records: its runs, each with its record or None.
    free: cells that end at once, since this host cannot run them.
    current: the run that goes on now; it counts as not done.
    """
    done = {slot for slot, record in records.items() if slot != current and is_final(record, invocation)}
    over = {*free, *_given_up(records, invocation)}
    estimate = _estimates(records, done)
    rest = [estimate(slot) for slot in records if slot not in done and slot != current and slot.cell not in over]
    now = estimate(current) if current else 0.0
    known = now is not None and None not in rest
    return Standing(len(done), len(records), now if known else None, sum(rest) if known else None)


def _given_up(records: Records, invocation: str) -> set[str]:
    """Cells whose further runs end as the first one did, without being started."""
    return {
        slot.cell
        for slot, record in records.items()
        if record and record["status"] in LASTING and record["invocation"] == invocation
    }


def _estimates(records: Records, done: set[Slot]) -> Callable[[Slot], float | None]:
    """The mean over a run's like: those of its group, else of its mode, else all. None before any run has ended."""
    walls: dict[tuple[str | bool, ...], list[float]] = {}
    for slot, record in records.items():
        if record and slot in done and record["status"] == OK:
            for like in _likes(slot):
                walls.setdefault(like, []).append(record["wall_s"])
    means = {like: statistics.fmean(values) for like, values in walls.items()}
    return lambda slot: next((means[like] for like in _likes(slot) if like in means), None)


def _likes(slot: Slot) -> list[tuple[str | bool, ...]]:
    traced = slot.repeat == TRACED
    return [(traced, slot.group), (traced,), ()]
