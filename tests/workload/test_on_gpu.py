"""What only a GPU can show. Skipped where there is none."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.records.base import plain, read
from bench.records.run import ChildReport, HostBuffers, HugePages, Mode
from bench.trace.metrics import check_conservation, metrics
from bench.trace.reader import read_trace
from bench.trace.torch_trace import convert
from bench.workload.devices import CudaDevice
from bench.workload.failures import RunFailure, name_failure
from bench.workload.measure import first_batch_again
from bench.workload.models import build_model
from bench.workload.pipeline import no_beat
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.run import build_pipeline, execute
from tests.benchmarks.link import measure_link

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
    {"attention": "unfused"},
    {"attention": "unfused", "cuda_graph": True},
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
        pipeline = build_pipeline(cell, device, PhaseTimes())
        pipeline.run(100, no_beat)
        pipeline.drain()
        model = build_model(cell, device.torch_device)
        for index in range(100 - len(pipeline.host_out), 100):
            source = pipeline.host_in[index % len(pipeline.host_in)].to(device.torch_device)
            tolerance = TOLERANCE[cell.dtype]
            # Compared on the GPU: on the CPU these hundred comparisons take minutes.
            returned = pipeline.output_of(index).to(device.torch_device)
            torch.testing.assert_close(returned, model.forward_features(source), rtol=tolerance, atol=tolerance)


def test_graph_keeps_the_weights_that_it_reads():
    """Memory that is taken after the capture, as much as the weights take, must not be theirs."""
    cell = small_cell(**LARGE, cuda_graph=True)
    with torch.inference_mode():
        device = CudaDevice(0)
        pipeline = build_pipeline(cell, device, PhaseTimes())
        first_batch_again(pipeline)
        before = pipeline.output_of(0).clone()
        taken = [torch.full((1 << 14,), float("nan"), device=device.torch_device) for _ in range(1 << 10)]
        first_batch_again(pipeline)
        assert len(taken) and torch.equal(pipeline.output_of(0), before)


@pytest.mark.parametrize("buffers", [1, 2, 3])
def test_without_compute_the_input_comes_back(buffers):
    cell = small_cell(buffers=buffers, **LARGE | {"model": NO_COMPUTE})
    with torch.inference_mode():
        pipeline = build_pipeline(cell, CudaDevice(0), PhaseTimes())
        pipeline.run(50, no_beat)
        pipeline.drain()
        for index in range(50 - len(pipeline.host_out), 50):
            source = pipeline.host_in[index % len(pipeline.host_in)]
            assert torch.equal(pipeline.output_of(index), source)


@pytest.mark.parametrize("execution", [{}, {"cuda_graph": True}], ids=str)
def test_timed_run_allocates_nothing_in_its_windows(execution):
    result = execute(small_cell(**LARGE, **execution), Mode.TIMED, Progress(), PhaseTimes())
    assert result.device_allocations_in_windows == 0
    assert result.device.type == "cuda"
    assert result.device.uuid.startswith("GPU-")
    assert result.latency_us.p50 >= result.solo_us.h2d
    assert min(plain(result.solo_us).values()) > 0
    rings = {name: buffer.pages for name, buffer in result.certificate.buffers.items()}
    assert min(rings.values()) > 0


def test_torch_trace_has_every_copy_of_the_pass(tmp_path):
    trace = tmp_path / "trace.json.gz"
    result = execute(small_cell(**LARGE), Mode.TRACED, Progress(), PhaseTimes(), trace)
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    for direction, key in (("HtoD", "bytes_in_per_batch"), ("DtoH", "bytes_out_per_batch")):
        copies = [event for event in events if event.get("name", "").startswith(f"Memcpy {direction}")]
        assert len(copies) == result.batches_per_pass
        assert {copy["args"]["bytes"] for copy in copies} == {getattr(result, key)}
        assert all("Pinned" in copy["name"] for copy in copies)


def test_another_gpu_than_expected():
    with pytest.raises(RunFailure, match="expected GPU-0000"):
        execute(small_cell(**LARGE, gpu_uuid="GPU-0000"), Mode.TIMED, Progress(), PhaseTimes())


def test_device_memory_that_runs_out_is_oom():
    # 39 GB a slot.
    cell = small_cell(**LARGE | {"batch_size": 65_536, "buffers": 16})
    with pytest.raises(torch.cuda.OutOfMemoryError) as raised:
        execute(cell, Mode.TIMED, Progress(), PhaseTimes())
    assert name_failure(raised.value).status == "oom"


def test_link_carries_both_ways():
    link = measure_link(CudaDevice(0), 6_021_120, 64 << 20, burst_s=0.02)
    assert 0 < link.both_gb_s <= 1.05 * max(link.h2d_gb_s, link.d2h_gb_s)


KINDS = ["pinned", "pageable", "write-combined", "registered", "huge"]


def moved_right(**changes) -> tuple[HostBuffers, object]:
    """Run 60 batches without compute and compare the whole output ring; return the facts about memory."""
    cell = small_cell(**LARGE | {"model": NO_COMPUTE} | changes)
    with torch.inference_mode():
        pipeline = build_pipeline(cell, CudaDevice(0), PhaseTimes())
        pipeline.run(60, no_beat)
        pipeline.drain()
        for index in range(60 - len(pipeline.host_out), 60):
            assert torch.equal(pipeline.output_of(index), pipeline.rings.inputs[0][index % len(pipeline.host_in)])
        pipeline.close()
    return pipeline.rings.host_memory, pipeline


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("buffers", [1, 3])
def test_every_kind_of_host_memory_moves_batches_right(kind, buffers):
    try:
        facts, pipeline = moved_right(host_memory=kind, buffers=buffers)
    except RunFailure as failure:
        assert (kind, failure.status) == ("huge", "not_runnable"), failure
        pytest.skip(failure.what)
    assert (facts.kind, facts.synchronous_copies) == (kind, kind == "pageable")
    assert pipeline.rings.inputs[0].is_pinned() == pipeline.rings.outputs[0].is_pinned() == (kind != "pageable")
    if kind == "huge":
        assert facts.huge_pages == HugePages(
            inputs=pipeline.rings.inputs[0].nbytes, outputs=pipeline.rings.outputs[0].nbytes
        )


@pytest.mark.parametrize("kind", KINDS)
def test_certificate_covers_every_kind(kind):
    """Under a real binding: pages that cannot be located leave a run unproved, and never misplaced."""
    try:
        result = execute(
            small_cell(**LARGE | {"model": NO_COMPUTE}, host_memory=kind), Mode.TIMED, Progress(), PhaseTimes()
        )
    except RunFailure as failure:
        assert (kind, failure.status) == ("huge", "not_runnable"), failure
        pytest.skip(failure.what)
    buffers = result.certificate.buffers
    assert set(buffers) == {"input_ring", "output_ring"}
    for name, buffer in buffers.items():
        assert sum(buffer.end.values()) == buffer.pages
        located = sum(pages for node, pages in buffer.end.items() if node.isdigit())
        print(f"\n{kind} {name}: {located} of {buffer.pages} pages located, {buffer.end}")
        assert located == buffer.pages or (kind, name) == ("write-combined", "input_ring")


@pytest.mark.parametrize("buffers", [1, 2])
def test_sample_by_sample(buffers):
    moved_right(copy_granularity="sample", buffers=buffers)


@pytest.mark.parametrize("model", [MODEL, NO_COMPUTE], ids=lambda model: model["name"])
@pytest.mark.parametrize(
    "changes",
    [{"direction": "h2d"}, {"direction": "d2h"}, {"copy_granularity": "sample"}, {"preprocess_queue": 4}],
    ids=str,
)
def test_traces_of_other_copies_conserve_every_byte(tmp_path, model, changes):
    trace, export = tmp_path / "trace.json.gz", tmp_path / "trace.sqlite"
    result = execute(small_cell(**LARGE | {"model": model} | changes), Mode.TRACED, Progress(), PhaseTimes(), trace)
    convert(trace, export)
    found = metrics(read_trace(export))
    check_conservation(found, result.bytes_in_per_batch, result.bytes_out_per_batch, result.batches_per_pass)
    per_batch = 10 if "copy_granularity" in changes else 1
    for way, off in (("h2d", "d2h"), ("d2h", "h2d")):
        asked = changes.get("direction") != off
        assert getattr(found, way).copies == (result.batches_per_pass * per_batch if asked else 0)


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_one_way_computes_what_both_ways_compute(direction):
    one, both = (
        execute(small_cell(**LARGE, direction=way), Mode.TIMED, Progress(), PhaseTimes()) for way in (direction, "both")
    )
    assert one.output_checksum == both.output_checksum
    assert one.latency_us.p50 is None
    assert getattr(one.solo_us, "d2h" if direction == "h2d" else "h2d") == 0


@pytest.mark.parametrize("kind", ["pinned", "write-combined"])
@pytest.mark.parametrize("queue", [1, 8])
def test_prepared_batches_are_copied_before_reuse(kind, queue):
    """A ring just long enough: every entry is used again while its last copy may still be under way."""
    cell = small_cell(**LARGE | {"model": NO_COMPUTE, "memory_size_mb": 1}, preprocess_queue=queue, host_memory=kind)
    with torch.inference_mode():
        pipeline = build_pipeline(cell, CudaDevice(0), PhaseTimes())
        assert len(pipeline.host_in) == queue + 3
        expected = pipeline.rings.inputs[0].clone()
        pipeline.run(100, no_beat)
        pipeline.drain()
        for index in range(100 - len(pipeline.host_out), 100):
            assert torch.equal(pipeline.output_of(index), expected[index % len(expected)])
        pipeline.close()


@pytest.mark.parametrize(
    "mode",
    [
        "default",
        "reduce-overhead",
        pytest.param(
            "max-autotune",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_nothing_is_compiled_inside_the_windows(mode):
    result = execute(small_cell(**LARGE, compile_model=mode), Mode.TIMED, Progress(), PhaseTimes())
    assert result.compile.mode == mode
    assert 0 < result.compile.compile_s <= result.phases_s["compile"]
    assert result.compilations_in_windows == result.device_allocations_in_windows == 0


def started(folder: Path, name: str, module: str, *more: str, **changes) -> subprocess.Popen:
    (folder / f"{name}.cell").write_text(json.dumps(raw_cell(**LARGE | changes)))
    files = ["--cell", str(folder / f"{name}.cell"), "--result", str(folder / f"{name}.json")]
    return subprocess.Popen([sys.executable, "-m", module, *files, *more])


def test_second_process_loads_the_gpu(tmp_path):
    """Both on one GPU: a test has no more."""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    options = ["--barrier", str(meeting), "--peers", "2"]
    load = {"concurrent_load": "copies", "concurrent_gpus": 2}
    children = [
        started(tmp_path, "measured", "bench.workload", "--mode", "timed", *options, model=NO_COMPUTE),
        started(tmp_path, "peer", "bench.workload", "--mode", "load", *options, **load),
    ]
    assert [child.wait(120) for child in children] == [0, 0]
    measured, peer = (read(tmp_path / f"{name}.json", ChildReport).result for name in ("measured", "peer"))
    assert peer.buffer_layout == "held"
    assert peer.windows[0].start_ns < measured.windows[0].start_ns
    # The two share a link: together they carry no more than one of them could in isolation.
    isolated_samples_s = 10 * 1e6 / max(plain(measured.solo_us).values())
    assert measured.throughput_samples_s + peer.throughput_samples_s <= 1.05 * isolated_samples_s


def test_microbenchmarks(tmp_path):
    assert started(tmp_path, "link", "bench.workload.microbenchmark", "--largest-mb", "512").wait(120) == 0
    found = read(tmp_path / "link.json", ChildReport).link
    gb_s = {(row.direction, row.bytes): row.median_gb_s for row in found.copies}
    assert len(gb_s) == 3 * 10
    for way in ("h2d", "d2h"):
        assert gb_s[way, 4096] < gb_s[way, 512 << 20]
        assert getattr(found, f"nvbandwidth_{way}_gb_s") == pytest.approx(gb_s[way, 512 << 20], rel=0.1)
    assert min(found.small_copy_us, found.launch_us) > 0
    assert found.reasons == {}
