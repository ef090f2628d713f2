"""Every combination that a study asks for, before any host is looked at."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any

from bench.errors import StudyError
from bench.study.axes import Axes
from bench.study.model import Model, default_heads
from bench.study.settings import SHAPE
from bench.study.values import Placement

MOST = 100_000
Point = dict[str, Any]


@dataclass(frozen=True)
class Combination:
    """copy: how often the same model stood in the study's list before; settings: those that differ from its own;
    added: by include, which exclude does not look at."""

    gpu: int
    placement: Placement
    model: Model
    copy: int
    settings: dict[str, Any]
    added: bool = False

    def value(self, key: str, base: dict[str, Any]) -> Any:
        if key in SHAPE or key == "model":
            return self.model if key == "model" else getattr(self.model, key)
        own = {"gpu_ids": self.gpu, "placements": self.placement}
        return own[key] if key in own else self.settings.get(key, base[key])


def combinations(
    gpus: Sequence[int],
    placements: Sequence[Placement],
    models: Sequence[Model],
    axes: Axes,
    base: dict[str, Any],
    where: str,
) -> list[Combination]:
    """GPU x placement x model x axes, in this order, without those excluded; then those included.

    base: the study's own settings. A combination that arises twice is kept once.
    Raise StudyError for more than MOST, and for none.
    """
    own = _own(gpus, placements, models)
    grid = _grid(own, axes)
    added = [[*(points for key, points in own.items() if key not in entry), *_crossed(entry)] for entry in axes.include]
    _check_size([grid, *added], where)
    kept = (one for one in _product(grid, base) if not any(_matches(one, entry, base) for entry in axes.exclude))
    found: dict[Any, Combination] = {}
    more = (replace(one, added=True) for points in added for one in _product(points, base))
    for one in chain(kept, more):
        found.setdefault((one.gpu, one.placement, one.model, one.copy, tuple(sorted(one.settings.items()))), one)
    if not found:
        raise StudyError("exclude drops every combination", where, "leave at least one")
    return list(found.values())


def idle_excludes(
    gpus: Sequence[int],
    placements: Sequence[Placement],
    models: Sequence[Model],
    axes: Axes,
    base: dict[str, Any],
) -> list[int]:
    """Which entries of axes.exclude match nothing: misspelt perhaps, or of values that a command line replaced."""
    idle = dict(enumerate(axes.exclude))
    for one in _product(_grid(_own(gpus, placements, models), axes), base) if idle else ():
        for index in [index for index, entry in idle.items() if _matches(one, entry, base)]:
            del idle[index]
        if not idle:
            break
    return list(idle)


def _own(gpus: Sequence[int], placements: Sequence[Placement], models: Sequence[Model]) -> dict[str, list[Point]]:
    return {
        "gpu_ids": [{"gpu_ids": gpu} for gpu in gpus],
        "placements": [{"placements": placement} for placement in placements],
        "model": _numbered(models),
    }


def _grid(own: dict[str, list[Point]], axes: Axes) -> list[list[Point]]:
    zips = [_points_of_zip(zipped) for zipped in axes.zipped]
    zipped = {key for one in axes.zipped for key in one}
    return [*(points for key, points in own.items() if key not in zipped), *_crossed(axes.crossed), *zips]


def _numbered(models: Sequence[Model]) -> list[Point]:
    seen: dict[Model, int] = {}
    points = []
    for model in models:
        points.append({"model": model, "copy": seen.get(model, 0)})
        seen[model] = seen.get(model, 0) + 1
    return points


def _points_of_zip(zipped: dict[str, tuple[tuple[Any, ...], ...]]) -> list[Point]:
    """One point for each place; several where alternatives stand at it."""
    points = []
    for places in zip(*zipped.values(), strict=True):
        points += [dict(zip(zipped, values, strict=True)) for values in product(*places)]
    return points


def _crossed(entry: dict[str, tuple[Any, ...]]) -> list[list[Point]]:
    return [[{key: value} for value in values] for key, values in entry.items()]


def _product(dimensions: Iterable[list[Point]], base: dict[str, Any]) -> Iterator[Combination]:
    for points in product(*dimensions):
        merged: Point = {}
        for point in points:
            merged |= point
        shape = {key: merged.pop(key) for key in SHAPE if key in merged}
        gpu, placement, model = (merged.pop(key) for key in ("gpu_ids", "placements", "model"))
        copy = merged.pop("copy", 0)
        settings = {key: value for key, value in merged.items() if value != base[key]}
        if len(shape) == len(SHAPE):
            copy = 0  # the shape alone says which model it is, whatever the study lists
        yield Combination(gpu, placement, reshaped(model, shape), copy, settings)


def reshaped(model: Model, shape: dict[str, int]) -> Model:
    """The model with parts of its shape replaced. Without compute it has no shape, unless all of it is given."""
    if not shape or not (model.computes or len(shape) == len(SHAPE)):
        return model
    heads = default_heads(shape["dim"]) if "dim" in shape else model.heads
    return replace(model, **shape, heads=heads)


def _matches(one: Combination, entry: dict[str, tuple[Any, ...]], base: dict[str, Any]) -> bool:
    for key, allowed in entry.items():
        value = one.value(key, base)
        if value not in allowed and not (key == "model" and value.name in allowed):
            return False
    return True


def _check_size(grids: list[list[list[Point]]], where: str) -> None:
    count = sum(math.prod(len(points) for points in grid) for grid in grids)
    if count > MOST:
        raise StudyError(
            f"{count:,} combinations, allowed are {MOST:,}", where, "vary less at once, or make several studies of it"
        )
