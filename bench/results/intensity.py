"""How much a model computes for each byte it moves."""

from typing import Any

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
