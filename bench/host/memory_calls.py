"""The kernel's own answers about this process's memory: on which node each page is, and under which policy."""

import ctypes
import os
import random
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ABSENT, UNKNOWN = "absent", "unknown"

# asm/unistd_64.h of x86; asm-generic/unistd.h for arm64.
_CALLS = {
    "x86_64": {"mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239, "move_pages": 279},
    "aarch64": {"mbind": 235, "get_mempolicy": 236, "set_mempolicy": 237, "move_pages": 239},
}
_NUMBERS = _CALLS.get(os.uname().machine, {})
_MODES = ("default", "preferred", "bind", "interleave", "local", "preferred-many", "weighted-interleave")
_MODE_FLAGS = 0xE000  # static nodes, relative nodes, NUMA balancing (linux/mempolicy.h)
_POLICY_OF_ADDRESS = 2  # MPOL_F_ADDR
_MAX_NODES = 4096
_ENOENT, _EFAULT = -2, -14

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter lock: a third of the cost of CDLL for a call that does not block.
sched_getcpu = ctypes.PyDLL(None).sched_getcpu
sched_getcpu.argtypes = ()


def memory_policy(address: int | None = None) -> tuple[str, tuple[int, ...]]:
    """Return (mode, nodes) of the calling thread, or of the mapping at an address ("default": the thread's).

    Raise OSError where the call is forbidden or missing.
    """
    mode = ctypes.c_int(-1)
    mask = (ctypes.c_ulong * (_MAX_NODES // 64))()
    flags = 0 if address is None else _POLICY_OF_ADDRESS
    _call("get_mempolicy", ctypes.byref(mode), mask, ctypes.c_ulong(_MAX_NODES), ctypes.c_void_p(address), flags)
    number = mode.value & ~_MODE_FLAGS
    nodes = tuple(64 * i + bit for i, word in enumerate(mask) for bit in range(64) if word and word >> bit & 1)
    return (_MODES[number] if number < len(_MODES) else f"mode {number}"), nodes


def bind_memory(address: int, nbytes: int, node: int, mode: str = "bind") -> None:
    """Give memory a policy of its own (mbind), whichever thread touches it first; what is there already stays.

    mode: bind, or preferred, under which a full node is no reason to end the process. Raise OSError if forbidden.
    """
    mask = _mask((node,))
    where, length = ctypes.c_void_p(address), ctypes.c_ulong(nbytes)
    _call("mbind", where, length, _MODES.index(mode), mask, ctypes.c_ulong(_MAX_NODES), 0)


def set_policy(mode: str, nodes: tuple[int, ...] = ()) -> None:
    """Set the memory policy of the calling thread and of those that it starts later; no call changes another thread's.

    Raise OSError if forbidden, as for a node outside the cpuset.
    """
    mask = _mask(nodes) if nodes else None
    _call("set_mempolicy", _MODES.index(mode), mask, ctypes.c_ulong(_MAX_NODES if nodes else 0))


@contextmanager
def allocating_on(node: int) -> Iterator[None]:
    """Memory that the calling thread touches first inside is on the node while that has room."""
    before = memory_policy()
    set_policy("preferred", (node,))
    try:
        yield
    finally:
        set_policy(*before)


class PageQuery:
    """The nodes of the pages of one buffer, by move_pages(2) in its query form: it moves nothing.

    address, nbytes: the buffer; a page that it only partly covers counts as one of its pages.
    pid: the process that the address is in, 0: this one. For another one the kernel asks for ptrace access.
    """

    def __init__(self, address: int, nbytes: int, pid: int = 0) -> None:
        self.address, self.nbytes, self.pid = address, nbytes, pid
        self._first = address - address % PAGE_BYTES
        # By stride: a crossing asks for the same ones after every window.
        self._addresses: dict[int, array[int]] = {}
        self.pages = -(-(address + nbytes - self._first) // PAGE_BYTES)

    def count(self, most: int | None = None) -> dict[str, int]:
        """Return pages by node ("0", "1", ...), "absent" (not resident) and "unknown".

        most: query no more pages than this, a random one of each stride: evenly spaced ones miss pages that are
        interleaved over nodes. Raise OSError where the call is forbidden.
        -14 means a page whose node the kernel does not report, not an absent one: automatic NUMA balancing unmaps
        resident pages to see who touches them. A read maps them again, and they are queried once more; pages of
        another process stay "unknown".
        """
        step = -(-self.pages // most) if most else 1
        counts = self._ask(step)
        if counts.get(_EFAULT) and not self.pid:
            self._touch()
            counts = self._ask(step)
        named: dict[str, int] = {}
        for status, pages in sorted(counts.items()):
            name = str(status) if status >= 0 else ABSENT if status == _ENOENT else UNKNOWN
            named[name] = named.get(name, 0) + pages
        return named

    def _ask(self, step: int) -> dict[int, int]:
        if step not in self._addresses:
            end = self.address + self.nbytes
            self._addresses[step] = _page_addresses(self._first, end) if step == 1 else self._sample(step)
        return nodes_of_pages(self._addresses[step], self.pid)

    def _sample(self, step: int) -> "array[int]":
        return sampled_pages(self._first, self.pages, step, random.Random(self.pages))

    def _touch(self) -> None:
        memory = memoryview((ctypes.c_char * self.nbytes).from_address(self.address)).cast("B")
        memory[::PAGE_BYTES].tobytes()


def sampled_pages(first: int, pages: int, step: int, draw: random.Random) -> "array[int]":
    """The address of a random page of each stride of `step` pages; the last stride may be shorter."""
    if step == 1:
        return array("Q", range(first, first + PAGE_BYTES * pages, PAGE_BYTES))
    places = [begin + int(step * draw.random()) for begin in range(0, pages, step)]
    places[-1] = min(places[-1], pages - 1)
    return array("Q", [first + PAGE_BYTES * place for place in places])


def nodes_of_pages(addresses: "array[int]", pid: int = 0) -> dict[int, int]:
    """How many of these pages are on each node; below 0: the kernel's error numbers. Raise OSError if forbidden."""
    return count_values(node_of_each(addresses, pid))


def node_of_each(addresses: "array[int]", pid: int = 0) -> "array[int]":
    """The node of each of these pages, as nodes_of_pages counts them."""
    status: array[int] = array("i", bytes(4 * len(addresses)))
    count = ctypes.c_ulong(len(addresses))
    asked, answers = (ctypes.c_void_p(list_.buffer_info()[0]) for list_ in (addresses, status))
    _call("move_pages", pid, count, asked, None, answers, 0)
    return status


def _mask(nodes: tuple[int, ...]) -> "ctypes.Array[ctypes.c_ulong]":
    mask = (ctypes.c_ulong * (_MAX_NODES // 64))()
    for node in nodes:
        mask[node // 64] |= 1 << node % 64
    return mask


def _page_addresses(first: int, end: int) -> "array[int]":
    # Ten times faster by numpy, where torch has loaded it anyway; too slow to load for this alone.
    if numpy := sys.modules.get("numpy"):
        return array("Q", numpy.arange(first, end, PAGE_BYTES, dtype=numpy.uint64).tobytes())
    return array("Q", range(first, end, PAGE_BYTES))


def count_values(status: "array[int]") -> dict[int, int]:
    """Count the values of an array of 32-bit integers; quick where all are below 256, as node ids are."""
    raw = status.tobytes()
    if all(raw[place::4].count(0) == len(status) for place in (1, 2, 3)):
        low = raw[::4]
        return {value: low.count(value) for value in set(low)}
    return dict(Counter(status))


def _call(name: str, *arguments: object) -> None:
    if name not in _NUMBERS:
        raise OSError(f"{name}: its number on {os.uname().machine} is not known; it is known for {', '.join(_CALLS)}")
    if _libc.syscall(ctypes.c_long(_NUMBERS[name]), *arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
