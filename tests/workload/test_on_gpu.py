"""What only a GPU can show. Skipped where there is none."""

import gzip
import json

import pytest
import torch

from bench.workload.devices import CudaDevice
from bench.workload.failures import RunFailure, name_failure
from bench.workload.link import measure_link
from bench.workload.models import build_model
from bench.workload.phases import Phases
from bench.workload.pipeline import no_beat
from bench.workload.progress import Progress
from bench.workload.run import build_pipeline, execute

from .cells import NO_COMPUTE, raw_cell, small_cell

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

MODEL = {"name": "vit32x2x128", "patch_size": 32, "depth": 2, "dim": 128, "heads": 4}
LARGE = {"model": MODEL, "image_size": 224, "batch_size": 10, "memory_size_mb": 64, "device": "cuda"}
EXECUTIONS = [
    {},
    {"cuda_graph": True},
    {"compile_model": "default"},
    {"compile_model": "reduce-overhead"},
    {"dtype": "bf16"},
    {"dtype": "tf32", "cuda_graph": True},
]
TOLERANCE = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 1e-1}


@pytest.mark.parametrize(
    ("buffers", "execution"),
    [(2, execution) for execution in EXECUTIONS] + [(buffers, EXECUTIONS[i]) for buffers in (1, 4) for i in (0, 1)],
    ids=str,
)
def test_every_batch_in_the_output_ring_is_right(buffers, execution):
    torch._dynamo.reset()
    cell = small_cell(buffers=buffers, **LARGE, **execution)
    with torch.inference_mode():
        device = CudaDevice(0)
        pipeline = build_pipeline(cell, device, Phases())
        pipeline.run(100, no_beat)
        pipeline.drain()
        model = build_model(cell, device.torch_device)
        for index in range(100 - len(pipeline.host_out), 100):
            source = pipeline.host_in[index % len(pipeline.host_in)].to(device.torch_device)
            plain = model.forward_features(source).cpu()
            tolerance = TOLERANCE[cell.dtype]
            torch.testing.assert_close(pipeline.output_of(index), plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("buffers", [1, 2, 3])
def test_without_compute_the_input_comes_back(buffers):
    cell = small_cell(buffers=buffers, **LARGE | {"model": NO_COMPUTE})
    with torch.inference_mode():
        pipeline = build_pipeline(cell, CudaDevice(0), Phases())
        pipeline.run(50, no_beat)
        pipeline.drain()
        for index in range(50 - len(pipeline.host_out), 50):
            source = pipeline.host_in[index % len(pipeline.host_in)]
            assert torch.equal(pipeline.output_of(index), source)


@pytest.mark.parametrize("execution", [{}, {"cuda_graph": True}], ids=str)
def test_a_timed_run_allocates_nothing_in_its_windows(execution):
    result = execute(raw_cell(**LARGE, **execution), "timed", Progress(), Phases())
    assert result["device_allocations_in_windows"] == 0
    assert result["device"]["type"] == "cuda"
    assert result["device"]["uuid"].startswith("GPU-")
    assert result["latency_us"]["p50"] >= result["solo_us"]["h2d"]
    assert min(result["solo_us"].values()) > 0
    rings = {name: buffer["pages"] for name, buffer in result["certificate"]["buffers"].items()}
    assert min(rings.values()) > 0


def test_a_torch_trace_has_every_copy_of_the_pass(tmp_path):
    trace = tmp_path / "trace.json.gz"
    result = execute(raw_cell(**LARGE), "traced", Progress(), Phases(), trace)
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    for direction, key in (("HtoD", "bytes_in_per_batch"), ("DtoH", "bytes_out_per_batch")):
        copies = [event for event in events if event.get("name", "").startswith(f"Memcpy {direction}")]
        assert len(copies) == result["batches_per_pass"]
        assert {copy["args"]["bytes"] for copy in copies} == {result[key]}
        assert all("Pinned" in copy["name"] for copy in copies)


def test_another_gpu_than_expected():
    with pytest.raises(RunFailure, match="expected GPU-0000"):
        execute(raw_cell(**LARGE, gpu_uuid="GPU-0000"), "timed", Progress(), Phases())


def test_device_memory_that_runs_out_is_oom():
    with pytest.raises(torch.cuda.OutOfMemoryError) as raised:
        execute(raw_cell(**LARGE | {"batch_size": 2_000_000}), "timed", Progress(), Phases())
    assert name_failure(raised.value).status == "oom"


def test_the_link_carries_both_ways():
    link = measure_link(CudaDevice(0), 6_021_120, 64 << 20, burst_s=0.02)
    assert 0 < link.both_gb_s <= 1.05 * max(link.h2d_gb_s, link.d2h_gb_s)
