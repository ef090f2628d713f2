"""What the bound predicts, against what was measured."""

from collections.abc import Sequence
from typing import Any

from bench.legacy.bound import cell_terms, copy_stops_being_hidden, predict_cell
from bench.legacy.pairs import identity

# --- predictions
# What the stages measured alone foretell: the penalty of remote memory, and where the copy stops being hidden.

Record = dict[str, Any]


def predictions(penalties: Sequence[Record], cells: Sequence[Record], margin: float) -> list[Record]:
    """For each penalty of remote memory under a local CPU, the only case the bound speaks of:

    remote_cell, predicted and its bracket [low, high], and agrees: whether the bracket and the observed
    interval (the penalty itself where there is none) meet or miss each other by no more than the margin, below
    which a difference is none to act on. Cells whose stages were not measured have none.
    """
    by_name = {cell["name"]: cell for cell in cells}
    found = []
    for entry in penalties:
        if entry["kind"] != "memory" or entry["penalty"] is None:
            continue
        said = predict_cell(by_name[entry["local_cell"]], by_name[entry["remote_cell"]])
        if said is None:
            continue
        low, high = entry["interval"] or (entry["penalty"], entry["penalty"])
        found.append(
            {
                "remote_cell": entry["remote_cell"],
                "predicted": said.penalty,
                "low": said.low,
                "high": said.high,
                "agrees": low <= said.high + margin and high >= said.low - margin,
            }
        )
    return found


def hidden_copies(cells: Sequence[Record]) -> list[Record]:
    """For cells that differ in batch size alone: where the copy stops being hidden, or at which sizes it is."""
    groups: dict[Any, dict[int, tuple[str, dict[str, float]]]] = {}
    for cell in cells:
        terms = cell_terms(cell)
        if terms is not None:
            kind = identity(cell, ignore=("batch_size",)), cell["cpu_node"], cell["mem_node"]
            groups.setdefault(kind, {})[cell["settings"]["batch_size"]] = (cell["name"], terms)
    found = []
    for sizes in groups.values():
        said = copy_stops_being_hidden({size: terms for size, (_, terms) in sizes.items()})
        cells_of = [sizes[size][0] for size in sorted(sizes)]
        found.append({"cells": cells_of, "batch_size": said.batch_size, "text": said.text})
    return found


# --- intensity
# How much a model computes for each byte it moves.

Record = dict[str, Any]


def forward_flops(model: Record, image_size: int) -> int:
    """Floating-point operations of one sample's forward pass; a multiply-add counts as two.

    Of a ViT with n tokens (patches + 1) of width d, mlp 4 d: patch embedding 2 (n - 1) 3 p^2 d; per layer
    24 n d^2 for the four projections and the mlp, 4 n^2 d for the two attention products. Norms, softmax
    and activations are left out (below 1 % from d = 256 up).
    """
    patch, depth, dim = model["patch_size"], model["depth"], model["dim"]
    if not depth:
        return 0
    patches = (image_size // patch) ** 2
    tokens = patches + 1
    return 2 * patches * 3 * patch**2 * dim + depth * (24 * tokens * dim**2 + 4 * tokens**2 * dim)


def flops_per_byte(cell: Record) -> float | None:
    """Of a cell of results.json: operations per byte over the link, both directions; None if not run."""
    moved = cell.get("bytes_per_batch")
    if not moved:
        return None
    settings = cell["settings"]
    flops = forward_flops(cell["model"], settings["image_size"]) * settings["batch_size"]
    return flops / (moved["h2d"] + moved["d2h"])
