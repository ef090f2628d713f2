"""Models from elsewhere through the whole of a study's stages: runs, traces, bytes."""

import shutil
from pathlib import Path

import pytest
import torch

from bench.host.fingerprint import find_nsys
from bench.records.run import Run
from bench.records.study import TRACED
from bench.run.attempt import execute
from bench.run.lock import HostLock
from bench.run.stages import export_trace, extract_metrics
from bench.study.directory import resolve
from bench.study.load import load_study, read_study

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {"device": "cpu", "numa_nodes": [0], "profiler": "torch", "warmup_samples": 1, "window_s": 0.1}


def traced(directory, lock) -> dict[str, Run]:
    """The traced run of every cell, by its model."""
    grid, found = directory.grid(), {}
    for cell in grid.cells:
        record = execute(directory, cell, grid.slot(cell.name, TRACED), "now", lock, lambda _: None)
        assert record.ok, record.reason
        found[cell.model.name] = record
    return found


def check_traces(directory) -> None:
    for cell in directory.grid().cells:
        assert export_trace(directory, cell, "now").ok
        stage = extract_metrics(directory, cell, "now")
        assert stage.ok, stage.reason


@pytest.mark.slow
def test_traced_bytes_are_those_of_the_leaves(tmp_path):
    """One leaf and several."""
    folder = tmp_path / "own"
    folder.mkdir(mode=0o755)
    shutil.copy(Path(__file__).parents[1] / "workload" / "factories.py", folder / "factories.py")
    with torch.inference_mode(False):
        torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.ones(2, 8),)), folder / "net.pt2")
    (folder / "net.pt2").chmod(0o600)
    asked = SMALL | {
        "name": "sources", "gpu_ids": [0], "batch_size": 2, "num_samples": 20, "memory_size_mb": 1,
        "models": ["timm:test_vit", "python:factories:nested", "pt2:net.pt2"], "python_path": ["."],
    }  # fmt: skip
    directory = resolve(read_study(asked, "study.yaml", folder=folder), tmp_path / "outputs", False, "now")
    runs = traced(directory, HostLock(tmp_path))
    check_traces(directory)
    timm = runs["timm-test_vit"].result
    assert timm.bytes_in_per_batch == 2 * 3 * 160 * 160 * 4 and timm.subject.repeatable
    nested = runs["py-nested"].result
    assert (nested.bytes_in_per_batch, nested.bytes_out_per_batch) == (3 * 16, 2 * 16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("profiler", ["torch", "nsys"])
def test_traced_bytes_on_a_gpu_are_those_of_the_leaves(tmp_path, profiler):
    """The export fails unless every batch and byte is in the trace."""
    if profiler == "nsys" and find_nsys() is None:
        pytest.skip("nsys is not installed")
    folder = tmp_path / "own"
    folder.mkdir(mode=0o755)
    for file in (Path(__file__).parents[1] / "workload" / "factories.py", EXAMPLES / "kv_cache.py"):
        shutil.copy(file, folder / file.name)
    asked = SMALL | {
        "name": "sources", "gpu_ids": [0], "batch_size": 8, "num_samples": 160, "memory_size_mb": 512, "device": "cuda",
        "models": ["timm:resnet50", "timm:vit_base_patch16_224", "python:factories:nested", "python:kv_cache:make"],
        "python_path": ["."], "profiler": profiler, "dtype": "tf32",
    }  # fmt: skip
    directory = resolve(read_study(asked, "study.yaml", folder=folder), tmp_path / "outputs", False, "now")
    runs = traced(directory, HostLock(tmp_path))
    check_traces(directory)
    for name in ("timm-resnet50", "timm-vit_base_patch16_224"):
        result = runs[name].result
        assert (result.bytes_in_per_batch, result.bytes_out_per_batch) == (8 * 3 * 224 * 224 * 4, 8 * 1000 * 4)
    assert runs["py-nested"].result.bytes_in_per_batch == 3 * 8 * 2 * 4
    assert runs["py-make"].result.bytes_in_per_batch == 8 * 16 * (2 << 20) + 8 * 32 * 32 * 128 * 4


@pytest.mark.slow
def test_example_of_a_paged_cache(tmp_path):
    given = SMALL | {"batch_size": 1, "num_samples": 2, "memory_size_mb": 64, "repeats": 1}
    definition = load_study(EXAMPLES / "kv_cache.yaml", given)
    directory = resolve(definition, tmp_path / "outputs", False, "now")
    runs = traced(directory, HostLock(tmp_path))
    check_traces(directory)
    result = runs["py-make"].result
    assert result.bytes_in_per_batch == 16 * (2 << 20) + 32 * 32 * 128 * 2
    assert result.subject.inputs[1] == "bfloat16 [32, 2, 8, 16, 128]" and len(result.subject.inputs) == 17
