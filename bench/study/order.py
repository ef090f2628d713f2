"""The measuring order: what runs next to what, and when.

Every shuffle is a sort by SHA-256, so that the order depends on the seed and the names only: not on the
machine, the Python version, the number of workers or what else is in the study.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from bench.errors import StudyError
from bench.records.base import Repeat
from bench.records.study import TRACED, Placement, Slot


def measuring_order(
    cells: Iterable[tuple[str, str]],
    repeats: int,
    seed: int,
    traced: bool = True,
    families: Mapping[str, str] | None = None,
    births: Mapping[str, Sequence[Placement]] | None = None,
) -> list[Slot]:
    """The order of all runs of a study.

    cells: (cell name, group) in the order of the grid. Cells of one group will be compared with each other
        (same GPU, model and settings, different node) and are measured side by side, in an order that is drawn for
        each group and block. A fixed one, as AB BA, would follow a disturbance with a period of four runs.
    repeats: timed runs of each cell. Repeat r of every cell is block r; the traced runs are the last block.
    families: by group. Groups of one family (same GPU and model, different settings) follow one another, since
        they will be compared too. A group without one is its own.
    births: by group that is crossed. One process measures all of its cells, and starts at each birth once before it
        starts at one a second time. One process traces all of them too.

    The slots of repeats 1..n are the same for every larger number of repeats, so that a study can be continued.
    Raise StudyError for a cell named twice or a negative number of repeats.
    """
    groups = _grouped(cells)
    if repeats < 0:
        raise StudyError(f"repeats is {repeats}", "measuring order", "ask for 0 or more")
    passes: list[tuple[Repeat, int]] = [(block, block) for block in range(1, repeats + 1)]
    if traced:
        passes.append((TRACED, repeats + 1))
    slots: list[Slot] = []
    together: dict[str, list[str]] = {}
    for group in groups:
        together.setdefault((families or {}).get(group, group), []).append(group)
    for repeat, block in passes:
        for family in _shuffled(together, seed, str(repeat)):
            for group in _shuffled(together[family], seed, str(repeat)):
                own = (births or {}).get(group, ())
                # A trace is compared with none: its process starts at the first birth.
                birth = next(iter(own), None) if repeat == TRACED else birth_of(own, group, block, seed)
                # In a crossing the process itself takes turns.
                names = groups[group] if birth else _shuffled(groups[group], seed, f"turns {repeat} {group}")
                for name in names:
                    position = len(slots)
                    slots.append(
                        Slot(cell=name, repeat=repeat, block=block, position=position, group=group, birth=birth)
                    )
    return slots


def birth_of(births: Sequence[Placement], group: str, process: int, seed: int) -> Placement | None:
    """Where a process of a group starts, by its number from 1; None without births."""
    if not births:
        return None
    size, by_text = len(births), {str(birth): birth for birth in births}
    part, place = divmod(process - 1, size)
    return by_text[_shuffled(by_text, seed, f"births {part} {group}")[place]]


def _grouped(cells: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    seen: set[str] = set()
    for name, group in cells:
        if name in seen:
            raise StudyError(f"the cell {name!r} is listed twice", "measuring order", "give each cell its own name")
        seen.add(name)
        groups.setdefault(group, []).append(name)
    return groups


def _shuffled(names: Iterable[str], seed: int, salt: str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}\0{salt}\0{name}".encode()).digest())
