"""The rings of host batches that the copies cycle through."""

from dataclasses import dataclass

import torch

from bench.workload.cell import Cell
from bench.workload.devices import Device
from bench.workload.memory import MIB, require_host_memory
from bench.workload.models import TORCH_DTYPES

OUTPUT_RING_BYTES = 64 * MIB


@dataclass(frozen=True)
class RingSizes:
    """Lengths in batches."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class Rings:
    """`inputs`: length x batch x 3 x px x px; `outputs`: length x the shape of one output batch."""

    inputs: torch.Tensor
    outputs: torch.Tensor

    def addresses(self) -> dict[str, tuple[int, int]]:
        """Address and bytes by name, for the proof of placement."""
        return {
            "input_ring": (self.inputs.data_ptr(), self.inputs.nbytes),
            "output_ring": (self.outputs.data_ptr(), self.outputs.nbytes),
        }


def ring_sizes(cell: Cell) -> RingSizes:
    """Inputs fill memory_size_mb, at least two batches; outputs are bounded, and enough for every slot."""
    inputs = max(2, cell.memory_size_mb * MIB // cell.bytes_in_per_batch)
    outputs = max(2, cell.buffers + 1, min(inputs, OUTPUT_RING_BYTES // cell.bytes_out_per_batch))
    return RingSizes(inputs, outputs)


def make_rings(cell: Cell, device: Device) -> Rings:
    """Allocate both rings and fill the inputs. Raise RunFailure (oom) if host memory does not hold them."""
    sizes = ring_sizes(cell)
    needed = device.host_buffer_bytes(sizes.inputs * cell.bytes_in_per_batch)
    needed += device.host_buffer_bytes(sizes.outputs * cell.bytes_out_per_batch)
    require_host_memory(needed, cell.mem_node if cell.binding == "numactl" else None)
    dtype = TORCH_DTYPES[cell.dtype]
    inputs = device.host_buffer((sizes.inputs, *cell.batch_shape), dtype)
    outputs = device.host_buffer((sizes.outputs, *cell.output_shape), dtype)
    fill_ring(inputs, cell.seed)
    # A batch that never came back must not look like a result.
    outputs.fill_(float("nan"))
    return Rings(inputs, outputs)


def fill_ring(ring: torch.Tensor, seed: int) -> None:
    """Standard normal values that follow from the seed; every batch differs from every other.

    One batch is drawn and the others are that batch rotated: drawing the whole pool takes seconds.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(ring[0].numel(), generator=generator).to(ring.dtype)
    for index, batch in enumerate(ring):
        # A prime step: no two batches of a ring shorter than the batch get the same rotation.
        shift = index * 4099 % drawn.numel()
        flat = batch.view(-1)
        flat[shift:] = drawn[: drawn.numel() - shift]
        flat[:shift] = drawn[drawn.numel() - shift :]
