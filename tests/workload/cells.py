"""Cells small enough for a test: a few milliseconds per pass on two CPUs."""

from typing import Any

from bench.records.base import convert
from bench.records.study import Cell

NO_COMPUTE = {"name": "vit0x0x0", "patch_size": 0, "depth": 0, "dim": 0, "heads": 0}
TINY = {"name": "vit16x1x32", "patch_size": 16, "depth": 1, "dim": 32, "heads": 2}


def raw_cell(**changes: Any) -> dict[str, Any]:
    """As the parent writes it to cell.json."""
    return {
        "name": "pipeline_gpu0_numa0_vit16x1x32",
        "gpu": 0,
        "gpu_uuid": None,
        "cpu_node": 0,
        "mem_node": 0,
        "model": TINY,
        "image_size": 32,
        "batch_size": 4,
        "num_samples": 40,
        "warmup_samples": 12,
        "memory_size_mb": 1,
        "buffers": 2,
        "compile_model": "off",
        "cuda_graph": False,
        "dtype": "fp32",
        "device": "cpu",
        "profiler": "torch",
        "binding": "none",
        "seed": 0,
        "windows": 9,
        "window_s": 0.01,
        "timeout_s": 60,
        "placement_threshold": 1.0,
    } | changes


def small_cell(**changes: Any) -> Cell:
    return convert(raw_cell(**changes), Cell)
