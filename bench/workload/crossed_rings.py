"""The rings of all sides of a crossing, allocated so that which one came first makes no difference between them.

A ring that is touched after another one gets other physical pages, and is several percent faster or slower to read.
So all rings are mapped first, each with a policy of its own, and then touched for the first time by turns, a chunk of
each. A policy of the mapping is needed because whichever thread touches a page first would else apply its own.
"""

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from math import prod
from typing import TypeVar

import torch

from bench.host.memory_calls import ABSENT, PAGE_BYTES, UNKNOWN, PageQuery, allocating_on, bind_memory
from bench.records.run import Outcome
from bench.records.study import Cell
from bench.workload.devices import Device
from bench.workload.failures import LESS_MEMORY, RunFailure
from bench.workload.host_memory import (
    HUGE_PAGES,
    HostMemory,
    Rings,
    address_of,
    fill_inputs,
    register,
    require_host_memory,
    require_huge,
    reserve_memory,
    ring_sizes,
    spoil,
    unregister,
)
from bench.workload.subject import Leaf, Subject, refuse_samples

CHUNK_BYTES = 2 << 20
Made = TypeVar("Made")
Allocate = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
Allocating = Callable[[Cell], None]


@dataclass(eq=False)
class _Reserved:
    """inputs, outputs: the rings, mapped and perhaps not touched yet; empty where the cell makes no such copies."""

    cell: Cell
    memory: HostMemory
    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.inputs + self.outputs


def crossed_rings(
    cells: Sequence[Cell], device: Device, subjects: Sequence[Subject], allocating: Allocating
) -> list[Rings | RunFailure]:
    """The rings of each cell on its own memory node, every page proved to be there; or why that cell has none.

    cells: in the order of allocation, with nodes and host settings of their own; subjects: of each, the same object
    where their batches are equal. A failure is oom (no room on the node), bind_failed (the process may not use the
    node) or not_runnable (the kind is not available). allocating: called before pages of a cell are allocated, which
    may be the end of this process.
    """
    reserved = []
    for cell, subject in zip(cells, subjects, strict=True):
        allocating(cell)
        reserved.append(_attempt(partial(_reserve, cell, device, subject)))
    mapped = [one for one in reserved if isinstance(one, _Reserved) and one.memory.is_mapped]
    _touch_by_turns([(one.cell, one.inputs) for one in mapped], allocating)
    _touch_by_turns([(one.cell, one.outputs) for one in mapped], allocating)
    filled: list[Rings | RunFailure] = []
    sources: dict[int, tuple[torch.Tensor, ...]] = {}
    for cell, one, subject in zip(cells, reserved, subjects, strict=True):
        allocating(cell)
        source = sources.get(id(subject), ())
        rings = one if isinstance(one, RunFailure) else _attempt(partial(_finish, one, subject, source))
        # The CPU reads write-combined memory slower than it draws values.
        if (
            isinstance(rings, Rings)
            and rings.host_memory.kind != "write-combined"
            and _length(rings.inputs) > _length(source)
        ):
            sources[id(subject)] = rings.inputs
        filled.append(rings)
    return filled


def _attempt(make: Callable[[], Made]) -> Made | RunFailure:
    try:
        return make()
    except RunFailure as failure:
        return failure
    except OSError as error:
        advice = "start numastudy where the cpuset has the node, or leave the node out (--numa-nodes)"
        return RunFailure(Outcome.BIND_FAILED, f"the kernel refused the node: {error}", advice)


def _reserve(cell: Cell, device: Device, subject: Subject) -> _Reserved:
    refuse_samples(subject, cell)
    sizes, memory = ring_sizes(cell, subject), HostMemory(cell.host_memory, device)
    require_host_memory(memory.pool_bytes(sizes, subject), cell.mem_node)
    make = _mapped_ring if memory.is_mapped else _cuda_ring

    def rings(allocate: Allocate, length: int, leaves: Sequence[Leaf]) -> tuple[torch.Tensor, ...]:
        return tuple(make(allocate, memory, cell, (length, *leaf.shape), leaf.dtype) for leaf in leaves if length)

    return _Reserved(
        cell,
        memory,
        rings(memory.inputs, sizes.inputs, subject.inputs),
        rings(memory.outputs, sizes.outputs, subject.outputs),
    )


def _cuda_ring(
    allocate: Allocate, memory: HostMemory, cell: Cell, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    """CUDA touches it while it allocates, under the policy of the calling thread."""
    with allocating_on(cell.mem_node):
        return allocate(shape, dtype)


def _mapped_ring(
    allocate: Allocate, memory: HostMemory, cell: Cell, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    """Mapped here, with a policy of its own, and not touched yet."""

    def prepare(mapping: mmap.mmap) -> None:
        # Preferred and not bound: a full node then shows in the proof, and does not end the process.
        bind_memory(address_of(mapping), len(mapping), cell.mem_node, "preferred")
        if memory.wants_huge_pages and HUGE_PAGES.is_dir():
            mapping.madvise(mmap.MADV_HUGEPAGE)

    release = unregister if memory.is_registered else None
    return reserve_memory(prod(shape) * dtype.itemsize, CHUNK_BYTES, prepare, release).view(dtype).view(shape)


def _touch_by_turns(sides: list[tuple[Cell, tuple[torch.Tensor, ...]]], allocating: Allocating) -> None:
    """sides: of each the rings, of any lengths, or none. Chunk by chunk, in the opposite order at every chunk."""
    for same in zip_longest(*(rings for _, rings in sides)):
        flat = [
            (cell, ring.view(torch.uint8).view(-1))
            for (cell, _), ring in zip(sides, same, strict=True)
            if ring is not None
        ]
        for number, start in enumerate(range(0, max((len(ring) for _, ring in flat), default=0), CHUNK_BYTES)):
            for cell, ring in flat if number % 2 == 0 else reversed(flat):
                allocating(cell)
                ring[start : start + CHUNK_BYTES].zero_()


def _finish(own: _Reserved, subject: Subject, source: tuple[torch.Tensor, ...]) -> Rings:
    """source: filled input rings to copy from, which takes a tenth of the time of drawing it again."""
    if own.cell.host_memory == "huge":
        for ring in own.tensors():
            # Of the last page a part is not the ring's.
            require_huge(ring.data_ptr(), ring.nbytes // CHUNK_BYTES * CHUNK_BYTES)
    if own.memory.is_registered:
        for ring in own.tensors():
            register(ring)
    if _length(own.inputs) > _length(source):
        fill_inputs(own.inputs, subject, own.cell.seed)
    else:
        # Every batch is the same in rings of all lengths.
        for ring, filled in zip(own.inputs, source, strict=False):
            ring.copy_(filled[: len(ring)])
    spoil(own.outputs)
    rings = Rings(own.inputs, own.outputs, own.memory.describe(own.inputs, own.outputs))
    node = str(own.cell.mem_node)
    for name, (address, nbytes) in rings.addresses().items():
        pages = PageQuery(address, nbytes).count()
        away = sum(count for where, count in pages.items() if where not in (node, ABSENT, UNKNOWN))
        if away:
            what = f"node {node} had no room for all of {name}: {away} of {sum(pages.values())} pages are elsewhere"
            raise RunFailure(Outcome.OOM, what, LESS_MEMORY)
        first = address - address % PAGE_BYTES
        bind_memory(first, address + nbytes - first, own.cell.mem_node)
    return rings


def _length(rings: Sequence[torch.Tensor]) -> int:
    """In batches."""
    return len(rings[0]) if rings else 0
