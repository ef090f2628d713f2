import gc
import gzip
import json
import os
from functools import cache
from pathlib import Path

import pytest

from bench.records.base import decode, plain
from bench.records.run import Mode, Result
from bench.workload.progress import PHASES, PhaseTimes, Progress
from bench.workload.run import execute

from .cells import NO_COMPUTE, small_cell


@cache
def timed(seed: int = 0, computes: bool = True) -> Result:
    """One run for all tests that look at it."""
    changes = {} if computes else {"model": NO_COMPUTE}
    return execute(small_cell(seed=seed, **changes), Mode.TIMED, Progress(), PhaseTimes())


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    trace = tmp_path_factory.mktemp("trace") / "cell.json.gz"
    return execute(small_cell(), Mode.TRACED, Progress(), PhaseTimes(), trace), trace


@pytest.fixture(scope="module")
def events(traced) -> list[dict]:
    return [
        event for event in json.loads(gzip.decompress(traced[1].read_bytes()))["traceEvents"] if event.get("ph") == "X"
    ]


def test_timed_run_has_all_its_numbers():
    result = timed()
    text = json.dumps(plain(result), allow_nan=False)
    assert decode(text.encode(), Result) == result
    assert (result.batches_per_pass, result.input_ring_batches) == (10, 21)
    assert (result.bytes_in_per_batch, result.bytes_out_per_batch) == (49_152, 2_560)
    assert result.buffer_layout == "separate"
    assert len(result.windows) == 9
    assert all(window.duration_s >= 0.01 for window in result.windows)
    assert result.warmup.batches >= 3
    assert len(result.latency_us.quantiles) == 101
    assert result.latency_us.count >= 90
    assert set(plain(result.solo_us)) == {"h2d", "compute", "d2h"}
    assert tuple(result.phases_s) == PHASES
    assert result.device_allocations_in_windows == 0


def test_throughput_is_the_median_window():
    result = timed()
    rates = sorted(window.batches * 4 / window.duration_s for window in result.windows)
    assert result.throughput_samples_s == pytest.approx(rates[4])


def test_latencies_fit_into_the_windows():
    result = timed()
    longest = max(window.duration_s for window in result.windows) * 1e6
    assert 0 < result.latency_us.p50 <= result.latency_us.max <= longest


def test_checksum_depends_on_the_seed_only():
    assert execute(small_cell(), Mode.TIMED, Progress(), PhaseTimes()).output_checksum == timed().output_checksum
    assert timed(seed=1).output_checksum != timed().output_checksum


def test_traced_run_moves_the_same_tokens(traced):
    assert traced[0].output_checksum == timed().output_checksum


def test_without_compute():
    result = timed(computes=False)
    assert result.buffer_layout == "held"
    assert result.bytes_in_per_batch == result.bytes_out_per_batch
    assert result.solo_us.compute == 0
    # mean |x| of a standard normal distribution
    assert result.output_checksum == pytest.approx((2 / 3.14159265) ** 0.5, rel=0.02)


def test_certificate_covers_every_batch_and_both_rings():
    result = timed()
    certificate = result.certificate
    batches = sum(window.batches for window in result.windows)
    assert sum(certificate.cpus_seen.values()) >= batches
    assert {int(cpu) for cpu in certificate.cpus_seen} <= os.sched_getaffinity(0)
    assert set(certificate.buffers) == {"input_ring", "output_ring"}
    assert certificate.buffers["input_ring"].bytes == 21 * 49_152


def test_garbage_collector_is_restored():
    timed()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_traced_run_traces_one_pass(traced):
    result, _ = traced
    [window] = result.windows
    assert window.batches == result.batches_per_pass == 10
    assert result.latency_us is None
    assert result.solo_us is None
    assert sum(result.certificate.cpus_seen.values()) == 10


def test_trace_has_the_ranges_of_the_contract(events):
    ranges = {event["name"] for event in events if event.get("cat") == "user_annotation"}
    parts = ("", "h2d_", "compute_", "d2h_")
    expected = {f"test_{part}batch_{index}" for part in parts for index in range(10)}
    assert ranges == expected | {"test_double_buffer"}


def inside(events: list[dict], name: str) -> list[dict]:
    [outer] = [event for event in events if event["name"] == name]
    end = outer["ts"] + outer["dur"]
    return [event for event in events if outer["ts"] <= event["ts"] and event["ts"] + event["dur"] <= end]


@pytest.mark.parametrize("index", [0, 9])
def test_copies_and_operations_are_in_their_ranges(events, index):
    for stage in ("h2d", "d2h"):
        operations = [event["name"] for event in inside(events, f"test_{stage}_batch_{index}")]
        assert operations.count("aten::copy_") == 1
        assert "aten::linear" not in operations
    operations = [event["name"] for event in inside(events, f"test_compute_batch_{index}")]
    assert operations.count("aten::scaled_dot_product_attention") == 1


def test_copies_have_the_bytes_of_the_record(traced, events):
    [copy] = [event for event in inside(events, "test_h2d_batch_3") if event["name"] == "aten::copy_"]
    assert copy["args"]["Input Dims"][0] == [4, 3, 32, 32]
    assert traced[0].bytes_in_per_batch == 4 * 3 * 32 * 32 * 4
