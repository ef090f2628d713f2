"""The versions a result was measured with."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch


def versions() -> dict[str, str | None]:
    # Asked of the package metadata: a cell without compute does not import timm.
    try:
        timm: str | None = version("timm")
    except PackageNotFoundError:
        timm = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "timm": timm,
    }
