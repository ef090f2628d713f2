"""Transparent huge pages, of which a busy machine may have none until its memory is compacted."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from bench.workload.failures import RunFailure


def in_huge_pages(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `make` returns; skips the running test where there is no free memory in one piece."""
    try:
        return make()
    except RunFailure:
        with suppress(OSError):  # root may ask for it
            Path("/proc/sys/vm/compact_memory").write_text("1")
    try:
        return make()
    except RunFailure as failure:
        pytest.skip(f"no free memory in one piece: {failure.what}")
