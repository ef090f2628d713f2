"""What a study varies: axes that are crossed, lists that go together, combinations left out and added."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench.errors import StudyError
from bench.study.model import Model, parse_model
from bench.study.settings import AXIS_KEYS, SETTINGS, check_keys
from bench.study.values import not_json, read_id, read_list, read_placement

Values = tuple[Any, ...]
# These take the place of the study's own list; what is left after folding them in are settings and shapes.
FOLDED = ("gpu_ids", "placements", "model")


@dataclass(frozen=True)
class Axes:
    """Values by key: gpu_ids (int), placements (CPU node, memory node), model (Model), parts of a shape, settings.

    crossed: every value with every other. zipped: the n-th values of each key together; at each place stands a
    tuple of alternatives. exclude: a combination that matches all keys of one of these is dropped. include: added.
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
        """The same without these axes; of lists that go together the others stay."""
        gone = set(keys)
        left = ({key: values for key, values in zipped.items() if key not in gone} for zipped in self.zipped)
        crossed = {key: values for key, values in self.crossed.items() if key not in gone}
        return replace(self, crossed=crossed, zipped=tuple(zipped for zipped in left if zipped))

    def as_json(self) -> dict[str, Any]:
        """As a study file would say it; only what is there."""
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
    """From the keys axes, zip, exclude and include; at: where a key stands. Raise StudyError naming the value."""
    return Axes(
        crossed=read_crossed(values.get("axes"), at("axes")),
        zipped=tuple(_read_zip(one, f"{at('zip')}[{index}]") for index, one in enumerate(_optional(values, "zip", at))),
        exclude=tuple(
            _read_match(one, f"{at('exclude')}[{index}]", read_named)
            for index, one in enumerate(_optional(values, "exclude", at))
        ),
        include=tuple(
            _read_match(one, f"{at('include')}[{index}]", parse_model)
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


def read_crossed(value: Any, where: str) -> dict[str, Values]:
    """{key: values}; equal values are kept once, models excepted. The whole value of a place may be "all"."""
    crossed: dict[str, Values] = {}
    for key, items in ({} if value is None else _mapping(value, where)).items():
        if items == "all" and key in ("gpu_ids", "numa_nodes"):
            found: Values | str = "all"
        else:
            listed = enumerate(read_list(items, f"{where}.{key}"))
            found = tuple(atom for i, item in listed for atom in _atoms(key, item, f"{where}.{key}[{i}]", parse_model))
            found = found if axis_key(key) == "model" else tuple(dict.fromkeys(found))
        crossed[axis_key(key)] = found
    return crossed


def read_named(value: Any, where: str) -> "Model | str":
    """A model to look for: with its heads if they are given, else by its name."""
    model = parse_model(value, where)
    return model if isinstance(value, Mapping) and "heads" in value else model.name


def _read_zip(value: Any, where: str) -> dict[str, tuple[Values, ...]]:
    zipped: dict[str, tuple[Values, ...]] = {}
    for key, items in _mapping(value, where).items():
        places = enumerate(read_list(items, f"{where}.{key}"))
        zipped[axis_key(key)] = tuple(_atoms(key, item, f"{where}.{key}[{i}]", parse_model) for i, item in places)
    lengths = {key: len(places) for key, places in zipped.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise StudyError(f"lists that vary together are equally long: {told}", where, "give each the same length")
    return zipped


def _read_match(value: Any, where: str, read_model: Callable[[Any, str], Any]) -> dict[str, Values]:
    return {
        axis_key(key): _atoms(key, item, f"{where}.{key}", read_model) for key, item in _mapping(value, where).items()
    }


def _atoms(key: str, value: Any, where: str, read_model: Callable[[Any, str], Any]) -> Values:
    """The values that `value` stands for: itself, or each one of a list."""
    several = isinstance(value, list | tuple)
    if key == "placements" and several and value and not isinstance(value[0], list | tuple):
        several = False  # a single [CPU node, memory node]
    if several:
        listed = enumerate(read_list(value, where))
        return tuple(_atom(key, item, f"{where}[{index}]", read_model) for index, item in listed)
    return (_atom(key, value, where, read_model),)


def _atom(key: str, value: Any, where: str, read_model: Callable[[Any, str], Any]) -> Any:
    if key == "placements":
        return read_placement(value, where)
    if key == "numa_nodes":
        return (read_id(value, where),) * 2
    if key in ("model", "models"):
        return read_model(value, where)
    if key not in SETTINGS:
        return read_id(value, where)
    read = SETTINGS[key].read(value, where)
    if read == "auto":
        named = ", ".join(choice for choice in SETTINGS[key].choices if choice != "auto")
        raise StudyError("auto is no value of an axis", where, f"name what it stands for: {named}")
    return read


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StudyError(f"found {value!r}, allowed is a mapping of keys to values", where, not_json(value))
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
        return {"model": value.name, "heads": value.heads}
    return list(value) if isinstance(value, tuple) else value


def _single(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values
