import ctypes
import mmap
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.host.memory_calls import PAGE_BYTES, PageQuery, count_values, memory_policy, sched_getcpu

PAGES = 64


def mapped(flags: int) -> tuple[mmap.mmap, int]:
    memory = mmap.mmap(-1, PAGES * PAGE_BYTES, flags=flags | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages, which would have pages that were not written
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


@pytest.fixture(params=[mmap.MAP_PRIVATE, mmap.MAP_SHARED], ids=["private", "shared"])
def memory(request: pytest.FixtureRequest) -> Iterator[tuple[mmap.mmap, int]]:
    yield mapped(request.param)


def test_written_pages_lie_on_some_node(memory: tuple[mmap.mmap, int]) -> None:
    ctypes.memset(memory[1], 1, PAGES * PAGE_BYTES)
    counts = PageQuery(memory[1], PAGES * PAGE_BYTES).count()
    assert sum(counts.values()) == PAGES and all(node.isdigit() for node in counts)


def test_untouched_pages_are_absent(memory: tuple[mmap.mmap, int]) -> None:
    ctypes.memset(memory[1], 1, 3 * PAGE_BYTES)
    counts = PageQuery(memory[1], PAGES * PAGE_BYTES).count()
    assert sum(counts.values()) == PAGES
    assert sum(pages for node, pages in counts.items() if node.isdigit()) == 3


def test_read_but_unwritten_pages_are_never_called_placed() -> None:
    memory, address = mapped(mmap.MAP_PRIVATE)
    assert memory[:] == bytes(PAGES * PAGE_BYTES)  # maps the shared zero page everywhere
    counts = PageQuery(address, PAGES * PAGE_BYTES).count()
    assert set(counts) <= {"absent", "unknown"} and sum(counts.values()) == PAGES


def test_a_sample_is_no_larger_than_asked(memory: tuple[mmap.mmap, int]) -> None:
    ctypes.memset(memory[1], 1, PAGES * PAGE_BYTES)
    query = PageQuery(memory[1], PAGES * PAGE_BYTES)
    assert sum(query.count(most=10).values()) == 10 and sum(query.count(most=1000).values()) == PAGES


def test_partly_covered_pages_count() -> None:
    _, address = mapped(mmap.MAP_PRIVATE)
    assert PageQuery(address + 10, PAGE_BYTES).pages == 2
    assert PageQuery(address, 1).pages == 1


@given(st.lists(st.sampled_from([0, 1, 3, 255, 256, 1023, -2, -14])))
def test_counting_equals_the_slow_way(values: list[int]) -> None:
    assert count_values(array("i", values)) == dict(Counter(values))


def test_policy_and_cpu_of_this_thread() -> None:
    mode, nodes = memory_policy()
    assert mode in ("default", "bind", "preferred") and isinstance(nodes, tuple)
    assert sched_getcpu() in os.sched_getaffinity(0)
