"""About how much memory the sides of a process take on their GPU: an estimate, for ViTs only."""

import math
from collections.abc import Hashable, Sequence

from bench.records.study import Cell

# The context of CUDA, its libraries and their workspaces.
CONTEXT_BYTES = 1 << 30
# Values of a token that are alive at one time, by dim: those of the mlp before and after their activation, the residual
# and a margin.
LIVE_PER_DIM = 12
# Of a layer with unfused attention, tokens x tokens values of each head: the matrix and its softmax.
MATRICES = 2


def device_bytes(cells: Sequence[Cell]) -> int | None:
    """While all of them have theirs: weights of each type, slots and outputs, and what forward passes keep meanwhile.

    None on the cpu device, and for a model from elsewhere.
    """
    if not cells or cells[0].device != "cuda" or cells[0].model.source:
        return None
    weights: dict[int, int] = {}
    slots, outputs, graphs = (dict[tuple[Hashable, ...], int]() for _ in range(3))
    eager = 0
    for cell in cells:
        batches = cell.dtype, cell.batch_size
        weights[cell.bytes_per_element] = _weights(cell)
        slots[batches] = max(slots.get(batches, 0), cell.buffers * cell.input_bytes)
        if not cell.model.computes:
            continue
        execution = *batches, cell.cuda_graph, cell.compile_model, cell.buffers
        outputs[execution] = cell.buffers * math.prod(cell.output_shape) * cell.bytes_per_element
        if cell.cuda_graph:
            # In memory of their own; all other passes share that of the largest.
            graphs[batches] = _live(cell)
        else:
            eager = max(eager, _live(cell))
    return CONTEXT_BYTES + eager + sum(weights.values()) + sum(sum(part.values()) for part in (slots, outputs, graphs))


def _weights(cell: Cell) -> int:
    """Four projections and an mlp of 4 x dim in each layer, the patch embedding and the positions."""
    model = cell.model
    if not model.computes:
        return 0
    tokens = cell.output_shape[1]
    values = model.depth * 12 * model.dim**2 + 3 * model.patch_size**2 * model.dim + tokens * model.dim
    return values * cell.bytes_per_element


def _live(cell: Cell) -> int:
    tokens = cell.output_shape[1]
    values = LIVE_PER_DIM * tokens * cell.model.dim
    if cell.attention == "unfused":
        values += MATRICES * cell.model.heads * tokens**2
    return cell.batch_size * values * cell.bytes_per_element
