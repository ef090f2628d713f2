import gc
import mmap
from pathlib import Path

import pytest
import torch

from bench.workload import host_memory as mapped
from bench.workload.failures import RunFailure
from bench.workload.host_memory import huge_bytes, map_huge, map_memory

from .huge_pages import in_huge_pages

SMAPS = """\
1000-3000 rw-p 00000000 00:00 0
Rss:                   8 kB
AnonHugePages:         4 kB
200000-600000 rw-p 00000000 00:00 0 [anon: pool]
AnonHugePages:      4096 kB
600000-800000 rw-p 00000000 00:00 0
AnonHugePages:      2048 kB
VmFlags: rd wr mr mw me ac hg
"""


@pytest.mark.parametrize(
    ("address", "nbytes", "expected"),
    [(0x200000, 0x400000, 0x400000), (0x500000, 0x200000, 0x200000), (0x1000, 0x800, 0x800), (0x900000, 0x1000, 0)],
)
def test_huge_pages_of_the_mappings_that_a_buffer_lies_in(tmp_path, address, nbytes, expected):
    path = tmp_path / "smaps"
    path.write_text(SMAPS)
    assert huge_bytes(address, nbytes, path) == expected


def test_mapped_memory_is_aligned_zeroed_and_released():
    released = []
    memory = map_memory(10_000, on_release=released.append)
    address = memory.data_ptr()
    assert address % mmap.PAGESIZE == 0
    assert (memory.nbytes, int(memory.sum())) == (10_000, 0)
    part = memory[5000:].view(torch.float32)
    del memory
    gc.collect()
    part.fill_(1.0)
    assert released == []
    del part
    gc.collect()
    assert released == [address]


def thp() -> str:
    try:
        return (mapped.HUGE_PAGES / "enabled").read_text()
    except OSError:
        return "[never]"


@pytest.mark.skipif("[never]" in thp(), reason="needs transparent huge pages")
def test_huge_buffers_are_in_huge_pages():
    memory = in_huge_pages(lambda: map_huge(5 << 20))
    assert memory.nbytes == 5 << 20
    assert huge_bytes(memory.data_ptr(), 6 << 20) == 6 << 20


@pytest.mark.parametrize(("enabled", "what"), [("always madvise [never]", r"set to always .*never"), (None, "missing")])
def test_no_huge_pages_is_an_outcome(monkeypatch, tmp_path: Path, enabled, what):
    monkeypatch.setattr(mapped, "HUGE_PAGES", tmp_path)
    if enabled:
        (tmp_path / "enabled").write_text(enabled)
        (tmp_path / "hpage_pmd_size").write_text("2097152")
    with pytest.raises(RunFailure, match=what) as raised:
        map_huge(4096)
    assert raised.value.status == "not_runnable"


def test_small_pages_do_not_replace_huge_ones(monkeypatch):
    """smaps is replaced: the kernel of a test has free memory in one piece."""
    monkeypatch.setattr(mapped, "huge_bytes", lambda address, nbytes: 2 << 20)
    monkeypatch.setattr(mapped, "huge_page_bytes", lambda: 2 << 20)
    with pytest.raises(RunFailure, match="gave 2 of 6 MiB in huge pages") as raised:
        map_huge(5 << 20)
    assert raised.value.status == "not_runnable"
