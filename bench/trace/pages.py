"""Integer columns straight from the pages of an SQLite file, a thousand rows at a time.

Through SQL every value becomes a Python object: a trace of a million activities takes seconds to open. The pages of a
plain table are simple enough to be decoded by numpy (https://sqlite.org/fileformat2.html, sections 1.6 and 2.1).
Whatever is not that simple is left to SQLite: rows longer than a page, long texts before a wanted column, rows older
than their last column. Then, and on any sign of damage, `read_columns` gives None and SQL is asked instead.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NULL = -(2**63)

INTERIOR, LEAF = 5, 13
CELLS_AT_ONCE = 1 << 15
MOST_COLUMNS = 126  # so that the length of a row's header is one byte

# Bytes of the body by serial type, for types of one byte; 10 and 11 never occur.
_SIZES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0, *((kind - 12) // 2 for kind in range(12, 128))], np.int64)
_INTEGER = np.isin(np.arange(256), [0, 1, 2, 3, 4, 5, 6, 8, 9])
# Of an integer of n bytes read as the first of 8: what is behind it is shifted out, the sign comes with it.
_SHIFTS = np.array([0, 56, 48, 40, 32, 16, 0, *[0] * 249], np.int64)
_CONSTANTS = {0: NULL, 8: 0, 9: 1}

Bytes = NDArray[np.uint8]


class _NotSimple(Exception):
    """Left to SQLite."""


def read_columns(path: Path, root_page: int, width: int, wanted: Sequence[int]) -> list[NDArray[np.int64]] | None:
    """Columns `wanted` (indices among the `width` stored ones) in rowid order, NULL as NULL; None: ask SQLite.

    The table must be a rowid table without an INTEGER PRIMARY KEY and without generated columns.
    """
    try:
        if width > MOST_COLUMNS:
            return None
        with path.open("rb") as file:
            image = _Image(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return image.columns(root_page, width, wanted)
    except (_NotSimple, IndexError, ValueError, OSError):
        return None


class _Image:
    """The file, readable at every byte offset as a big-endian number of 1, 2, 4 or 8 bytes."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self.u8 = data = np.frombuffer(mapped, np.uint8)
        self.u16, self.u32, self.i64 = (_at_every_byte(data, kind) for kind in (">u2", ">u4", ">i8"))
        self.page_size = int(self.u16[16]) if self.u16[16] != 1 else 65536
        self.usable = self.page_size - int(data[20])
        if self.page_size < 512:
            raise _NotSimple

    def columns(self, root_page: int, width: int, wanted: Sequence[int]) -> list[NDArray[np.int64]]:
        leaves = self._leaves(root_page)
        counts = self.u16[leaves + 3].astype(np.int64)
        result = [np.empty(int(counts.sum()), np.int64) for _ in wanted]
        done = 0
        at_once = max(1, CELLS_AT_ONCE // max(1, int(counts.max(initial=1))))
        for first in range(0, len(leaves), at_once):
            cells = self._cells(leaves[first : first + at_once], counts[first : first + at_once])
            for column, values in zip(result, self._values(cells, width, wanted), strict=True):
                column[done : done + len(cells)] = values
            done += len(cells)
            # What was read may go: else the whole file would count as memory of this process.
            self._mapped.madvise(mmap.MADV_DONTNEED)
        return result

    def _leaves(self, root_page: int) -> NDArray[np.int64]:
        """Offsets of the leaf pages, in order."""
        level, pages = np.array([root_page], np.int64), len(self.u8) // self.page_size
        for _ in range(20):
            if not len(level) or level.min() < 2 or level.max() > pages or len(level) > pages:
                raise _NotSimple
            offsets = (level - 1) * self.page_size
            kinds = self.u8[offsets]
            if (kinds == LEAF).all():
                return offsets
            if not (kinds == INTERIOR).all():
                raise _NotSimple
            children = []
            for offset in offsets.tolist():
                count = int(self.u16[offset + 3])
                cells = offset + self.u16[offset + 12 + 2 * np.arange(count)].astype(np.int64)
                children += [self.u32[cells], self.u32[offset + 8 : offset + 9]]
            level = np.concatenate(children).astype(np.int64)
        raise _NotSimple

    def _cells(self, leaves: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Offsets of the cells of some leaf pages, in order."""
        page = np.repeat(leaves, counts)
        number = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
        return page + self.u16[page + 8 + 2 * number]

    def _values(self, cells: NDArray[np.int64], width: int, wanted: Sequence[int]) -> list[NDArray[np.int64]]:
        payload, header = self._varint(cells)
        _, header = self._varint(header)
        # Beyond this length a part of the row lies on overflow pages.
        if len(cells) and (payload.max() > self.usable - 35 or (self.u8[header] != width + 1).any()):
            raise _NotSimple
        body, found = header + width + 1, {}
        for column in range(max(wanted, default=-1) + 1):
            kind = self.u8[header + 1 + column]
            if (kind > 127).any():
                raise _NotSimple
            if column in wanted:
                found[column] = self._integers(kind, body)
            body = body + _SIZES[kind]
        return [found[column] for column in wanted]

    def _integers(self, kind: Bytes, body: NDArray[np.int64]) -> NDArray[np.int64]:
        if not _INTEGER[kind].all():
            raise _NotSimple
        values = self._eight_bytes(body) >> _SHIFTS[kind]
        for constant, value in _CONSTANTS.items():
            same = kind == constant
            if same.any():
                values[same] = value
        return values

    def _eight_bytes(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        last = len(self.i64) - 1
        if not len(place) or place.max() <= last:
            return self.i64[place].astype(np.int64)
        # The last integer of a file may begin less than 8 bytes before its end.
        beyond = np.maximum(place - last, 0)
        if beyond.max() > 8:
            raise _NotSimple
        return self.i64[place - beyond].astype(np.int64) << 8 * np.minimum(beyond, 7)

    def _varint(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(values, places behind them); of more than 8 bytes only negative numbers are made, which do not occur."""
        value = np.zeros(len(place), np.int64)
        more = np.ones(len(place), bool)
        for _ in range(9):
            byte = self.u8[place]
            value = np.where(more, value << 7 | byte & 0x7F, value)
            place = place + more
            more &= byte > 127
            if not more.any():
                return value, place
        raise _NotSimple


def _at_every_byte(data: Bytes, kind: str) -> NDArray[np.generic]:
    size = np.dtype(kind).itemsize
    return np.ndarray((max(0, len(data) - size + 1),), kind, data, strides=(1,))
