"""What a study varies, the combinations that it makes, and the names of their cells."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import Any, TypeVar

from msgspec import structs

from bench.errors import StudyError
from bench.records.study import Model, Placement, Settings
from bench.study.models import default_heads, listed, read_model
from bench.study.settings import (
    AXIS_KEYS,
    SETTINGS,
    SHAPE,
    check_keys,
    not_json,
    read_id,
    read_list,
    read_placement,
)
from bench.units import grouped

SettingsKind = TypeVar("SettingsKind", bound=Settings)
MOST_COMBINATIONS = 100_000
Values = tuple[Any, ...]
# As axes these replace the study's own list; the others are settings and parts of a shape.
# A longer list of CPUs is no part of a name.
LONGEST_CPUS = 24
FOLDED = ("gpu_ids", "placements", "model")


@dataclass(frozen=True)
class Axes:
    """Values by key: gpu_ids (int), placements (CPU node, memory node), model (Model), parts of a shape, settings.

    crossed: every value with every other. zipped: the n-th values of each key together; each place is a tuple of
    alternatives. exclude: a combination that matches all keys of one of these is dropped. include: added.
    """

    crossed: dict[str, Values] = field(default_factory=dict)
    zipped: tuple[dict[str, tuple[Values, ...]], ...] = ()
    exclude: tuple[dict[str, Values], ...] = ()
    include: tuple[dict[str, Values], ...] = ()

    @property
    def varied(self) -> set[str]:
        """Keys of which a study may have several values."""
        return {key for part in (self.crossed, *self.zipped, *self.include) for key in part}

    def without(self, keys: Iterable[str]) -> "Axes":
        """The same without these axes; of zipped lists the others stay."""
        gone = set(keys)
        remaining = ({key: values for key, values in zipped.items() if key not in gone} for zipped in self.zipped)
        crossed = {key: values for key, values in self.crossed.items() if key not in gone}
        return replace(self, crossed=crossed, zipped=tuple(zipped for zipped in remaining if zipped))

    def with_models(self, change: Callable[[Model], Model]) -> "Axes":
        """The same with every model changed that a combination may have."""

        def changed(part: dict[str, Values]) -> dict[str, Values]:
            return {key: tuple(map(change, values)) if key == "model" else values for key, values in part.items()}

        zipped = tuple(
            {
                key: tuple(tuple(map(change, one)) for one in places) if key == "model" else places
                for key, places in one.items()
            }
            for one in self.zipped
        )
        return replace(self, crossed=changed(self.crossed), zipped=zipped, include=tuple(map(changed, self.include)))

    def as_json(self) -> dict[str, Any]:
        """As in a study file, without empty parts."""
        zipped = [
            {key: [_single([_plain(v) for v in place]) for place in values] for key, values in one.items()}
            for one in self.zipped
        ]
        parts = {"axes": _listed(self.crossed), "zip": zipped}
        parts |= {key: [_listed(one) for one in getattr(self, key)] for key in ("exclude", "include")}
        return {key: part for key, part in parts.items() if part}


def axis_key(key: str) -> str:
    """The name under which an axis is kept: a node is a placement with CPUs and memory on it."""
    return {"numa_nodes": "placements", "models": "model"}.get(key, key)


def read_axes(values: Mapping[str, Any], at: Callable[[str], str]) -> Axes:
    """From the keys axes, zip, exclude and include; at: the place of a key, for errors. Raise StudyError."""
    return Axes(
        crossed=read_crossed(values.get("axes"), at("axes")),
        zipped=tuple(_read_zip(one, f"{at('zip')}[{index}]") for index, one in enumerate(_optional(values, "zip", at))),
        exclude=tuple(
            _read_match(one, f"{at('exclude')}[{index}]", _read_pattern)
            for index, one in enumerate(_optional(values, "exclude", at))
        ),
        include=tuple(
            _read_match(one, f"{at('include')}[{index}]", read_model)
            for index, one in enumerate(_optional(values, "include", at))
        ),
    )


def check_once(axes: Axes, where: str) -> None:
    """Raise StudyError for a key that is varied in two places."""
    seen: set[str] = set()
    for part in (axes.crossed, *axes.zipped):
        for key in part:
            if key in seen:
                raise StudyError(f"{key} is varied twice", where, "keep it in axes, or in one zip")
            seen.add(key)


def read_crossed(value: Any, where: str) -> dict[str, Any]:
    """Values by key; equal ones are kept once, models excepted. Of GPUs and nodes the text "all" may take their place,
    which then replaces that of the study."""
    crossed: dict[str, Any] = {}
    for key, items in ({} if value is None else _mapping(value, where)).items():
        if items == "all" and key in ("gpu_ids", "numa_nodes"):
            crossed[axis_key(key)] = "all"
            continue
        listed = enumerate(read_list(items, f"{where}.{key}"))
        values = tuple(atom for i, item in listed for atom in _atoms(key, item, f"{where}.{key}[{i}]", read_model))
        crossed[axis_key(key)] = values if axis_key(key) == "model" else tuple(dict.fromkeys(values))
    return crossed


def _read_pattern(value: Any, where: str) -> Model | str:
    """A model to match: with its heads if they are given, else by its name."""
    model = read_model(value, where)
    return model if isinstance(value, Mapping) and "heads" in value else model.name


def _read_zip(value: Any, where: str) -> dict[str, tuple[Values, ...]]:
    zipped: dict[str, tuple[Values, ...]] = {}
    for key, items in _mapping(value, where).items():
        places = enumerate(read_list(items, f"{where}.{key}"))
        zipped[axis_key(key)] = tuple(_atoms(key, item, f"{where}.{key}[{i}]", read_model) for i, item in places)
    lengths = {key: len(places) for key, places in zipped.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise StudyError(f"lists that vary together are equally long: {counts}", where, "give each the same length")
    return zipped


def _read_match(value: Any, where: str, reader: Callable[[Any, str], Any]) -> dict[str, Values]:
    return {axis_key(key): _atoms(key, item, f"{where}.{key}", reader) for key, item in _mapping(value, where).items()}


def _atoms(key: str, value: Any, where: str, reader: Callable[[Any, str], Any]) -> Values:
    """The values that `value` means: itself, or each one of a list."""
    several = isinstance(value, list | tuple)
    if key == "placements" and several and value and not isinstance(value[0], list | tuple):
        several = False  # a single [CPU node, memory node]
    if several:
        listed = enumerate(read_list(value, where))
        return tuple(_atom(key, item, f"{where}[{index}]", reader) for index, item in listed)
    return (_atom(key, value, where, reader),)


def _atom(key: str, value: Any, where: str, reader: Callable[[Any, str], Any]) -> Any:
    if key == "placements":
        return read_placement(value, where)
    if key == "numa_nodes":
        return (read_id(value, where),) * 2
    if key in ("model", "models"):
        return reader(value, where)
    if key not in SETTINGS:
        return read_id(value, where)
    read = SETTINGS[key].read(value, where)
    if read == "auto":
        named = ", ".join(choice for choice in SETTINGS[key].choices if choice != "auto")
        raise StudyError("auto cannot be a value of an axis", where, f"write one of {named}")
    return read


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        advice = not_json(value) or 'as {"batch_size": [1, 10]}'
        raise StudyError(f"found {value!r}, allowed is a mapping of keys to values", where, advice)
    check_keys([key for key in value if key != "models"], where, AXIS_KEYS)
    named: dict[str, str] = {}
    for key in value:
        other = named.setdefault(axis_key(key), key)
        if other != key:
            raise StudyError(f"{other} and {key} are one axis, and exclude each other", where, "keep one of them")
    return value


def _optional(values: Mapping[str, Any], key: str, at: Callable[[str], str]) -> list[Any]:
    value = values.get(key)
    if value is not None and not isinstance(value, list | tuple):
        advice = not_json(value) or "put it in brackets: [{...}]"
        raise StudyError(f"found {value!r}, allowed is a list of mappings", at(key), advice)
    return list(value or ())


def _listed(part: dict[str, Values]) -> dict[str, Any]:
    return {key: [_plain(value) for value in values] for key, values in part.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return listed(value)
    return list(value) if isinstance(value, tuple) else value


def _single(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


@dataclass(frozen=True)
class Combination:
    """copy: how often the study's list has the same model before this one; changes: the settings that differ from the
    study's own; added: by include, which exclude does not apply to."""

    gpu: int
    placement: Placement
    model: Model
    copy: int
    changes: dict[str, Any]
    added: bool = False

    def settings(self, base: SettingsKind) -> SettingsKind:
        return structs.replace(base, **self.changes) if self.changes else base

    def value(self, key: str, base: Settings) -> Any:
        if key == "model":
            return self.model
        if key in SHAPE:
            return getattr(self.model, key)
        own = {"gpu_ids": self.gpu, "placements": self.placement} | self.changes
        return own[key] if key in own else getattr(base, key)


def combinations(
    gpus: Sequence[int],
    placements: Sequence[Placement],
    models: Sequence[Model],
    axes: Axes,
    base: Settings,
    where: str,
) -> list[Combination]:
    """GPU x placement x model x axes, in this order, without those excluded; then those included.

    base: the study's own settings. A combination that arises twice is kept once.
    Raise StudyError for more than MOST_COMBINATIONS, and for none.
    """
    own = _own(gpus, placements, models)
    grid = _grid(own, axes)
    added = [[*(points for key, points in own.items() if key not in entry), *_crossed(entry)] for entry in axes.include]
    _check_size([grid, *added], where)
    kept = (one for one in _product(grid, base) if not any(_matches(one, entry, base) for entry in axes.exclude))
    distinct: dict[Any, Combination] = {}
    more = (replace(one, added=True) for points in added for one in _product(points, base))
    for one in chain(kept, more):
        distinct.setdefault((one.gpu, one.placement, one.model, one.copy, tuple(sorted(one.changes.items()))), one)
    if not distinct:
        raise StudyError("exclude drops every combination", where, "leave at least one")
    return list(distinct.values())


def idle_excludes(
    gpus: Sequence[int],
    placements: Sequence[Placement],
    models: Sequence[Model],
    axes: Axes,
    base: Settings,
) -> list[int]:
    """Which entries of axes.exclude match nothing: misspelt perhaps, or of values that a command line replaced."""
    idle = dict(enumerate(axes.exclude))
    for one in _product(_grid(_own(gpus, placements, models), axes), base) if idle else ():
        for index in [index for index, entry in idle.items() if _matches(one, entry, base)]:
            del idle[index]
        if not idle:
            break
    return list(idle)


def reshaped(model: Model, shape: Mapping[str, int]) -> Model:
    """The model with parts of its shape replaced. One without compute or from elsewhere has none, unless all of it is
    given."""
    if not shape or not (model.depth or len(shape) == len(SHAPE)):
        return model
    heads = default_heads(shape["dim"]) if "dim" in shape else model.heads
    own = {key: getattr(model, key) for key in SHAPE}
    return Model(**{**own, **shape}, heads=heads)


def name_cells(
    combinations: Iterable[Combination], cpu_groups: Sequence[str] = ()
) -> Iterator[tuple[Combination, str, str]]:
    """(combination, name of its cell, group) for each; names are unique.

    `pipeline_gpu{N}_numa{memory node}_vit{patch}x{depth}x{dim}`, of a command `command_gpu{N}_numa{memory node}_` with
    the name of its variant, and a suffix for each thing that differs: the CPU node from the memory node (of a group of
    CPUs its list, or its number where that is long), the heads from the first model of that name, a setting from the
    study's own, and `again` for a model listed twice. Cells of one group differ only in node, or in nothing.
    """
    first_heads: dict[str, int] = {}
    for one in combinations:
        model = one.model
        suffixes = [f"heads{model.heads}"] if first_heads.setdefault(model.name, model.heads) != model.heads else []
        suffixes += [
            setting.axis.suffix_of(one.changes[key])
            for key, setting in SETTINGS.items()
            if key in one.changes and setting.axis
        ]
        cpu_node, mem_node = one.placement
        kind = "command" if model.command else "pipeline"
        name = [f"{kind}_gpu{one.gpu}_numa{mem_node}", model.name]
        if cpu_groups:
            cpus = cpu_groups[cpu_node]
            name.append(f"cpus{cpus}" if len(cpus) <= LONGEST_CPUS else f"group{cpu_node}")
        elif cpu_node != mem_node:
            name.append(f"cpu{cpu_node}")
        name += suffixes
        if one.copy:
            name.append("again" if one.copy == 1 else f"again{one.copy}")
        yield one, "_".join(name), "_".join([f"gpu{one.gpu}", model.name, *suffixes])


# The values of some keys that go together.
_Point = dict[str, Any]


def _own(gpus: Sequence[int], placements: Sequence[Placement], models: Sequence[Model]) -> dict[str, list[_Point]]:
    return {
        "gpu_ids": [{"gpu_ids": gpu} for gpu in gpus],
        "placements": [{"placements": placement} for placement in placements],
        "model": _numbered(models),
    }


def _grid(own: dict[str, list[_Point]], axes: Axes) -> list[list[_Point]]:
    zips = [_points_of_zip(zipped) for zipped in axes.zipped]
    zipped = {key for one in axes.zipped for key in one}
    return [*(points for key, points in own.items() if key not in zipped), *_crossed(axes.crossed), *zips]


def _numbered(models: Sequence[Model]) -> list[_Point]:
    seen: dict[Model, int] = {}
    points = []
    for model in models:
        points.append({"model": model, "copy": seen.get(model, 0)})
        seen[model] = seen.get(model, 0) + 1
    return points


def _points_of_zip(zipped: dict[str, tuple[Values, ...]]) -> list[_Point]:
    """One point for each place; several where it has alternatives."""
    points = []
    for places in zip(*zipped.values(), strict=True):
        points += [dict(zip(zipped, values, strict=True)) for values in product(*places)]
    return points


def _crossed(entry: dict[str, Values]) -> list[list[_Point]]:
    return [[{key: value} for value in values] for key, values in entry.items()]


def _product(dimensions: Iterable[list[_Point]], base: Settings) -> Iterator[Combination]:
    for points in product(*dimensions):
        merged: _Point = {}
        for point in points:
            merged |= point
        shape = {key: merged.pop(key) for key in SHAPE if key in merged}
        gpu, placement, model = (merged.pop(key) for key in ("gpu_ids", "placements", "model"))
        copy = merged.pop("copy", 0)
        changes = {key: value for key, value in merged.items() if value != getattr(base, key)}
        if len(shape) == len(SHAPE):
            copy = 0  # the whole shape is given: it identifies the model, whatever the study lists
        yield Combination(gpu, placement, reshaped(model, shape), copy, changes)


def _matches(one: Combination, entry: dict[str, Values], base: Settings) -> bool:
    for key, allowed in entry.items():
        value = one.value(key, base)
        if value not in allowed and not (key == "model" and value.name in allowed):
            return False
    return True


def _check_size(grids: list[list[list[_Point]]], where: str) -> None:
    count = sum(math.prod(len(points) for points in grid) for grid in grids)
    if count > MOST_COMBINATIONS:
        raise StudyError(
            f"{grouped(count)} combinations, allowed are {grouped(MOST_COMBINATIONS)}",
            where,
            "vary less at once, or make several studies of it",
        )
