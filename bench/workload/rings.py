"""The rings of host batches that the copies cycle through."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from bench.workload.cell import Cell
from bench.workload.devices import Device
from bench.workload.host_memory import HostMemory
from bench.workload.memory import MIB, require_host_memory
from bench.workload.models import TORCH_DTYPES

OUTPUT_RING_BYTES = 64 * MIB


@dataclass(frozen=True)
class RingSizes:
    """Lengths in batches; 0 where the cell makes no copies in that direction."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class Rings:
    """`inputs`: length x batch x 3 x px x px; `outputs`: length x the shape of one output batch; None: no such copies.

    host_memory: what kind of memory they are, for the result.
    """

    inputs: torch.Tensor | None
    outputs: torch.Tensor | None
    host_memory: dict[str, Any]

    def addresses(self) -> dict[str, tuple[int, int]]:
        """Address and bytes by name, for the proof of placement."""
        rings = {"input_ring": self.inputs, "output_ring": self.outputs}
        return {name: (ring.data_ptr(), ring.nbytes) for name, ring in rings.items() if ring is not None}


def ring_sizes(cell: Cell) -> RingSizes:
    """Inputs fill memory_size_mb, and hold what is being prepared and copied; outputs are bounded, and enough for
    every slot. Where only outputs are copied, they fill memory_size_mb."""
    pool = cell.memory_size_mb * MIB
    in_flight = cell.preprocess_queue + cell.buffers + 1 if cell.preprocess_queue else 2
    inputs = max(in_flight, pool // cell.input_bytes)
    bounded = min(inputs, OUTPUT_RING_BYTES // cell.output_bytes) if cell.copies_in else pool // cell.output_bytes
    outputs = max(2, cell.buffers + 1, bounded)
    return RingSizes(inputs if cell.copies_in else 0, outputs if cell.copies_out else 0)


def make_rings(cell: Cell, device: Device) -> Rings:
    """Allocate the rings and, unless a thread prepares them, fill the inputs.

    Raise RunFailure: oom if host memory does not hold them, not_runnable where the cell's kind cannot be had.
    """
    sizes, memory = ring_sizes(cell), HostMemory(cell.host_memory, device)
    needed = memory.taken_bytes(sizes.inputs * cell.input_bytes) + memory.taken_bytes(sizes.outputs * cell.output_bytes)
    if cell.preprocess_queue:
        # The images, 8 bits a value, that batches are prepared from.
        needed += sizes.inputs * math.prod(cell.batch_shape)
    require_host_memory(needed, cell.mem_node if cell.binding == "numactl" else None)
    dtype, inputs, outputs = TORCH_DTYPES[cell.dtype], None, None
    if sizes.inputs:
        inputs = memory.inputs((sizes.inputs, *cell.batch_shape), dtype)
        if not cell.preprocess_queue:
            fill_ring(inputs, cell.seed)
    if sizes.outputs:
        # A batch that never came back must not look like a result.
        outputs = memory.outputs((sizes.outputs, *cell.output_shape), dtype).fill_(float("nan"))
    return Rings(inputs, outputs, memory.describe(inputs, outputs))


def fill_ring(ring: torch.Tensor, seed: int) -> None:
    """Standard normal values that follow from the seed; every batch differs from every other."""
    generator = torch.Generator().manual_seed(seed)
    rotate_into(ring, torch.randn(ring[0].numel(), generator=generator).to(ring.dtype))


def rotate_into(ring: torch.Tensor, drawn: torch.Tensor) -> None:
    """Every batch of the ring is the values of one, rotated: drawing the whole pool takes seconds."""
    for index, batch in enumerate(ring):
        # A prime step: no two batches of a ring shorter than the batch get the same rotation.
        shift = index * 4099 % drawn.numel()
        flat = batch.view(-1)
        flat[shift:] = drawn[: drawn.numel() - shift]
        flat[:shift] = drawn[drawn.numel() - shift :]
