import gzip
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import TraceError
from bench.trace.metrics import check_conservation, metrics
from bench.trace.reader import read_trace
from bench.trace.torch_trace import FURTHEST, _ns, convert
from tests.trace.oracle import oracle
from tests.trace.test_metrics import contract

# A stand-in for the workload: the ranges of the contract around real copies and a real product.
PROGRAM = """
import sys, torch
from torch.profiler import ProfilerActivity, profile, record_function
torch.set_num_threads(1)
batches, path = int(sys.argv[1]), sys.argv[2]
source, slot = torch.ones(4, 3, 8, 8), torch.empty(4, 3, 8, 8)
weight, out = torch.ones(192, 16, dtype=torch.float32), torch.empty(4, 16)

def batch(prefix, i):
    with record_function(f"{prefix}_batch_{i}"):
        with record_function(f"{prefix}_h2d_batch_{i}"):
            slot.copy_(source, non_blocking=True)
        with record_function(f"{prefix}_compute_batch_{i}"):
            result = torch.relu(torch.nn.functional.linear(slot.flatten(1), weight.T))
        with record_function(f"{prefix}_d2h_batch_{i}"):
            out.copy_(result)

with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
    for i in range(3):
        batch("warmup", i)
    batch("test", 0)
    with record_function("test_double_buffer"):
        for i in range(batches):
            batch("test", i)
profiler.export_chrome_trace(path)
"""


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "trace.json.gz"
    subprocess.run([sys.executable, "-c", PROGRAM, "12", str(path)], check=True, timeout=280)
    return path


def test_a_real_profile_of_the_cpu_device_conserves_every_byte(recorded, tmp_path):
    convert(recorded, tmp_path / "x.sqlite")
    found = metrics(read_trace(tmp_path / "x.sqlite"))
    check_conservation(found, 4 * 3 * 8 * 8 * 4, 4 * 16 * 4, batches=12)
    assert found.h2d.copies == found.d2h.copies == 12
    assert found.compute.kernels == 12 * 4  # flatten, t, linear, relu; not what they call
    assert found.overlap_ns == 0
    assert contract(found) == oracle(tmp_path / "x.sqlite")


def test_the_cpu_device_is_named_as_such(recorded, tmp_path):
    convert(recorded, tmp_path / "x.sqlite")
    assert read_trace(tmp_path / "x.sqlite").devices[0].name == "CPU device: no GPU was measured"


def test_copies_without_shapes_are_an_error_by_name(recorded, tmp_path):
    trace = json.loads(gzip.decompress(recorded.read_bytes()))
    for event in trace["traceEvents"]:
        for key in ("Input Dims", "Input type"):
            event.get("args", {}).pop(key, None)
    (tmp_path / "trace.json").write_text(json.dumps(trace))
    with pytest.raises(TraceError, match="without sizes"):
        convert(tmp_path / "trace.json", tmp_path / "x.sqlite")
    assert not (tmp_path / "x.sqlite").exists()


def gpu_trace():
    """Written by hand in the form of Kineto: pinned and pageable copies, and a graph launch of three nodes."""

    def event(category, name, ts, dur, pid, tid, **args):
        return {"ph": "X", "cat": category, "name": name, "ts": ts, "dur": dur, "pid": pid, "tid": tid, "args": args}

    def work(category, name, ts, dur, stream, correlation, **args):
        more = {"device": 0, "context": 1, "stream": stream, "correlation": correlation, **args}
        return event(category, name, ts, dur, 0, stream, **more)

    return {
        "deviceProperties": [{"id": 0, "name": "NVIDIA H200"}],
        "traceEvents": [
            {"ph": "M", "name": "process_name", "pid": 77, "args": {}},
            event("user_annotation", "test_double_buffer", 100.0, 50.0, 77, 78),
            event("user_annotation", "test_batch_0", 101.001, 20.0, 77, 78),
            event("cuda_runtime", "cudaMemcpyAsync", 102.5, 1.25, 77, 78, correlation=1),
            event("cuda_runtime", "cudaGraphLaunch", 104.0, 2.0, 77, 78, correlation=2),
            event("cuda_runtime", "cudaMemcpyAsync", 107.0, 1.0, 77, 78, correlation=3),
            event("cuda_runtime", "cudaEventRecord", 108.0, 1.0, 77, 78),
            work("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 103.001, 10.999, 13, 1, bytes=640),
            work("kernel", "gemm", 114.0, 5.0, 17, 2),
            work("kernel", "relu", 120.0, 5.0, 17, 2),
            work("gpu_memset", "Memset (Device)", 125.0, 1.0, 17, 2, bytes=4),
            work("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 126.0, 2.0, 7, 3, bytes=64),
            event("gpu_user_annotation", "test_batch_0", 103.0, 30.0, 0, 13),
        ],
    }


def test_gpu_events_become_the_tables_of_nsys(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(gpu_trace()))
    convert(path, tmp_path / "x.sqlite")
    trace = read_trace(tmp_path / "x.sqlite")
    found = metrics(trace)
    assert (found.h2d.bytes, found.h2d.busy_ns) == (640, 10_999)
    assert (found.compute.kernels, found.compute.memsets, found.compute.busy_ns) == (2, 1, 11_000)
    assert (found.d2h.bytes, found.window_ns, found.idle_ns) == (64, 24_999, 1_000)
    assert trace.devices[0].name == "NVIDIA H200"
    assert trace.null_streams == {7}
    host = trace.copies.host_memory
    assert [kind in trace.pageable_kinds for kind in host.tolist() if kind >= 0] == [False, True]


def converted(tmp_path, trace):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace))
    convert(path, tmp_path / "x.sqlite")
    return metrics(read_trace(tmp_path / "x.sqlite"))


@pytest.mark.parametrize("pid", [77, 2**31 + 5, "77", "python 77", -3])
@pytest.mark.parametrize("tid", [78, 2**24, 2**31 + 7, 140_211_634_091_840, "78", "thread 78 (main)", -559_038_737])
def test_ids_of_processes_and_threads_may_be_large_or_text(tmp_path, pid, tid):
    trace = gpu_trace()
    for event in trace["traceEvents"]:
        if event["pid"] == 77:
            event["pid"], event["tid"] = pid, tid
    found = converted(tmp_path, trace)
    assert (found.window_ns, found.complete.launches, found.complete.other_threads) == (24_999, 3, 0)


def test_threads_with_large_ids_are_distinct(tmp_path):
    trace = gpu_trace()
    elsewhere = {"device": 0, "context": 1, "stream": 9, "correlation": 9}
    trace["traceEvents"] += [
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 103.0, "dur": 1.0, "pid": 77,
         "tid": 78 + 2**32, "args": {"correlation": 9}},
        {"ph": "X", "cat": "kernel", "name": "k", "ts": 110.0, "dur": 1.0, "pid": 0, "tid": 9, "args": elsewhere},
    ]  # fmt: skip
    assert converted(tmp_path, trace).complete.other_threads == 1


def test_a_device_without_a_name_is_read(tmp_path):
    trace = gpu_trace()
    trace["deviceProperties"] = [{"id": 0}]
    assert [(device.id, device.name) for device in converted(tmp_path, trace).devices] == [(0, None)]


def test_a_trace_of_rocm_is_called_what_it_is(tmp_path):
    without_bytes, hip = gpu_trace(), gpu_trace()
    for event in without_bytes["traceEvents"]:
        event["args"].pop("bytes", None)
    for event in hip["traceEvents"]:
        event["name"] = event["name"].replace("cuda", "hip")
    for trace, lacks in ((without_bytes, "2 of 2 copies have no bytes"), (hip, "API calls are those of HIP")):
        with pytest.raises(TraceError, match=rf"a trace of ROCm \(AMD GPU\): .*{lacks}"):
            converted(tmp_path, trace)


@pytest.mark.parametrize("key", ["device", "stream", "correlation"])
def test_what_an_event_lacks_is_named(tmp_path, key):
    trace = gpu_trace()
    del trace["traceEvents"][-3]["args"][key]
    with pytest.raises(TraceError, match=f"gpu_memset 'Memset .Device.' has no {key}"):
        converted(tmp_path, trace)


def test_a_kernel_without_time_is_refused(tmp_path):
    trace = gpu_trace()
    trace["traceEvents"][8] |= {"ts": 0, "dur": 0}
    with pytest.raises(TraceError, match="1 of 2 activities of the window have no time"):
        converted(tmp_path, trace)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a trace of torch.profiler"),
        (b"[]", "a list of events"),
        (b'{"schema": 2}', "no traceEvents"),
        (b'{"traceEvents": [{"ph": "X", "cat": "kernel"}]}', "not a trace of torch.profiler: 'ts' is missing"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"traceEvents": [{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":1,"pid":0,"tid":7}]}', "no CUDA API call"),
        (b'{"traceEvents": []}', "no GPU activity, and no operator inside ranges"),
        (gzip.compress(b"x", mtime=0), "not a trace of torch.profiler"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message) as caught:
        convert(path, tmp_path / "x.sqlite")
    assert caught.value.where == str(path)


def test_a_trace_that_was_never_written_is_named(tmp_path):
    with pytest.raises(TraceError, match="left no trace"):
        convert(tmp_path / "none.json.gz", tmp_path / "x.sqlite")


@given(st.integers(0, FURTHEST - 1))
def test_microseconds_become_ns_without_loss(ns):
    assert _ns(f"{ns // 1000}.{ns % 1000:03d}") == ns
