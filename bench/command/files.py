"""The large files that a command reads: which they are, and how much of them is in the page cache of which node.

Pages of the cache stay on the node of whoever read them first, so that a command on another node reads a distant copy;
and the run that finds none waits for the storage. Both look like an effect of placement.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress

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


class Files:
    """Those that `evict` names, and those that processes were seen with."""

    def __init__(self, command: Command) -> None:
        self._paths: dict[tuple[int, int], tuple[int, str]] = {}
        for path in evicted_names(command):
            with suppress(OSError):
                self._add(path, os.stat(path))

    def see(self, pids: Iterable[int]) -> None:
        """Note the files that processes have open or mapped now. Programs and libraries are none of them."""
        for pid in pids:
            with suppress(OSError):
                for path, found in (*_opened(pid), *_mapped(pid)):
                    self._add(path, found)

    def cached(self) -> tuple[CachedFile, ...]:
        """Their pages in the cache now; files of which the kernel does not tell are left out."""
        largest = sorted(self._paths.values(), reverse=True)[:MOST]
        return tuple(filter(None, (_cached(path) for _, path in largest)))

    def _add(self, path: str, found: os.stat_result) -> None:
        large = stat.S_ISREG(found.st_mode) and found.st_size >= LEAST_BYTES
        if large and kind_of(path) is MemoryKind.FILE:
            self._paths.setdefault((found.st_dev, found.st_ino), (found.st_size, path))


def _opened(pid: int) -> Iterator[tuple[str, os.stat_result]]:
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            name = f"/proc/{pid}/fd/{descriptor}"
            yield os.readlink(name), os.stat(name)


def _mapped(pid: int) -> Iterator[tuple[str, os.stat_result]]:
    paths: dict[str, bool] = {}
    with open(f"/proc/{pid}/maps", errors="surrogateescape") as lines:
        for line in lines:
            _, permissions, _, _, _, *rest = line.rstrip("\n").split(maxsplit=5)
            if rest and rest[0].startswith("/"):
                paths[rest[0]] = paths.get(rest[0], False) or "x" in permissions
    for path, is_program in paths.items():
        with suppress(OSError):
            if not is_program:
                yield path, os.stat(f"/proc/{pid}/root{path}")


def _cached(path: str) -> CachedFile | None:
    # It may be gone, or of a container's own file system.
    with suppress(OSError):
        size = os.stat(path).st_size
        if found := cached_by_node(path):
            name = os.fsencode(path).decode(errors="backslashreplace")
            return CachedFile(path=name, bytes=size, cached_bytes=found[0], cached_by_node=found[1])
    return None
