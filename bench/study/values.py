"""Lists, ids and places of a study file, each read with the place it stands at."""

import json
from typing import Any

from bench.errors import StudyError

Placement = tuple[int, int]


def not_json(value: Any) -> str:
    """What to do about a text that was meant as JSON and could not be read as that; "" for anything else."""
    meant = isinstance(value, str) and value.lstrip().startswith(("[", "{"))
    return "this is no JSON: look at brackets and quotes; words stand in double quotes" if meant else ""


def read_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        found = json.dumps(value, default=str)
        advice = not_json(value) or (f"write [{found}]" if isinstance(value, str | int | float) else "")
        raise StudyError(f"found {found}, allowed is a list", where, advice)
    if not value:
        raise StudyError("an empty list: nothing would be measured", where, "name at least one value")
    return list(value)


def read_id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 4096:
        raise StudyError(f"found {json.dumps(value, default=str)}, allowed is a whole number from 0 up", where)
    return value


def read_ids(value: Any, where: str) -> tuple[int, ...] | str:
    """Ids without a double, or "all"."""
    if value == "all":
        return "all"
    if not isinstance(value, list | tuple):
        found = json.dumps(value, default=str)
        raise StudyError(f"found {found}, allowed is a list, or all", where, not_json(value) or "for example [0, 1]")
    ids = tuple(read_id(item, f"{where}[{index}]") for index, item in enumerate(read_list(value, where)))
    if len(set(ids)) != len(ids):
        raise StudyError(f"found {list(ids)}, where an id stands twice", where, "name each once")
    return ids


def read_placement(value: Any, where: str) -> Placement:
    """[CPU node, memory node]."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise StudyError(f"found {json.dumps(value, default=str)}, allowed is [CPU node, memory node]", where)
    return read_id(value[0], f"{where}[0]"), read_id(value[1], f"{where}[1]")


def read_placements(value: Any, where: str) -> tuple[Placement, ...]:
    pairs = [read_placement(pair, f"{where}[{index}]") for index, pair in enumerate(read_list(value, where))]
    if len(set(pairs)) != len(pairs):
        raise StudyError("a placement stands twice", where, "name each once")
    return tuple(pairs)
