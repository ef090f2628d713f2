"""What a plan costs: a grid of 5,000 cells in <= 3 s, from the shell to its last line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.study.directory import resolve
from bench.study.load import load_study

NUMASTUDY = Path(sys.executable).with_name("numastudy")
# 10 x 3 x 4 x 7 x 6 = 5,040 cells, 7 runs each.
SWEEP = {
    "batch_size": [1, 2, 4, 5, 8, 10, 20, 40, 50, 100],
    "dtype": ["fp32", "bf16", "fp16"],
    "buffers": [1, 2, 3, 4],
    "memory_size_mb": [128, 256, 512, 1024, 2048, 4096, 8192],
    "depth": [2, 4, 6, 8, 10, 12],
}
CELLS = 5040
STUDY = {"models": ["vit32x2x256"], "num_samples": 1000, "repeats": 6, "device": "cpu", "binding": "none"}


def plan(folder: Path, *options: str) -> str:
    command = [str(NUMASTUDY), "plan", "QuickTest", "--output-dir", str(folder), *options]
    for key, value in STUDY.items():
        command += [f"--{key.replace('_', '-')}", json.dumps(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("frozen", [False, True], ids=["new", "frozen"])
def test_plan_of_5000_cells(benchmark, tmp_path: Path, frozen: bool) -> None:
    """Goal: 3 s. frozen: the run directory is there and nothing in it is done. Baseline: one cell of the same study."""
    if frozen:
        resolve(load_study("QuickTest", STUDY | {"sweep": SWEEP}), tmp_path, False, "bench")
    said = benchmark.pedantic(plan, args=(tmp_path, "--sweep", json.dumps(SWEEP)), rounds=5, warmup_rounds=1)
    assert f"{CELLS} cells" in said and f"{7 * CELLS} runs" in said
    assert ("goes on in" in said) == frozen


def test_plan_of_one_cell(benchmark, tmp_path: Path) -> None:
    said = benchmark.pedantic(plan, args=(tmp_path,), rounds=5, warmup_rounds=1)
    assert "1 cell (" in said
