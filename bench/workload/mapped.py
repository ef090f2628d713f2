"""Host memory that this process maps itself: page-aligned, on request in transparent huge pages."""

import ctypes
import mmap
import weakref
from collections.abc import Callable
from pathlib import Path

import torch

from bench.workload.failures import NOT_RUNNABLE, RunFailure

MADV_COLLAPSE = 25
"""Linux 6.1: make huge pages of what is there, now (asm-generic/mman-common.h)."""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


def map_memory(
    nbytes: int,
    alignment: int = mmap.PAGESIZE,
    prepare: Callable[[mmap.mmap], None] | None = None,
    on_release: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """nbytes of normal memory as bytes, zeroed, so that every page is there.

    prepare(mapping) comes before the first touch, on_release(address) before the memory goes back.
    """
    mapping = mmap.mmap(-1, nbytes + alignment, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    offset = -address_of(mapping) % alignment
    if prepare:
        prepare(mapping)
    # An owner of its own for the tensor: `mapping` is still mapped when on_release is called.
    owner = (ctypes.c_ubyte * nbytes).from_buffer(mapping, offset)
    memory = torch.frombuffer(owner, dtype=torch.uint8)
    memory.zero_()
    weakref.finalize(owner, _release, mapping, memory.data_ptr(), on_release).atexit = False
    return memory


def map_huge(nbytes: int, on_release: Callable[[int], None] | None = None) -> torch.Tensor:
    """The first nbytes of a whole number of huge pages. Raise RunFailure (not_runnable) unless all of it is huge."""
    page = huge_page_bytes()
    length = -(-nbytes // page) * page
    memory = map_memory(length, page, _ask_for_huge, on_release)
    found = huge_bytes(memory.data_ptr(), length)
    if found < length:
        # Where free memory is in pieces the kernel gave small pages; asked so, it moves others out of the way.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(memory.data_ptr()), ctypes.c_size_t(length), MADV_COLLAPSE)
        found = huge_bytes(memory.data_ptr(), length)
    if found < length:
        raise RunFailure(
            NOT_RUNNABLE,
            f"host_memory huge: the kernel gave {found >> 20} of {length >> 20} MiB in huge pages",
            "free memory, or compact it (echo 1 > /proc/sys/vm/compact_memory), or set host_memory to registered",
        )
    return memory[:nbytes]


def huge_page_bytes() -> int:
    """Raise RunFailure (not_runnable) where the kernel has no transparent huge pages, or must not give any."""
    try:
        enabled = (HUGE_PAGES / "enabled").read_text().strip()
        size = int((HUGE_PAGES / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        enabled, size = "", 0
    if size and "[never]" not in enabled:
        return size
    raise RunFailure(
        NOT_RUNNABLE,
        f"host_memory huge: transparent huge pages are {f'set to {enabled}' if size else 'missing in this kernel'}",
        f"echo madvise > {HUGE_PAGES}/enabled, or set host_memory to pinned",
    )


def huge_bytes(address: int, nbytes: int, smaps: Path = Path("/proc/self/smaps")) -> int:
    """Bytes in transparent huge pages of the mappings that an address range lies in (AnonHugePages), nbytes at most."""
    found, inside = 0, False
    with open(smaps) as lines:
        for line in lines:
            name, _, value = line.partition(" ")
            if not name.endswith(":"):
                start, end = (int(part, 16) for part in name.split("-"))
                inside = start < address + nbytes and address < end
            elif inside and name == "AnonHugePages:":
                found += int(value.split()[0]) * 1024
    return min(found, nbytes)


def address_of(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(mapping))


def _ask_for_huge(mapping: mmap.mmap) -> None:
    mapping.madvise(mmap.MADV_HUGEPAGE)


def _release(mapping: mmap.mmap, address: int, on_release: Callable[[int], None] | None) -> None:
    if on_release:
        on_release(address)
