"""What a cell computes, wherever the model comes from: a callable on batches on the device, and what these consist of.

A batch is one tensor, or a list of tensors: the leaves of nested inputs or outputs. Each leaf is copied by itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch

from bench.records.run import Outcome, SubjectFacts
from bench.records.study import Cell
from bench.workload.failures import RunFailure
from bench.workload.models import TORCH_DTYPES, build_model

Batch: TypeAlias = torch.Tensor | list[torch.Tensor]
Call = Callable[[Batch], Batch]
# Kernels of a transformer block of a ViT.
KERNELS_PER_BLOCK = 14


@dataclass(frozen=True)
class Leaf:
    """One tensor of a batch."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Subject:
    """call: None where nothing is computed. example: the leaves, in CPU memory, that every batch repeats exactly; None:
    one leaf of normal values, different in each batch. kernels: about as many in a forward pass; None: unknown.
    """

    call: Call | None
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    example: list[torch.Tensor] | None = None
    kernels: int | None = 0
    facts: SubjectFacts | None = None

    @property
    def input_bytes(self) -> int:
        """Of one batch, copied or not."""
        return sum(leaf.nbytes for leaf in self.inputs)

    @property
    def output_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in self.outputs)


def as_batch(leaves: Sequence[torch.Tensor]) -> Batch:
    """A single leaf is the batch itself."""
    return leaves[0] if len(leaves) == 1 else list(leaves)


def leaves_of(batch: Batch) -> list[torch.Tensor]:
    return batch if isinstance(batch, list) else [batch]


def build_subject(cell: Cell, device: torch.device, like: Subject | None = None) -> Subject:
    """The cell's model on `device`. Raise RunFailure with the name of the model where it cannot be measured.

    like: of the same model and type; a ViT has its weights.
    """
    if cell.model.source:
        from bench.workload.model_sources import open_model

        subject = open_model(cell, device)
        refuse_samples(subject, cell)
        return subject
    model = None if like else build_model(cell, device)
    dtype = TORCH_DTYPES[cell.dtype]
    return Subject(
        call=like.call if like else cast(Call, model.forward_features) if model else None,
        inputs=(Leaf(cell.batch_shape, dtype),),
        outputs=(Leaf(cell.output_shape, dtype),),
        kernels=KERNELS_PER_BLOCK * cell.model.depth,
    )


def refuse_samples(subject: Subject, cell: Cell) -> None:
    """Raise RunFailure (not_runnable) where the cell copies by sample, and a batch is not one tensor of samples."""
    for leaves, what in ((subject.inputs, "inputs"), (subject.outputs, "outputs")):
        if cell.copy_granularity == "sample" and (len(leaves) > 1 or leaves[0].shape[:1] != (cell.batch_size,)):
            raise RunFailure(
                Outcome.NOT_RUNNABLE,
                f"{cell.model.source}: copy_granularity sample, and its {what} are not one tensor of a row per sample",
                "set copy_granularity to batch",
            )
