"""A ViT by its name: vit{patch}x{depth}x{dim}."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from bench.errors import StudyError

_NAME = re.compile(r"(?:vit)?(\d{1,4})x(\d{1,4})x(\d{1,5})")
_NAME_ADVICE = (
    'write it as "vit{patch}x{depth}x{dim}", for example "vit32x6x512"; "vit0x0x0" copies and does not compute'
)


@dataclass(frozen=True)
class Model:
    """patch_size in pixels, depth in encoder layers, dim of the embedding, attention heads; mlp = 4 x dim.

    All zero: no compute, the pipeline returns its input.
    """

    patch_size: int
    depth: int
    dim: int
    heads: int

    @property
    def name(self) -> str:
        return f"vit{self.patch_size}x{self.depth}x{self.dim}"

    @property
    def computes(self) -> bool:
        return self.depth > 0

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self)}


def default_heads(dim: int) -> int:
    """64 channels a head as in the ViT paper, but at least 8 heads (4 below dim 256), so that small models divide."""
    return max(dim // 64, 8 if dim >= 256 else 4) if dim else 0


def parse_model(value: Any, where: str) -> Model:
    """Read "vit32x6x512" or {"model": "vit32x6x512", "heads": 8}. Raise StudyError naming `where`."""
    heads = None
    if isinstance(value, dict):
        unknown = set(value) - {"model", "heads"}
        if unknown or "model" not in value:
            raise StudyError(
                f"a model is a name or a mapping with the keys model and heads, found {sorted(map(str, value))}",
                where,
                _NAME_ADVICE,
            )
        value, heads = value["model"], value.get("heads")
    match = _NAME.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise StudyError(f"{value!r} is not the name of a model", where, _NAME_ADVICE)
    patch_size, depth, dim = map(int, match.groups())
    if heads is None:
        heads = default_heads(dim)
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 0:
        raise StudyError(f"heads is {heads!r}, allowed is a whole number from 1 up", f"{where}.heads")
    return Model(patch_size, depth, dim, heads)


def check_model(model: Model, image_size: int, where: str) -> None:
    """Raise StudyError for a model that cannot be built for images of image_size x image_size pixels."""
    zeros = [key for key in ("patch_size", "depth", "dim") if getattr(model, key) == 0]
    if len(zeros) == 3:
        return
    if zeros:
        raise StudyError(
            f"{model.name}: {' and '.join(zeros)} cannot be 0 unless patch, depth and dim all are",
            where,
            "vit0x0x0 is the model without compute",
        )
    if image_size % model.patch_size:
        near = _near_divisors(image_size, model.patch_size)
        raise StudyError(
            f"{model.name}: an image of {image_size} pixels cannot be cut into patches of {model.patch_size}",
            where,
            f"use a patch that divides {image_size}, the nearest are {near}, or another image_size",
        )
    if model.heads == 0 or model.dim % model.heads:
        near = _near_divisors(model.dim, model.heads)
        raise StudyError(
            f"{model.name}: dim {model.dim} is not divisible by {model.heads} heads",
            where,
            f"set heads to a divisor of {model.dim}, the nearest are {near}",
        )


def _near_divisors(number: int, wanted: int) -> str:
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    return " and ".join(map(str, sorted(sorted(divisors, key=lambda divisor: abs(divisor - wanted))[:2])))
