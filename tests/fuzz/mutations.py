"""Damage: to bytes, and to JSON that stays JSON. Seeded, so that a case can be made again."""

import json
import random
from typing import Any

# What hurts: wrong kinds, numbers without an end, names that lead elsewhere, markup, deep and empty things.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, 2**63, -(2**63), 10**400, float("nan"), float("inf"), "", " ", "0",
    "nan", "../../../../etc/passwd", "/etc/passwd", "..", "a/b", "a\\b", "C:\\x", "x\x00y", "\ud800", "\u202e\u0000",
    "<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "%s%n", "=1+1",
    "javascript:alert(1)", "z" * 5000, [], {}, [[]], [None], {"": None}, {"a": {"b": {"c": [1, 2, {"d": []}]}}},
    ["x"] * 300, "2026-11-22T18:00:00+00:00", "9999-99-99",
)  # fmt: skip
WORDS = (
    b"", b"\x00", b"\xff" * 8, b"SQLite format 3\x00", b"\x1f\x8b", b"{", b"[" * 200, b"- " * 300, b"&a", b"*a",
    b"1e999", b"!!python/object/apply:os.system [id]", b"-", b": ", b"\n", b"\t", b"NaN", b"test_batch_0",
    b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00",
)  # fmt: skip


def mutate_bytes(data: bytes, noise: random.Random) -> bytes:
    """One to four of: a bit, a byte, a cut, a copy, a swap, a word."""
    raw = bytearray(data)
    for _ in range(noise.randint(1, 4)):
        place = noise.randrange(len(raw) + 1)
        match noise.randrange(7):
            case 0 if raw:
                raw[place % len(raw)] ^= 1 << noise.randrange(8)
            case 1 if raw:
                raw[place % len(raw)] = noise.choice((0, 1, 0x7F, 0x80, 0xFF, noise.randrange(256)))
            case 2:
                del raw[place : place + noise.choice((1, 2, 16, 1000, len(raw)))]
            case 3:
                raw[place:place] = raw[place : place + noise.choice((1, 4, 64, 5000))]
            case 4:
                raw[place : place + 4] = noise.randbytes(4)
            case 5:
                raw[place:place] = noise.choice(WORDS)
            case 6:
                word = noise.choice(WORDS)
                raw[place : place + len(word)] = word
    return bytes(raw[: 4 * len(data) + 4096])


def mutate_json(value: Any, noise: random.Random) -> Any:
    """A copy with one to three values replaced, removed, doubled, or put elsewhere."""
    made = json.loads(json.dumps(value))
    for _ in range(noise.randint(1, 3)):
        places = list(_places(made))
        if not places:
            return noise.choice(HOSTILE)
        holder, key = noise.choice(places)
        match noise.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}2"] = holder[key]
                del holder[key]
            case 2:
                other, other_key = noise.choice(places)
                holder[key] = json.loads(json.dumps(other[other_key])) if other_key in _keys(other) else None
            case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] *= noise.choice((-1, 0, 10**9, 1e-9))
            case 4 if isinstance(holder[key], list) and holder[key]:
                holder[key] = holder[key] * 3
            case _:
                holder[key] = noise.choice(HOSTILE)
    return made


def _places(value: Any) -> Any:
    """(holder, key) of every value inside."""
    for key in _keys(value):
        yield value, key
        yield from _places(value[key])


def _keys(value: Any) -> Any:
    return list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
