"""The mappings of a process with their pages by node (/proc/PID/numa_maps), its memory areas (/proc/PID/maps).

The kernel walks all pages for numa_maps, under the lock that the process needs to map memory: 30 to 60 ms per GiB.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bench.records.where import MemoryKind

_HUGETLB = ("/anon_hugepage",)
_PINNED = ("/dev/zero", "[anon_shmem:")
_SHARED = ("/memfd:", "/dev/shm/", "/SYSV")
_OF_THE_KERNEL = ("[vvar]", "[vdso]", "[vsyscall]", "[vvar_vclock]")
# Lines of /proc/PID/maps: addresses, permissions, offset, device, inode, path.
_ACCESSIBLE = re.compile(r"^(\w+)-(\w+) (?!---)\S+ \S+ \S+ \d+ *(.*)$", re.MULTILINE)
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class MappedPages:
    """path: "" if anonymous. pages: resident pages of page_bytes by node."""

    path: str
    huge: bool
    page_bytes: int
    pages: dict[int, int]

    @property
    def kind(self) -> MemoryKind:
        return MemoryKind.HUGE if self.huge else kind_of(self.path)

    @property
    def bytes_by_node(self) -> dict[int, int]:
        return {node: pages * self.page_bytes for node, pages in self.pages.items()}


class Area(NamedTuple):
    """A range of addresses, from /proc/PID/maps."""

    first: int
    end: int
    kind: MemoryKind

    @property
    def bytes(self) -> int:
        return self.end - self.first


def kind_of(path: str) -> MemoryKind:
    """What backs a mapping of this path; "" or a name in brackets: nothing but memory."""
    if path.startswith(_PINNED):
        return MemoryKind.PINNED
    if not path or path.startswith("["):
        return MemoryKind.ANON
    if path.startswith(_HUGETLB):
        return MemoryKind.HUGE
    if path.startswith(_SHARED):
        return MemoryKind.SHARED
    return MemoryKind.DRIVER if path.startswith("/dev/nvidia") else MemoryKind.FILE


def mappings(path: str | os.PathLike[str] = "/proc/self/numa_maps") -> Iterator[MappedPages]:
    """The mappings with resident pages. Raise OSError if the kernel refuses."""
    with open(path, errors="backslashreplace") as lines:
        for line in lines:
            if mapping := parse_mapping(line):
                yield mapping


def resident_bytes(pid: int | str = "self") -> dict[MemoryKind, dict[int, int]]:
    """Resident bytes by kind and node, of every page. Raise OSError if the kernel refuses."""
    found: defaultdict[MemoryKind, Counter[int]] = defaultdict(Counter)
    for mapping in mappings(f"/proc/{pid}/numa_maps"):
        found[mapping.kind].update(mapping.bytes_by_node)
    return by_kind(found)


def by_kind(found: Mapping[MemoryKind, Counter[int]]) -> dict[MemoryKind, dict[int, int]]:
    """Kinds in their order, and nodes by number."""
    return {kind: dict(sorted(found[kind].items())) for kind in MemoryKind if kind in found}


def parse_mapping(line: str) -> MappedPages | None:
    """One line of numa_maps; None if no page is resident."""
    words = line.split()
    file, page_kib, pages = "", 4, {}
    for word in words[2:]:
        key, _, value = word.partition("=")
        if key == "file":
            file = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), value)
        elif key == "kernelpagesize_kB":
            page_kib = int(value)
        elif key[0] == "N" and key[1:].isdigit():
            pages[int(key[1:])] = int(value)
    if not pages:
        return None
    return MappedPages(path=file, huge="huge" in words[2:], page_bytes=page_kib << 10, pages=pages)


def thread_policy(pid: int, thread: int) -> str:
    """The memory policy of a thread: that of the first mapping, the program's text, which has none of its own.

    A short read, so that the kernel walks the first mapping only. Raise OSError if the kernel refuses.
    """
    descriptor = os.open(f"/proc/{pid}/task/{thread}/numa_maps", os.O_RDONLY)
    try:
        words = os.read(descriptor, 64).split()
    finally:
        os.close(descriptor)
    if len(words) < 2:
        raise ProcessLookupError("the thread has no memory")
    return words[1].decode("ascii", "backslashreplace")


def areas(pid: int) -> list[Area]:
    """The areas of a process that may hold pages, without walking pages. Raise OSError if the kernel refuses."""
    hugetlb, kinds = _hugetlb_mounts(), {"": MemoryKind.ANON}
    found = []
    with open(f"/proc/{pid}/maps", errors="backslashreplace") as file:
        # Of programs with tens of thousands of areas, at each look.
        for first, end, path in _ACCESSIBLE.findall(file.read()):
            if path not in kinds:
                kinds[path] = MemoryKind.HUGE if path.startswith(hugetlb) else kind_of(path)
            if path not in _OF_THE_KERNEL:
                found.append(Area(int(first, 16), int(end, 16), kinds[path]))
    return found


def _hugetlb_mounts() -> tuple[str, ...]:
    try:
        with open("/proc/self/mounts", errors="backslashreplace") as lines:
            return tuple(f"{words[1]}/" for words in map(str.split, lines) if words[2] == "hugetlbfs")
    except OSError:
        return ()
