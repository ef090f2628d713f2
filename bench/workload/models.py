"""The forward passes: timm vision transformers with weights that depend on the seed only."""

import importlib
import sys

import torch

from bench.records.study import Cell, Model

TORCH_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

MLP_RATIO = 4.0
WEIGHT_STD = 0.02


def set_precision(dtype: str) -> None:
    """TF32 only where the cell asks for it: torch's default allows it in convolutions."""
    allowed = dtype == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def build_model(cell: Cell, device: torch.device) -> torch.nn.Module | None:
    """The cell's encoder on `device`, in eval mode; None where the cell computes nothing.

    Built without storage and filled on the device: timm's own initialisation draws every weight on the
    CPU, seconds for the larger models.
    """
    if not cell.model.computes:
        return None
    with torch.device("meta"):
        model = vision_transformer(cell.model, cell.image_size)
    set_attention(model, fused=cell.attention == "fused")
    model = model.to_empty(device=device)
    fill_weights(model, cell.seed)
    return model.to(TORCH_DTYPES[cell.dtype]).eval().requires_grad_(False)


def set_attention(model: torch.nn.Module, fused: bool) -> None:
    """Unfused attention is softmax(q k^T) v as two matrix products, in place of scaled_dot_product_attention."""
    for module in model.modules():
        if isinstance(getattr(module, "fused_attn", None), bool):
            module.fused_attn = fused  # type: ignore[assignment]  # torch types attributes of a Module as tensors


def vision_transformer(shape: Model, image_size: int) -> torch.nn.Module:
    return import_timm()(
        img_size=image_size,
        patch_size=shape.patch_size,
        embed_dim=shape.dim,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=MLP_RATIO,
        num_classes=0,
    )


def import_timm() -> type[torch.nn.Module]:
    """timm's VisionTransformer. Imported only if a cell computes: it takes seconds."""
    allow_missing_torchvision_ops()
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer


@torch.no_grad()
def fill_weights(model: torch.nn.Module, seed: int) -> None:
    """The usual ViT start: weights normal with standard deviation 0.02, scales of norms 1, biases 0."""
    uninitialised = [name for name, _ in model.named_buffers()]
    if uninitialised:
        raise RuntimeError(f"buffers without a value: {', '.join(uninitialised)}")
    generator: torch.Generator | None = None
    for name, parameter in model.named_parameters():
        if generator is None:
            generator = torch.Generator(device=parameter.device).manual_seed(seed)
        if parameter.ndim > 1:
            parameter.normal_(0.0, WEIGHT_STD, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def allow_missing_torchvision_ops() -> None:
    """Make torchvision importable where its compiled part does not fit this torch.

    timm imports torchvision. Against another build of torch (a CPU build is the common case) torchvision's
    compiled part does not load, and its import stops with "operator torchvision::nms does not exist". No
    model here uses those operators: their schemas, without an implementation, are all the import needs.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_torchvision_ops()


def _declare_torchvision_ops() -> None:
    global _torchvision_library
    _torchvision_library = torch.library.Library("torchvision", "FRAGMENT")
    _torchvision_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _torchvision_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


# A Library takes its schemas back when it is collected.
_torchvision_library: torch.library.Library | None = None
