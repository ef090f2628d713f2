"""The swept axes of a study: which settings have several values, and which cells differ in one axis alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.results.pairs import occurrences

Record = dict[str, Any]
Value = tuple[Any, ...]
SHAPE = ("patch_size", "depth", "dim")
# Nodes and GPUs are compared as penalties, models by their shape.
_NO_AXIS = ("gpu_ids", "numa_nodes", "placements", "models", "model")
# What may change along with a setting without being an axis of its own.
_FOLLOWERS = {
    "batch_size": ("num_samples", "warmup_samples"),
    "image_size": ("num_samples", "warmup_samples", "memory_size_mb"),
    "dim": ("heads",),
}
# What has no meaning where the key has this value: one GPU alone has no company to place.
_IDLE = {
    "concurrent_gpus": (1, ("concurrent_load", "concurrent_placement")),
    "preprocess_queue": (0, ("preprocess_node",)),
}
# Two models that a study lists side by side are no axis; a series of them is.
_SHORTEST_SERIES = 3


@dataclass(frozen=True)
class Axis:
    """keys: settings (or parts of a model's shape) that change together, mostly one.

    values: one tuple for each value, in the order of the study; base: what the others are compared with, the
    study's own value, or the first one where the study's was not run; of GPUs busy at once one alone, where it was run.
    followers: what may change along.
    """

    keys: tuple[str, ...]
    values: tuple[Value, ...]
    base: Value
    followers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ", ".join(self.keys)

    @property
    def of_shape(self) -> bool:
        return any(key in SHAPE for key in self.keys)


def axes(cells: Sequence[Record], study: Record) -> list[Axis]:
    """The axes that the study declares (`axes`, `zip`), then what else varies between its cells.

    Of the latter only single settings, and parts of the models' shape with a series of at least three values.
    """
    declared = [keys for keys in _declared(study) if not set(keys) & set(_NO_AXIS)]
    taken = {key for keys in declared for key in keys}
    settings = dict.fromkeys(key for cell in cells for key in cell["settings"])
    others = [(key,) for key in (*settings, *SHAPE) if key not in taken]
    found = []
    for keys in (*declared, *others):
        axis = _axis(keys, cells, study, taken)
        shortest = _SHORTEST_SERIES if keys in others and keys[0] in SHAPE else 2
        if len(axis.values) >= shortest and _longest(axis, cells) >= shortest:
            found.append(axis)
    return found


def value_of(cell: Record, keys: Iterable[str]) -> Value:
    return tuple(cell["model"].get(key) if key in SHAPE else cell["settings"].get(key) for key in keys)


def matched(axis: Axis, cells: Sequence[Record]) -> list[tuple[Record, Record]]:
    """(base, other) of cells that differ in this axis alone, a model listed twice by its turn."""
    exact: dict[Any, Record] = {}
    loose: dict[Any, Record] = {}
    others = []
    numbered = occurrences(cells, lambda cell: (_rest(cell, axis), value_of(cell, axis.keys)))
    for cell, ((rest, value), again) in numbered:
        if value == axis.base:
            exact[rest, again] = cell
            loose.setdefault((_rest(cell, axis, loosely=True), again), cell)
        else:
            others.append((rest, again, cell))
    pairs = []
    for rest, again, cell in others:
        base = exact.get((rest, again)) or loose.get((_rest(cell, axis, loosely=True), again))
        if base:
            pairs.append((base, cell))
    return pairs


def _declared(study: Record) -> list[tuple[str, ...]]:
    """Keys of each axis; those of a zip change together."""
    return [*((key,) for key in study.get("axes") or {}), *(tuple(one) for one in study.get("zip") or [])]


def _axis(keys: tuple[str, ...], cells: Sequence[Record], study: Record, taken: set[str]) -> Axis:
    following = {follower for key in keys for follower in _FOLLOWERS.get(key, ())} - taken
    values = tuple(dict.fromkeys(value_of(cell, keys) for cell in cells if not _without_compute(cell, keys)))
    own = tuple(study.get(key) for key in keys)
    base = own if own in values else next(iter(values), ())
    base = next((value for value in values if ("concurrent_gpus", 1) in zip(keys, value, strict=True)), base)
    idle = {
        follower
        for key, value in zip(keys, base, strict=False)
        for idle_at, followers in [_IDLE.get(key, (None, ()))]
        if value == idle_at
        for follower in followers
    }
    return Axis(keys, values, base, tuple(sorted(following | idle)))


def _longest(axis: Axis, cells: Sequence[Record]) -> int:
    """The largest number of values that one base is compared over, itself included."""
    compared: dict[str, int] = {}
    for base, _ in matched(axis, cells):
        compared[base["name"]] = compared.get(base["name"], 1) + 1
    return max(compared.values(), default=0)


def _rest(cell: Record, axis: Axis, loosely: bool = False) -> Any:
    """What must be equal besides the axis; loosely: what follows from it may differ as well."""
    ignored = {*axis.keys, *(axis.followers if loosely else ()), *(("name",) if axis.of_shape else ())}
    model = sorted((key, value) for key, value in cell["model"].items() if key not in ignored)
    settings = sorted((key, value) for key, value in cell["settings"].items() if key not in ignored)
    return cell["gpu"], cell["cpu_node"], cell["mem_node"], repr(model), repr(settings)


def _without_compute(cell: Record, keys: tuple[str, ...]) -> bool:
    """vit0x0x0 has no depth to vary."""
    return any(key in SHAPE for key in keys) and not cell["model"].get("depth")
