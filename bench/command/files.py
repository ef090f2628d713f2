"""The large files that a command reads: which they are, and how much of them is in the page cache of which node.

Pages of the cache stay on the node of whoever read them first, so that a command on another node reads a distant copy;
and the run that finds none waits for the storage. Both look like an effect of placement.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import FileIO

from bench.command.arguments import evicted_names
from bench.host.numa_maps import kind_of
from bench.host.page_cache import cached_by_node
from bench.records.command import Command
from bench.records.run import CachedFile
from bench.records.where import MemoryKind

LEAST_BYTES = 64 << 20
"""Smaller files decide nothing."""
MOST = 32
"""The largest ones are recorded."""


# What opens a file, and its path as the kernel names it: in a container that may be another file of the host.
_Seen = tuple[str, str]


class Files:
    """Those that `evict` names, and those that processes were seen with: open, so that no path is looked up later."""

    def __init__(self, command: Command) -> None:
        self._held: dict[tuple[int, int], tuple[int, str, FileIO]] = {}
        self._add((path, path) for path in evicted_names(command))

    def see(self, pids: Iterable[int]) -> None:
        """Note the files that processes have open or mapped now. Programs and libraries are none of them."""
        for pid in pids:
            with suppress(OSError):
                self._add(_opened(pid))
                self._add(_mapped(pid))

    def cached(self) -> tuple[CachedFile, ...]:
        """Their pages in the cache now, and the end of it; files of which the kernel does not tell are left out."""
        found = [_cached(path, file) for _, path, file in self._held.values()]
        self._keep(0)
        return tuple(filter(None, found))

    def _add(self, seen: Iterable[_Seen]) -> None:
        for place, path in seen:
            # Gone meanwhile, or not to be read by this user. A device is not opened: that may wake it.
            with suppress(OSError):
                found = os.stat(place)
                key = found.st_dev, found.st_ino
                if stat.S_ISREG(found.st_mode) and found.st_size >= self._least_bytes and key not in self._held:
                    file = FileIO(os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                    self._held[key] = found.st_size, path, file
                    # A command may have more files than this process may open.
                    self._keep(MOST)

    @property
    def _least_bytes(self) -> int:
        """Of a file that may be among the largest."""
        return LEAST_BYTES if len(self._held) < MOST else 1 + min(size for size, _, _ in self._held.values())

    def _keep(self, most: int) -> None:
        """The largest of them."""
        largest = sorted(self._held.items(), key=lambda held: -held[1][0])
        for _, (_, _, file) in largest[most:]:
            file.close()
        self._held = dict(largest[:most])


def _opened(pid: int) -> Iterator[_Seen]:
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            place = f"/proc/{pid}/fd/{descriptor}"
            path = os.readlink(place)
            if kind_of(path) is MemoryKind.FILE:
                yield place, path


def _mapped(pid: int) -> Iterator[_Seen]:
    areas: dict[str, str] = {}
    programs: set[str] = set()
    # In one mount namespace paths are as this process sees them, whatever the root of the other one; else root only
    # can open what is mapped.
    own_mounts = os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    with open(f"/proc/{pid}/maps", errors="surrogateescape") as lines:
        for line in lines:
            if "/" not in line:
                continue
            area, permissions, _, _, _, *rest = line.rstrip("\n").split(maxsplit=5)
            if rest and kind_of(rest[0]) is MemoryKind.FILE:
                areas[rest[0]] = area
                if "x" in permissions:
                    programs.add(rest[0])
    for path, area in areas.items():
        if path not in programs:
            yield path if own_mounts else f"/proc/{pid}/map_files/{area}", path


def _cached(path: str, file: FileIO) -> CachedFile | None:
    with suppress(OSError):
        status, found = os.fstat(file.fileno()), cached_by_node(f"/proc/self/fd/{file.fileno()}")
        if found:
            return CachedFile(
                path=os.fsencode(path).decode(errors="backslashreplace"),
                bytes=status.st_size,
                cached_bytes=found[0],
                cached_by_node=found[1],
                elsewhere=not _is_at(path, status),
            )
    return None


def _is_at(path: str, status: os.stat_result) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.stat(path), status)
    return False
