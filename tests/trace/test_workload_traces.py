"""The workload itself, on the cpu device, under both profilers: what it emits is what is read."""

import json
import sys

import pytest

from bench.errors import TraceError
from bench.records.base import read
from bench.records.run import ChildReport
from bench.trace.export import open_export
from bench.trace.metrics import check_conservation, metrics
from bench.trace.profilers import get_profiler
from bench.trace.reader import read_trace, read_window
from tests.real_nsys import profiled

pytestmark = pytest.mark.slow

CELL = {
    "name": "pipeline_gpu0_numa0_vit32x2x128", "gpu": 0, "gpu_uuid": None, "cpu_node": 0, "mem_node": 0,
    "model": {"name": "vit32x2x128", "patch_size": 32, "depth": 2, "dim": 128, "heads": 4}, "image_size": 64,
    "batch_size": 5, "num_samples": 40, "warmup_samples": 10, "memory_size_mb": 8, "buffers": 2,
    "compile_model": "off", "cuda_graph": False, "dtype": "fp32", "device": "cpu", "binding": "none", "seed": 0,
    "windows": 9, "window_s": 0.1, "timeout_s": 600, "placement_threshold": 1.0,
}  # fmt: skip
NO_COMPUTE = {"name": "vit0x0x0", "patch_size": 0, "depth": 0, "dim": 0, "heads": 0}
BATCHES = 8


def traced(tmp_path, profiler, **changes):
    """(report, result of the workload)"""
    report = tmp_path / "nsys_reports" / CELL["name"]
    report.parent.mkdir()
    cell, result = tmp_path / "cell.json", tmp_path / "result.json"
    cell.write_text(json.dumps(CELL | changes | {"profiler": profiler.name}))
    argv = [sys.executable, "-m", "bench.workload", "--cell", str(cell), "--mode", "traced", "--result", str(result)]
    run = profiled(profiler, argv, report)
    profiler.collect(report, run.returncode, run.stderr)
    assert run.returncode == 0, run.stderr + run.stdout
    return report, read(result, ChildReport).result


@pytest.mark.parametrize("model", [CELL["model"], NO_COMPUTE], ids=lambda model: model["name"])
def test_torch_profiler_conserves_every_byte(tmp_path, model):
    profiler = get_profiler("torch")
    report, result = traced(tmp_path, profiler, model=model)
    profiler.export(report, tmp_path / "x.sqlite")
    found = metrics(read_trace(tmp_path / "x.sqlite"))
    check_conservation(found, result.bytes_in_per_batch, result.bytes_out_per_batch, BATCHES)
    assert (found.compute.kernels > 0) == (model is not NO_COMPUTE)


@pytest.mark.parametrize(
    "changes",
    [
        {"direction": "h2d", "copy_granularity": "sample"},
        {"direction": "d2h", "model": NO_COMPUTE},
        {"preprocess_queue": 2},
    ],
    ids=str,
)
def test_other_ways_to_copy_conserve_every_byte(tmp_path, changes):
    profiler = get_profiler("torch")
    report, result = traced(tmp_path, profiler, **changes)
    profiler.export(report, tmp_path / "x.sqlite")
    found = metrics(read_trace(tmp_path / "x.sqlite"))
    check_conservation(found, result.bytes_in_per_batch, result.bytes_out_per_batch, BATCHES)
    copies = BATCHES * (CELL["batch_size"] if "copy_granularity" in changes else 1)
    asked = {"h2d", "d2h"} & {changes.get("direction", "h2d"), changes.get("direction", "d2h")}
    assert {"h2d": found.h2d.copies, "d2h": found.d2h.copies} == {
        way: copies if way in asked else 0 for way in ("h2d", "d2h")
    }


def test_nsys_sees_the_ranges(real_nsys, tmp_path):
    profiler = get_profiler("nsys")
    report, _ = traced(tmp_path, profiler)
    profiler.export(report, tmp_path / "x.sqlite")
    with open_export(tmp_path / "x.sqlite") as export:
        assert read_window(export).batch_names == tuple(f"test_batch_{i}" for i in range(BATCHES))
    with pytest.raises(TraceError, match="no CUDA activity in this trace"):
        read_trace(tmp_path / "x.sqlite")
