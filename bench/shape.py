"""The shape of stored JSON, declared as values: what is not as this version writes it is said in one line.

A shape is a Kind, a mapping of keys to shapes (other keys are not looked at), a list with the shape of its items, or
one of these in Each, OneOf or Must. Whatever is not in Must may be absent or null.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# What may become part of a path, whoever wrote it: no separator, not hidden, not "..".
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+=-]{0,254}")
LARGEST = 1e18
LARGEST_JSON_BYTES = 256 << 20


@dataclass(frozen=True)
class Kind:
    """What a value is called, and whether it is one."""

    name: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """A mapping of whatever keys to values of one shape."""

    value: Any


@dataclass(frozen=True)
class OneOf:
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Must:
    """There, and not null."""

    value: Any


def _is_number(value: Any) -> bool:
    # Neither infinite nor so large that arithmetic with it is.
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


ANY = Kind("anything", lambda value: True)
TEXT = Kind("a text", lambda value: isinstance(value, str) and _encodes(value))
TEXTS = Kind("a text or a list of texts", lambda value: isinstance(value, str) or _all_text(value))
NUMBER = Kind("a number", _is_number)
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
COUNT = Kind("a count", lambda value: _is_number(value) and isinstance(value, int))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
PLAIN = Kind("a text, a number, true or false", lambda value: isinstance(value, str | bool) or _is_number(value))
NAME = Kind("a name", lambda value: isinstance(value, str) and PLAIN_NAME.fullmatch(value) is not None)


def misfit(value: Any, shape: Any, where: str = "") -> str | None:
    """The first place where value is not of that shape, or None."""
    match shape:
        case Must():
            return f"{where or 'it'} is missing" if value is None else misfit(value, shape.value, where)
        case _ if value is None:
            return None
        case Kind():
            return None if shape.fits(value) else f"{where} is {_found(value)}, not {shape.name}"
        case OneOf():
            known = any(value == each and type(value) is type(each) for each in shape.values)
            return None if known else f"{where} is {_found(value)}, not one of {', '.join(map(str, shape.values))}"
        case list():
            if not isinstance(value, list):
                return f"{where} is {_found(value)}, not a list"
            return _first(misfit(item, shape[0], f"{where}[{index}]") for index, item in enumerate(value))
        case Each() | Mapping():
            if not isinstance(value, dict):
                return f"{where or 'it'} is {_found(value)}, not a mapping"
            inner = dict.fromkeys(value, shape.value) if isinstance(shape, Each) else shape
            keys = ((key, f"{where}.{key}" if where else str(key)) for key in inner)
            return _first(misfit(value.get(key), inner[key], place) for key, place in keys)
    raise TypeError(f"no shape: {shape!r}")


def parse(raw: bytes, shape: Any) -> dict[str, Any] | str:
    """The JSON of that shape, or what is wrong with it. NaN and infinities, which are no JSON, become null."""
    if len(raw) > LARGEST_JSON_BYTES:
        return f"larger than {LARGEST_JSON_BYTES} bytes"
    try:
        value = json.loads(raw, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return f"not valid JSON: {error}"
    if not isinstance(value, dict):
        return f"not a record but a {type(value).__name__}"
    if b"\\ud" in raw.lower() and not _encodes(value):
        return "a text in it is no Unicode"
    wrong = misfit(value, shape)
    return f"a damaged record: {wrong}" if wrong else value


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _encodes(value: Any) -> bool:
    """Half of a surrogate pair passes for a character in JSON, and in no file."""
    try:
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _all_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _first(found: Any) -> str | None:
    return next((each for each in found if each), None)


def _found(value: Any) -> str:
    return f"{value!r:.40}" if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"
