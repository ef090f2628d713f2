"""The workload on a GPU: against the link that this process measures, and against the original pipeline.

The original's figures are of an H100 host (batch 10, 1,000 samples, no profiler); they are compared only on GPUs
of that class. Run with -s to see the tables.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.records.base import convert, plain, read
from bench.records.run import ChildReport, Mode, Result
from bench.records.study import Cell
from bench.workload.devices import CudaDevice
from bench.workload.failures import RunFailure
from bench.workload.measure import LatencyMarks, WarmupRule, batches_in, run_window, throughput_samples_s, warm_up
from bench.workload.pipeline import no_beat
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.run import build_pipeline, execute
from tests.benchmarks.link import measure_link

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

# Patch, depth, dim, heads, and the original's samples/s.
MODELS = {
    "vit0x0x0": (0, 0, 0, 0, 21_837),
    "vit32x2x128": (32, 2, 128, 4, 5_795),
    "vit32x4x256": (32, 4, 256, 8, 4_720),
    "vit32x6x512": (32, 6, 512, 8, 2_227),
    "vit16x8x768": (16, 8, 768, 12, 1_354),
    "vit16x12x1024": (16, 12, 1024, 16, 612),
}
LAUNCH_BOUND = ("vit32x2x128", "vit32x4x256", "vit32x6x512")
# Samples/s of CUDA graphs that a later goal asks for, by model and dtype.
GRAPH_GOALS = {
    ("vit32x2x128", "fp32"): 41_000,
    ("vit32x6x512", "fp32"): 8_000,
    ("vit16x12x1024", "bf16"): 5_700,
}


def cell(name: str, **changes: Any) -> Cell:
    patch, depth, dim, heads, _ = MODELS[name]
    raw = {
        "name": f"pipeline_gpu0_numa0_{name}", "gpu": 0, "gpu_uuid": None, "cpu_node": 0, "mem_node": 0,
        "model": {"name": name, "patch_size": patch, "depth": depth, "dim": dim, "heads": heads},
        "image_size": 224, "batch_size": 10, "num_samples": 1000, "warmup_samples": 100,
        "memory_size_mb": 512, "buffers": 2, "compile_model": "off", "cuda_graph": False, "dtype": "fp32",
        "device": "cuda", "profiler": "torch", "binding": "none", "seed": 0, "windows": 9, "window_s": 0.1,
        "timeout_s": 600, "placement_threshold": 1.0,
    }  # fmt: skip
    return convert(raw | changes, Cell)


def timed(benchmark: Any, cell: Cell) -> Result:
    return benchmark.pedantic(lambda: execute(cell, Mode.TIMED, Progress(), PhaseTimes()), rounds=1)


def is_hopper() -> bool:
    return any(name in torch.cuda.get_device_name(0) for name in ("H100", "H200"))


def show(result: Result, **more: Any) -> None:
    latency = result.latency_us
    facts = {
        "samples/s": round(result.throughput_samples_s),
        "p50_us": latency.p50 and round(latency.p50, 1),
        "p99_us": latency.p99 and round(latency.p99, 1),
        "issue_us": round(result.issue_us, 1),
        "solo_us": {stage: round(value, 1) for stage, value in plain(result.solo_us).items()},
        "settled": result.warmup.settled,
        **more,
    }
    print("\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))


def test_no_compute_reaches_the_link(benchmark):
    raw = cell("vit0x0x0")
    result = timed(benchmark, raw)
    link = measure_link(CudaDevice(0), result.bytes_in_per_batch, raw.memory_size_mb << 20)
    share = result.throughput_samples_s / link.samples_s(raw.batch_size)
    show(result, link=link, ceiling=round(link.samples_s(10)), share=round(share, 4))
    benchmark.extra_info["share_of_link"] = share
    assert share >= 0.97


@pytest.mark.parametrize("name", [name for name in MODELS if name != "vit0x0x0"])
def test_eager_models_against_the_original(benchmark, name):
    result = timed(benchmark, cell(name))
    ratio = result.throughput_samples_s / MODELS[name][4]
    show(result, model=name, times_the_original=round(ratio, 2))
    benchmark.extra_info["times_the_original"] = ratio
    if is_hopper():
        assert ratio >= (1.5 if name in LAUNCH_BOUND else 1.0)


@pytest.mark.parametrize(("name", "dtype"), list(GRAPH_GOALS))
def test_cuda_graphs(benchmark, name, dtype):
    result = timed(benchmark, cell(name, cuda_graph=True, dtype=dtype))
    show(result, model=name, dtype=dtype, goal=GRAPH_GOALS[name, dtype])
    benchmark.extra_info["samples_s"] = result.throughput_samples_s


KINDS = ("pinned", "pageable", "write-combined", "registered", "huge")


@pytest.mark.parametrize("kind", KINDS)
def test_host_memory_without_compute(benchmark, kind):
    """Each kind against torch's pinned memory on the link of this run."""
    try:
        result = timed(benchmark, cell("vit0x0x0", host_memory=kind))
    except RunFailure as failure:
        pytest.skip(failure.what)
    link = measure_link(CudaDevice(0), result.bytes_in_per_batch, 512 << 20)
    share = result.throughput_samples_s / link.samples_s(10)
    show(result, host_memory=kind, share=round(share, 4), verdict=result.certificate.verdict)
    benchmark.extra_info["share_of_pinned_link"] = share
    if kind in ("pinned", "registered"):
        assert share >= 0.95


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_one_way_without_compute(benchmark, direction):
    result = timed(benchmark, cell("vit0x0x0", direction=direction))
    link = measure_link(CudaDevice(0), 6_021_120, 512 << 20)
    share = result.throughput_samples_s * 602_112 / 1e9 / getattr(link, f"{direction}_gb_s")
    show(result, direction=direction, share=round(share, 4))
    benchmark.extra_info["share_of_link"] = share
    assert share >= 0.95


@pytest.mark.parametrize("name", ["vit0x0x0", "vit32x2x128"])
def test_sample_by_sample_against_batch_by_batch(benchmark, name):
    """What the original pipeline's copy per sample costs: ten small copies in place of one."""
    batches = execute(cell(name, cuda_graph=name != "vit0x0x0"), Mode.TIMED, Progress(), PhaseTimes())
    result = timed(benchmark, cell(name, cuda_graph=name != "vit0x0x0", copy_granularity="sample"))
    share = result.throughput_samples_s / batches.throughput_samples_s
    show(result, model=name, of_batch_copies=round(share, 3))
    benchmark.extra_info["of_batch_copies"] = share


@pytest.mark.parametrize("queue", [1, 4])
def test_prepared_batches(benchmark, queue):
    result = timed(benchmark, cell("vit0x0x0", preprocess_queue=queue))
    batches = sum(window.batches for window in result.windows)
    pace = 10 * 1e6 / result.solo_us.prepare
    show(result, queue=queue, waited=f"{result.waited_batches_in_windows}/{batches}", thread_alone=round(pace))
    benchmark.extra_info["of_the_thread_alone"] = result.throughput_samples_s / pace


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(benchmark, mode):
    result = timed(benchmark, cell("vit32x2x128", compile_model=mode))
    show(result, mode=mode, compile_s=round(result.compile.compile_s, 1))
    benchmark.extra_info["compile_s"] = result.compile.compile_s


def test_microbenchmarks(benchmark, tmp_path: Path):
    """All of a placement's link figures as a process; the limit is 10 s."""
    (tmp_path / "cell.json").write_text(json.dumps(plain(cell("vit0x0x0"))))
    files = ["--cell", str(tmp_path / "cell.json"), "--result", str(tmp_path / "result.json")]
    argv = [sys.executable, "-m", "bench.workload.microbenchmark", *files]
    benchmark.pedantic(lambda: subprocess.run(argv, check=True, capture_output=True), rounds=1)
    found = read(tmp_path / "result.json", ChildReport).link
    print()
    for row in found.copies:
        print(f"{row.direction:5} {row.bytes:>11} {row.median_gb_s:8.3f} GB/s  {row.count}")
    kept = ("nvbandwidth_h2d_gb_s", "nvbandwidth_d2h_gb_s", "small_copy_us", "launch_us", "measured_s", "process_s")
    print({key: round(getattr(found, key), 2) for key in kept})
    benchmark.extra_info.update({key: getattr(found, key) for key in kept})
    assert found.process_s <= 10


def test_what_latency_marks_cost(benchmark):
    """vit0x0x0 with no batch marked, some, and all: throughput of nine windows each, taken in turn."""
    parsed = cell("vit0x0x0")
    with torch.inference_mode():
        pipeline = build_pipeline(parsed, CudaDevice(0), PhaseTimes())
        warmup = warm_up(pipeline, WarmupRule(0.1, 10), Progress())
        count = batches_in(0.1, warmup.batch_s)
        kinds = {"none": None, "some": LatencyMarks(pipeline.device), "all": LatencyMarks(pipeline.device, count)}
        for marks in kinds.values():
            if marks:
                marks.prepare(count)
        windows: dict[str, list] = {kind: [] for kind in kinds}

        def turns() -> None:
            for _ in range(9):
                for kind, marks in kinds.items():
                    windows[kind].append(run_window(pipeline, count, no_beat, marks))

        benchmark.pedantic(turns, rounds=1)
    rates = {kind: round(throughput_samples_s(found, 10)) for kind, found in windows.items()}
    print(f"\nlatency marks on vit0x0x0, samples/s: {rates}")
    benchmark.extra_info.update(rates)


@pytest.mark.parametrize("mode", ["timed", "traced"])
@pytest.mark.parametrize("name", ["vit0x0x0", "vit32x6x512"])
def test_where_the_wall_time_goes(benchmark, tmp_path: Path, name, mode):
    (tmp_path / "cell.json").write_text(json.dumps(plain(cell(name))))
    result = tmp_path / "result.json"
    argv = [
        sys.executable, "-m", "bench.workload", "--cell", str(tmp_path / "cell.json"), "--mode", mode,
        "--result", str(result), "--trace", str(tmp_path / "trace.json.gz"),
    ]  # fmt: skip

    def run() -> float:
        began = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True)
        return time.perf_counter() - began

    wall_s = benchmark.pedantic(run, rounds=1)
    phases = dict(read(result, ChildReport).result.phases_s)
    phases["exit"] = wall_s - sum(phases.values())
    shown = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in phases.items())
    print(f"\n{name} {mode}: {wall_s:.2f} s = {shown}")
    benchmark.extra_info.update(phases)
