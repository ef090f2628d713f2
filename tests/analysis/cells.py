"""Cells of results.json with chosen throughputs. No measurement: every number is made up."""

from typing import Any

import numpy as np

Record = dict[str, Any]


def made_cell(
    throughputs: list[float],
    *,
    gpu: int = 0,
    cpu_node: int = 0,
    mem_node: int | None = None,
    model: str = "vit32x2x128",
    name: str | None = None,
    noise_class: str = "rest",
    first_block: int = 1,
    **settings: Any,
) -> Record:
    """throughputs: of block first_block, first_block + 1, ... ; nan is a failed run."""
    mem_node = cpu_node if mem_node is None else mem_node
    settings = {"batch_size": 10, "device": "cuda", "cuda_graph": False, "buffers": 2} | settings
    name = name or f"pipeline_gpu{gpu}_numa{mem_node}_{model}_cpu{cpu_node}_{settings['batch_size']}"
    key = f"{gpu} {cpu_node} {mem_node} {model} {sorted(settings.items())}"
    runs = [
        {
            "run": f"{name}_r{block}",
            "repeat": block,
            "status": "crashed" if np.isnan(throughput) else "ok",
            "reason": "",
            "block": block,
            "position": block,
            "throughput_samples_s": None if np.isnan(throughput) else float(throughput),
        }
        for block, throughput in enumerate(throughputs, first_block)
    ]
    good = [throughput for throughput in throughputs if not np.isnan(throughput)]
    return {
        "name": name,
        "key": key,
        "gpu": gpu,
        "cpu_node": cpu_node,
        "mem_node": mem_node,
        "model": {"name": model, "depth": 2, "dim": 128, "heads": 4, "patch_size": 32},
        "settings": settings,
        "outcome": "ok" if good else "crashed",
        "reason": "" if good else "killed by SIGSEGV",
        "noise_class": noise_class,
        "throughput_samples_s": float(np.exp(np.mean(np.log(good)))) if good else None,
        "runs": runs,
    }


def noisy(level: float, runs: int = 6, sd: float = 0.002, seed: int = 0) -> list[float]:
    return (level * np.exp(np.random.default_rng(seed).normal(0, sd, runs))).tolist()
