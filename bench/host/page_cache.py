"""How much of a file is in the page cache, and on which nodes, from a sample of its pages. Nothing is read for it."""

import ctypes
import mmap
import os
import random
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.host.memory_calls import PAGE_BYTES, nodes_of_pages, sampled_pages
from bench.storage import open_regular

SAMPLE_PAGES = 2048
_MAP_FAILED = ctypes.c_void_p(-1).value
_MADV_POPULATE_READ = 22  # Linux 5.14; a page that is gone gives an error, and no signal as reading it would

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)


def cached_by_node(path: Path | str) -> tuple[int, dict[int, int]] | None:
    """(bytes of a regular file in the page cache, the same by node); None where the kernel does not report it.

    It reports to owners and those that may write the file; to others mincore(2) calls every page resident. {}: the
    nodes are unknown, as before Linux 5.14. Raise OSError as open_regular.
    """
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if not status.st_size or not (status.st_uid == os.geteuid() or os.access(path, os.W_OK)):
            return None
        with _mapped(file.fileno(), status.st_size) as address:
            resident, sampled, nodes = _sampled(address, status.st_size)
    by_node = {node: status.st_size * pages // sampled for node, pages in sorted(nodes.items())}
    return status.st_size * resident // sampled, by_node


@contextmanager
def _mapped(descriptor: int, nbytes: int) -> Iterator[int]:
    """The address of a mapping of a file. Python's own mmap gives none of a mapping that may only be read."""
    address = _libc.mmap(None, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        yield address
    finally:
        _libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))


def _sampled(address: int, nbytes: int) -> tuple[int, int, Counter[int]]:
    """(resident pages, sampled pages, resident ones by node), a random page of each stride."""
    pages = -(-nbytes // PAGE_BYTES)
    sampled = sampled_pages(address, pages, -(-pages // SAMPLE_PAGES), random.Random(pages))
    resident = [page for page in sampled if _is_resident(page)]
    mapped = [page for page in resident if _madvise(page, _MADV_POPULATE_READ)]
    nodes: Counter[int] = Counter()
    with suppress(OSError):
        found = nodes_of_pages(array("Q", mapped)) if mapped else {}
        nodes.update({node: count for node, count in found.items() if node >= 0})
    return len(resident), len(sampled), nodes


def _is_resident(page: int) -> bool:
    answer = ctypes.c_ubyte()
    asked = _libc.mincore(ctypes.c_void_p(page), ctypes.c_size_t(PAGE_BYTES), ctypes.byref(answer))
    return asked == 0 and bool(answer.value & 1)


def _madvise(page: int, advice: int) -> bool:
    return bool(_libc.madvise(ctypes.c_void_p(page), ctypes.c_size_t(PAGE_BYTES), advice) == 0)
