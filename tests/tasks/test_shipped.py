"""Every study that ships, and the commands of docs/studies.md that sweep one, at a tenth of QuickTest on the CPU.

One call of luigi, in the way a night's studies are run. `make test-studies` runs it, in about three minutes.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.study.load import shipped_names

LUIGI = Path(sys.executable).with_name("luigi")
TINY: dict[str, Any] = {
    "device": "cpu", "profiler": "torch", "binding": "none", "gpu_ids": [0], "numa_nodes": [0],
    "models": ["vit32x1x64"], "image_size": 32, "batch_size": 2, "num_samples": 8, "warmup_samples": 2,
    "memory_size_mb": 1, "repeats": 1, "disturbed_repeats": 0, "measure_link": False, "timeout_s": 240,
}  # fmt: skip
STEM = "pipeline_gpu0_numa0_"
# By study: what differs from TINY, and the cells of it.
VARIANTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nearest_node": ({}, {"vit32x1x64"}),
    "numa_locality_study": ({"sweep": {"dtype": ["bf16"]}}, {"vit32x1x64_bf16"}),
    "model_scaling_study": ({"sweep": {"depth": [2]}}, {"vit32x2x64"}),
    "compile_study": (
        {"sweep": {"compile_model": ["default"]}, "cuda_graph": False},
        {"vit32x1x64_compiled"},
    ),
    "contention_study": (
        {"sweep": {"concurrent_gpus": [2], "concurrent_load": ["copies"], "concurrent_placement": ["found"]}},
        {"vit32x1x64_gpus2_copies-load_found-load"},
    ),
    "placement_2x2": ({"numa_nodes": None, "placements": [[0, 0]]}, {"vit32x1x64"}),
    "rq1_model_architecture": (
        {"models": None, "sweep": {"patch_size": [16], "depth": [1], "dim": [64]}},
        {"vit16x1x64"},
    ),
    "rq2_resolution": ({"sweep": {"image_size": [64]}}, {"vit32x1x64_px64"}),
    "rq3_compilation": (
        {"sweep": {"batch_size": [4], "compile_model": ["default"]}, "cuda_graph": False},
        {"vit32x1x64_bs4_compiled"},
    ),
    "rq4_numa": (
        {"models": ["vit0x0x0"], "sweep": {"batch_size": [1], "memory_size_mb": [2]}, "cuda_graph": False},
        {"vit0x0x0_bs1_pool2"},
    ),
    "rq5_pipeline_design": (
        {
            "sweep": {"buffers": [1], "preprocess_queue": [2]},
            "include": [{"copy_granularity": "sample", "host_memory": "pageable", "direction": "h2d"}],
        },
        {"vit32x1x64_buf1_prep2", "vit32x1x64_pageable_sample-copies_h2d-only"},
    ),
}


def test_every_shipped_study_has_a_variant() -> None:
    """QuickTest runs as it is elsewhere, and SelfCheck is QuickTest with each cell twice."""
    assert set(VARIANTS) == set(shipped_names()) - {"quick_test", "self_check"}


@pytest.mark.timeout(3000)
@pytest.mark.slow
def test_small_variants_of_all_studies_run(tmp_path: Path) -> None:
    studies = []
    for name, (changes, _) in VARIANTS.items():
        overrides = {key: value for key, value in (TINY | changes).items() if value is not None}
        studies.append({"study": name, **overrides})
    (tmp_path / "nightly.yaml").write_text(yaml.safe_dump({"studies": studies}))
    command = [str(LUIGI), "--module", "tasks", "NightlySweep", "--date", "2025-11-22", "--local-scheduler"]
    command += ["--config-file", str(tmp_path / "nightly.yaml"), "--output-dir", str(tmp_path / "outputs")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=2900)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/*/results.json")]
    found = {
        one["study_name"]: {cell["name"]: (cell["outcome"], cell["reason"]) for cell in one["cells"]} for one in results
    }
    assert found == {
        name: dict.fromkeys((STEM + cell for cell in cells), ("ok", "")) for name, (_, cells) in VARIANTS.items()
    }, done.stderr[-4000:]
    assert done.returncode == 0, done.stderr[-4000:]
