"""What every stored record shares: limited types, how a record is read, and the error for one that cannot be.

Records are read once, where a file is opened, and are plain immutable values from there on.
Unknown keys are ignored; a missing optional key takes its default.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from bench.storage import LARGEST_JSON_BYTES, read_regular

# Neither infinite nor so large that arithmetic with it overflows to infinity.
_LARGEST = 1e18
LARGEST_RECORD_BYTES = LARGEST_JSON_BYTES

Count = Annotated[int, Meta(ge=0, lt=10**18)]
AtLeastOne = Annotated[int, Meta(ge=1, lt=10**18)]
Number = Annotated[float, Meta(gt=-_LARGEST, lt=_LARGEST)]
Positive = Annotated[float, Meta(gt=0, lt=_LARGEST)]
# What may become part of a path, whoever wrote it: no separator, not hidden, not "..".
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,+=-]{0,254}(?!\n)$")]
# The index of a timed run of a cell, or the traced one.
Repeat = Annotated[int, Meta(ge=1, lt=1_000_000)] | Literal["traced"]


class Direction(StrEnum):
    """Of copies: host to device, device to host, or both at once."""

    H2D = "h2d"
    D2H = "d2h"
    BOTH = "both"


class Record(Struct, frozen=True, kw_only=True):
    """The base of all stored records. msgspec does not inherit kw_only, so each subclass names both options."""


class DamagedRecord(Exception):
    """A stored record that this version did not write; the message says where, as `$.result.windows[3].batches`."""


Kind = TypeVar("Kind")


def decode(raw: bytes, kind: type[Kind]) -> Kind:
    """The record in JSON text. Raise DamagedRecord."""
    if len(raw) > LARGEST_RECORD_BYTES:
        raise DamagedRecord(f"larger than {LARGEST_RECORD_BYTES} bytes")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedRecord(str(error)) from None


def read(path: Path, kind: type[Kind]) -> Kind:
    """The record in a file. Raise DamagedRecord, or OSError where the file cannot be read."""
    return decode(read_regular(path, LARGEST_RECORD_BYTES), kind)


def convert(value: Any, kind: type[Kind]) -> Kind:
    """The record in plain values, as YAML or SQLite give them. Raise DamagedRecord."""
    try:
        return msgspec.convert(value, type=kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise DamagedRecord(str(error)) from None


def plain(record: Any) -> Any:
    """A record as dicts, lists, texts and numbers, as JSON holds them."""
    return msgspec.to_builtins(record)
