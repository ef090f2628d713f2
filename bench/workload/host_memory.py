"""Host memory that copies use: its kinds, the rings of host batches, and the check that there is enough of it.

The kinds (setting host_memory):
pinned          torch's: cudaHostAlloc; rounded up to a power of two
pageable        normal memory: CUDA stages it through a buffer of its own, and the call returns when it is done: copies
                hardly overlap
write-combined  cudaHostAlloc with that flag, for the copy in only: the CPU reads it slowly, so outputs are pinned
registered      normal page-aligned memory, pinned in place (cudaHostRegister)
huge            the same in transparent huge pages; a run that does not get them is not_runnable

On the cpu device pinned and pageable are both normal memory, since there is no GPU to pin it for.
"""

import ctypes
import math
import mmap
import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import torch

from bench.host.topology import free_bytes, meminfo
from bench.records.run import HostBuffers, HugePages, Outcome
from bench.records.study import Cell
from bench.units import byte_size
from bench.workload.devices import Device
from bench.workload.failures import LESS_MEMORY, RunFailure
from bench.workload.subject import Subject

MADV_COLLAPSE = 25
"""Linux 6.1: turn what is mapped into huge pages now (asm-generic/mman-common.h)."""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
PORTABLE, WRITE_COMBINED = 1, 4
"""CU_MEMHOSTALLOC_PORTABLE, CU_MEMHOSTALLOC_WRITECOMBINED (cuda.h); the first is CU_MEMHOSTREGISTER_PORTABLE too."""
OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY"""
MIB = 1 << 20
# For what is not the pool: CUDA context, library workspaces, the profiler's buffers.
HEADROOM_BYTES = 256 * MIB
OUTPUT_RING_BYTES = 64 * MIB
# Of a ring: each is a tensor of this process, half a kilobyte, however small its batch.
MOST_BATCHES = 1 << 16


# Memory that this process maps itself: page-aligned, on request in transparent huge pages.


def map_memory(
    nbytes: int,
    alignment: int = mmap.PAGESIZE,
    prepare: Callable[[mmap.mmap], None] | None = None,
    on_release: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """nbytes of normal memory as bytes, zeroed, so that every page is there. Arguments as of reserve_memory."""
    memory = reserve_memory(nbytes, alignment, prepare, on_release)
    memory.zero_()
    return memory


def reserve_memory(
    nbytes: int,
    alignment: int = mmap.PAGESIZE,
    prepare: Callable[[mmap.mmap], None] | None = None,
    on_release: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """nbytes of normal memory as bytes that nobody touched yet: pages go where the first touch finds room.

    prepare(mapping) comes before the first touch, on_release(address) before the memory goes back.
    """
    mapping = mmap.mmap(-1, nbytes + alignment, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    offset = -address_of(mapping) % alignment
    if prepare:
        prepare(mapping)
    # An owner of its own for the tensor: `mapping` is still mapped when on_release is called.
    owner = (ctypes.c_ubyte * nbytes).from_buffer(mapping, offset)
    memory = torch.frombuffer(owner, dtype=torch.uint8)
    weakref.finalize(owner, _release, mapping, memory.data_ptr(), on_release).atexit = False
    return memory


def map_huge(nbytes: int, on_release: Callable[[int], None] | None = None) -> torch.Tensor:
    """The first nbytes of a whole number of huge pages. Raise RunFailure (not_runnable) unless all of it is huge."""
    page = huge_page_bytes()
    length = -(-nbytes // page) * page
    memory = map_memory(length, page, _ask_for_huge, on_release)
    require_huge(memory.data_ptr(), length)
    return memory[:nbytes]


def require_huge(address: int, length: int) -> None:
    """Raise RunFailure (not_runnable) unless all of it, whole huge pages that were touched, is in huge pages."""
    found = huge_bytes(address, length)
    if found < length:
        # Where free memory is in pieces the kernel gave small pages; asked so, it moves others out of the way.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), MADV_COLLAPSE)
        found = huge_bytes(address, length)
    if found < length:
        raise RunFailure(
            Outcome.NOT_RUNNABLE,
            f"host_memory huge: the kernel gave {found >> 20} of {length >> 20} MiB in huge pages",
            "free memory, or compact it (echo 1 > /proc/sys/vm/compact_memory), or set host_memory to registered",
        )


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
        Outcome.NOT_RUNNABLE,
        f"host_memory huge: transparent huge pages are {f'set to {enabled}' if size else 'missing in this kernel'}",
        f"echo madvise > {HUGE_PAGES}/enabled, or set host_memory to pinned",
    )


def huge_bytes(address: int, nbytes: int, smaps: Path = Path("/proc/self/smaps")) -> int:
    """Bytes in transparent huge pages of the mappings of an address range (AnonHugePages), nbytes at most."""
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


# Calls of the CUDA driver that torch does not offer: registering memory, and write-combined memory. They need torch's
# own context, which is current where torch has used the GPU.


def register(memory: torch.Tensor) -> None:
    """Pin page-aligned memory of this process in place (cuMemHostRegister). Raise RunFailure: oom or crashed."""
    # Whole pages, as earlier drivers ask for: the rest of the last page is the mapping's too.
    length = -(-memory.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    _call("cuMemHostRegister_v2", ctypes.c_void_p(memory.data_ptr()), ctypes.c_size_t(length), PORTABLE)


def unregister(address: int) -> None:
    _driver().cuMemHostUnregister(ctypes.c_void_p(address))


def write_combined(nbytes: int) -> torch.Tensor:
    """nbytes of pinned memory that the CPU's caches do not hold. Raise RunFailure: oom or crashed."""
    where = ctypes.c_void_p()
    _call("cuMemHostAlloc", ctypes.byref(where), ctypes.c_size_t(nbytes), PORTABLE | WRITE_COMBINED)
    owner = (ctypes.c_ubyte * nbytes).from_address(where.value or 0)
    weakref.finalize(owner, _driver().cuMemFreeHost, where).atexit = False
    return torch.frombuffer(owner, dtype=torch.uint8)


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: object) -> None:
    error = getattr(_driver(), name)(*arguments)
    if not error:
        return
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(error, ctypes.byref(text))
    words = f"{name}: {(text.value or b'unknown error').decode()} ({error})"
    if error == OUT_OF_MEMORY:
        raise RunFailure(Outcome.OOM, words, LESS_MEMORY)
    raise RunFailure(Outcome.CRASHED, words, "set host_memory to pinned")


# The kinds.


class HostMemory:
    """Buffers of one kind: pinned, pageable, write-combined, registered or huge."""

    def __init__(self, kind: str, device: Device) -> None:
        self.kind = kind
        self._cuda = device.torch_device.type == "cuda"

    @property
    def is_mapped(self) -> bool:
        """The process maps it itself, so that a policy can be set before the first touch; else CUDA allocates it."""
        return not (self._cuda and self.kind in ("pinned", "write-combined"))

    @property
    def is_registered(self) -> bool:
        return self._cuda and self.kind in ("registered", "huge")

    @property
    def wants_huge_pages(self) -> bool:
        """Asked for, or read by the CPU's copies, whose speed depends on how small pages are scattered."""
        return self.kind == "huge" or not self._cuda or self.kind == "pageable"

    def inputs(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """To copy from. Raise RunFailure where this kind is not available."""
        return self._buffer(self.kind, shape, dtype)

    def outputs(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """To copy to. Raise RunFailure where this kind is not available."""
        return self._buffer(self._output_kind, shape, dtype)

    def taken_bytes(self, nbytes: int) -> int:
        """Host memory that a buffer of nbytes uses."""
        if self.kind == "huge":
            page = huge_page_bytes()
            return -(-nbytes // page) * page
        if self._cuda and self.kind == "pinned":
            # torch rounds pinned blocks up to a power of two (CachingHostAllocator).
            return 1 << max(0, nbytes - 1).bit_length()
        return nbytes

    def pool_bytes(self, sizes: "RingSizes", subject: Subject) -> int:
        """Host memory that all rings use."""
        rings = ((sizes.inputs, subject.inputs), (sizes.outputs, subject.outputs))
        return sum(self.taken_bytes(length * leaf.nbytes) for length, leaves in rings for leaf in leaves)

    def describe(self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> HostBuffers:
        return HostBuffers(
            kind=self.kind,
            inputs=self.kind,
            outputs=self._output_kind,
            synchronous_copies=not self._cuda or self.kind == "pageable",
            huge_pages=HugePages(
                inputs=self._in_huge_pages(self.kind, inputs),
                outputs=self._in_huge_pages(self._output_kind, outputs),
            ),
        )

    def _in_huge_pages(self, kind: str, buffers: Sequence[torch.Tensor]) -> int | None:
        if not buffers or (self._cuda and kind in ("pinned", "write-combined")):
            return None
        return sum(huge_bytes(buffer.data_ptr(), buffer.nbytes) for buffer in buffers)

    @property
    def _output_kind(self) -> str:
        return "pinned" if self.kind == "write-combined" else self.kind

    def _buffer(self, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if kind in ("pinned", "pageable"):
            return torch.empty(shape, dtype=dtype, pin_memory=self._cuda and kind == "pinned")
        return self._flat(kind, prod(shape) * dtype.itemsize).view(dtype).view(shape)

    def _flat(self, kind: str, nbytes: int) -> torch.Tensor:
        if kind == "write-combined":
            return write_combined(nbytes)
        release = unregister if self._cuda else None
        memory = map_huge(nbytes, release) if kind == "huge" else map_memory(nbytes, on_release=release)
        if self._cuda:
            register(memory)
        return memory


# How much host memory this process may still use, checked before the pool is allocated.


def require_host_memory(needed_bytes: int, mem_node: int | None, root: Path = Path("/")) -> None:
    """Raise RunFailure (oom) if the pool cannot fit. mem_node: the node that memory is bound to, or None."""
    for source, free in free_memory(mem_node, root).items():
        if needed_bytes + HEADROOM_BYTES > free:
            raise RunFailure(
                Outcome.OOM,
                f"not enough host memory for the pool: it takes {byte_size(needed_bytes)} and"
                f" {byte_size(HEADROOM_BYTES)} for the rest, {source} has {byte_size(free)}",
                LESS_MEMORY,
            )


def free_memory(mem_node: int | None, root: Path = Path("/")) -> dict[str, int]:
    """Free bytes by the limit they were read from, without the limits that this system does not have."""
    free: dict[str, int] = {}
    # No node has this number: the answer is that of the machine.
    available = meminfo(root, -1).get("MemAvailable")
    if available is not None:
        free["the host"] = available
    group = cgroup_free_bytes(root)
    if group is not None:
        free["the control group"] = group
    if mem_node is not None and "MemFree" in meminfo(root, mem_node):
        free[f"NUMA node {mem_node}"] = free_bytes(root, mem_node)
    return free


def cgroup_free_bytes(root: Path = Path("/")) -> int | None:
    """The tightest limit minus usage over this process's control group and its parents (v2 and v1)."""
    free = []
    for directory, limit_name, usage_name in _cgroup_directories(root):
        limit, usage = _number(directory / limit_name), _number(directory / usage_name)
        if limit is not None and usage is not None:
            reclaimable = _inactive_file_bytes(directory / "memory.stat")
            free.append(max(0, limit - max(0, usage - reclaimable)))
    return min(free) if free else None


def _cgroup_directories(root: Path) -> list[tuple[Path, str, str]]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, usage = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount, limit, usage = (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        found += [(mount.joinpath(*parts[:depth]), limit, usage) for depth in range(len(parts) + 1)]
    return found


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _inactive_file_bytes(path: Path) -> int:
    try:
        text = path.read_text()
    except OSError:
        return 0
    match = re.search(r"^(?:total_)?inactive_file (\d+)$", text, re.MULTILINE)
    return int(match.group(1)) if match else 0


# The rings of host batches that the copies cycle through.


@dataclass(frozen=True)
class RingSizes:
    """Lengths in batches; 0 where the cell makes no copies in that direction."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class Rings:
    """A ring for each leaf of a batch, length x the leaf's shape: for a ViT length x batch x 3 x px x px, and length x
    batch x tokens x dim. Empty where there are no such copies.

    host_memory: the kind of memory, for the result.
    """

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    host_memory: HostBuffers

    def addresses(self) -> dict[str, tuple[int, int]]:
        """Address and bytes by name, for the placement certificate."""
        return {
            f"{name}{number}" if len(rings) > 1 else name: (ring.data_ptr(), ring.nbytes)
            for name, rings in (("input_ring", self.inputs), ("output_ring", self.outputs))
            for number, ring in enumerate(rings)
        }


def ring_sizes(cell: Cell, subject: Subject) -> RingSizes:
    """Inputs fill memory_size_mb, and hold what is being prepared and copied; outputs are bounded, and enough for
    every slot. Where only outputs are copied, they fill memory_size_mb. At most MOST_BATCHES each."""
    pool = cell.memory_size_mb * MIB
    inputs = max(cell.batches_in_flight, min(MOST_BATCHES, pool // subject.input_bytes))
    bounded = min(inputs, OUTPUT_RING_BYTES // subject.output_bytes) if cell.copies_in else pool // subject.output_bytes
    outputs = max(2, cell.buffers + 1, min(MOST_BATCHES, bounded))
    return RingSizes(inputs if cell.copies_in else 0, outputs if cell.copies_out else 0)


def make_rings(cell: Cell, device: Device, subject: Subject) -> Rings:
    """Allocate the rings and, unless a thread prepares them, fill the inputs.

    Raise RunFailure: oom if host memory does not hold them, not_runnable where the cell's kind is not available.
    """
    sizes, memory = ring_sizes(cell, subject), HostMemory(cell.host_memory, device)
    needed = memory.pool_bytes(sizes, subject)
    if cell.preprocess_queue:
        # The images, 8 bits a value, that batches are prepared from.
        needed += sizes.inputs * math.prod(subject.inputs[0].shape)
    require_host_memory(needed, cell.mem_node if cell.binding == "numactl" else None)
    inputs: tuple[torch.Tensor, ...] = ()
    outputs: tuple[torch.Tensor, ...] = ()
    if sizes.inputs:
        inputs = tuple(memory.inputs((sizes.inputs, *leaf.shape), leaf.dtype) for leaf in subject.inputs)
        if not cell.preprocess_queue:
            fill_inputs(inputs, subject, cell.seed)
    if sizes.outputs:
        outputs = tuple(memory.outputs((sizes.outputs, *leaf.shape), leaf.dtype) for leaf in subject.outputs)
        spoil(outputs)
    return Rings(inputs, outputs, memory.describe(inputs, outputs))


def fill_inputs(rings: Sequence[torch.Tensor], subject: Subject, seed: int) -> None:
    """With the example in every batch, or with values of the seed. To rotate token ids or masks would break them."""
    if subject.example is None:
        fill_ring(rings[0], seed)
    else:
        for ring, leaf in zip(rings, subject.example, strict=True):
            ring.copy_(leaf.expand_as(ring))


def spoil(rings: Iterable[torch.Tensor]) -> None:
    """A batch that was never copied out must not look like a result."""
    for ring in rings:
        if ring.is_floating_point() or ring.is_complex():
            ring.fill_(float("nan"))
        else:
            ring.fill_(1 if ring.dtype is torch.bool else torch.iinfo(ring.dtype).max)


def fill_ring(ring: torch.Tensor, seed: int) -> None:
    """Standard normal values that depend on the seed only; every batch differs from every other."""
    generator = torch.Generator().manual_seed(seed)
    rotate_into(ring, torch.randn(ring[0].numel(), generator=generator).to(ring.dtype))


def rotate_into(ring: torch.Tensor, drawn: torch.Tensor) -> None:
    """Every batch of the ring is the values of one, rotated: drawing the whole pool takes seconds."""
    for index, batch in enumerate(ring):
        # A prime step: no two batches of a ring shorter than the batch are rotated alike.
        shift = index * 4099 % drawn.numel()
        flat = batch.view(-1)
        flat[shift:] = drawn[: drawn.numel() - shift]
        flat[:shift] = drawn[drawn.numel() - shift :]
