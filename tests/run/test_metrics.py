"""Outputs as the programs write them, with other numbers.

hyperfine, llama-bench, LoadGen and `vllm bench serve` were run for it; of the others the sources that write them were
read: `vllm bench throughput` and `latency`, SGLang, nccl-tests, nvbandwidth, TensorRT-LLM.
"""

import json
import re

import pytest

from bench.records.metric import Better, Read
from bench.run.metrics import NoMetric, match_metrics, read_metrics, wall_metric

HYPERFINE = """{
  "results": [
    {
      "command": "sleep 0.02",
      "mean": 0.026139580940000004,
      "stddev": 0.002427716102294911,
      "median": 0.026983604940000003,
      "user": 0.0014392899999999998,
      "system": 0.0,
      "min": 0.022684761940000003,
      "max": 0.02790635194,
      "times": [
        0.02620919894,
        0.022684761940000003,
        0.02790635194,
        0.02775801094
      ],
      "exit_codes": [
        0,
        0,
        0,
        0
      ]
    }
  ]
}
"""
VLLM = json.dumps(
    {
        "date": "20261129-101500", "backend": "vllm", "num_prompts": 200, "request_rate": "inf", "burstiness": 1.0,
        "max_concurrency": None, "duration": 25.2, "completed": 200, "failed": 0, "total_input_tokens": 204800,
        "total_output_tokens": 25600, "request_throughput": 7.94, "output_throughput": 1015.9,
        "total_token_throughput": 9143.0, "mean_ttft_ms": 812.4, "median_ttft_ms": 790.1, "p99_ttft_ms": 1511.0,
        "median_tpot_ms": 14.2, "p99_tpot_ms": 18.8, "median_itl_ms": 13.9, "p99_itl_ms": 41.0,
    }
)  # fmt: skip
VLLM_THROUGHPUT = json.dumps(
    {"elapsed_time": 12.5, "num_requests": 250, "total_num_tokens": 96000, "requests_per_second": 20.0,
     "tokens_per_second": 7680.0}
)  # fmt: skip
VLLM_LATENCY = json.dumps(
    {"avg_latency": 1.3, "std_latency": 0.1, "latencies": [1.2, 1.25, 1.45], "percentiles": {"10": 1.21, "50": 1.25}}
)
SGLANG = json.dumps(
    {"tag": None, "backend": "sglang-oai", "dataset_name": "random", "request_rate": float("inf"),
     "max_concurrency": None, "server_info": None, "duration": 4.5, "completed": 40, "request_throughput": 8.9,
     "total_output": 1280, "errors": [""] * 40,
     "output_throughput": 284.8, "median_e2e_latency_ms": 410.5, "p99_e2e_latency_ms": 600.25, "median_ttft_ms": 52.5,
     "p99_ttft_ms": 101.5, "median_tpot_ms": 11.5, "p99_tpot_ms": 14.5, "median_itl_ms": 11.25, "p99_itl_ms": 20.5}
)  # fmt: skip
LLAMA_ROW = {"build_commit": "8cf427ff", "n_batch": 2048, "n_depth": 0, "test_time": "2026-11-29T10:15:00Z",
             "avg_ns": 1862845, "stddev_ns": 2343773, "stddev_ts": 64.5, "samples_ns": [496938, 522437],
             "use_mmap": True, "tensor_split": "0.00"}  # fmt: skip
LLAMA = json.dumps(
    [
        LLAMA_ROW | {"n_prompt": 512, "n_gen": 0, "avg_ts": 7100.0, "samples_ts": [7000.0, 7200.0]},
        LLAMA_ROW | {"n_prompt": 0, "n_gen": 128, "avg_ts": 118.9, "samples_ts": [118.0, 119.8]},
        LLAMA_ROW | {"n_prompt": 0, "n_gen": 128, "n_depth": 512, "avg_ts": 100.1, "samples_ts": [100.0, 100.2]},
    ]
)
NCCL_TEXT = """# nThread 1 nGpus 2 minBytes 1073741824 maxBytes 2147483648 step: 2(factor) warmup iters: 5 iters: 20
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
  1073741824     268435456     float     sum      -1   4511.2  238.02  446.28      0   4520.9  237.50  445.32      0
  2147483648     536870912     float     sum      -1   8825.9  243.31  456.22      0   8827.8  243.26  456.12      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 450.985
#
"""
NCCL_JSON = json.dumps(
    {
        "version": "2.17.1",
        "env": ["SECRET_TOKEN=hunter2"],
        "results": [
            {"size": 1024, "out_of_place": {"time": 12.5, "bus_bw": 446.3, "nwrong": 0.0},
             "in_place": {"time": 12.6, "bus_bw": 445.3, "nwrong": 0.0}, "actual_iterations": 20},
            # Of a replay, whose values are not checked.
            {"size": 2048, "out_of_place": None, "in_place": {"time": 12.7, "bus_bw": 445.1, "nwrong": None}},
        ],
        "out_of_bounds": {"count": 0, "okay": "true"},
        "average_bus_bandwidth": {"bandwidth": 445.8, "okay": "unchecked"},
    }
)  # fmt: skip
NVBANDWIDTH = json.dumps(
    {
        "nvbandwidth": {
            "Driver Version": "580.95.05",
            "testcases": [
                {"name": "host_to_device_memcpy_ce", "status": "Passed",
                 "bandwidth_matrix": [["55.1", "54.9"]], "sum": 110.0},
                {"name": "device_to_device_memcpy_read_ce", "status": "Passed",
                 "bandwidth_matrix": [["N/A", "276.1"], ["275.9", "N/A"]], "sum": 552.0},
                {"name": "host_device_latency_sm", "status": "Passed", "bandwidth_matrix": [["772.6"]]},
                {"name": "device_to_device_bidirectional_memcpy_read_ce", "status": "Passed",
                 "bandwidth_description": "memcpy CE GPU(row) <-> GPU(column) Total bandwidth (GB/s)",
                 "bandwidth_matrix": [["N/A", "190.5"], ["191.5", "N/A"], ["N/A", "191.5"], ["190.5", "N/A"],
                                      ["N/A", "382.5"], ["381.5", "N/A"]]},
                {"name": "multinode_x", "status": "Waived"},
            ],
        },
        "testcases": None,
    }
)  # fmt: skip
TRTLLM = json.dumps(
    {
        "world_info": {"tp_size": 1, "issue_rate": 2.5e9},
        "performance": {"system_output_throughput_tok_s": 2301.5, "request_throughput_req_s": 17.9,
                        "avg_request_latency_ms": 4510.2, "total_latency_ms": 11173.0},
        "streaming_metrics": {"avg_ttft_ms": 88.3, "avg_tpot_ms": 13.4},
    }
)  # fmt: skip
MLPERF = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 0.34
Result is : INVALID
  Performance constraints satisfied : Yes
  Min duration satisfied : NO
  Min queries satisfied : Yes
  Early stopping satisfied: Yes
Recommendations:
 * Increase expected QPS so the loadgen pre-generates a larger (coalesced) query.

================================================
Additional Stats
================================================
Scheduled samples per second        : 0.40
Mean latency (ns)               : 53175389991
99.00 percentile latency (ns)   : 100776895345
99.90 percentile latency (ns)   : 100776895345

No warnings encountered during test.

No errors encountered during test.
"""
MLPERF_OFFLINE = """Scenario : Offline
Mode     : PerformanceOnly
Samples per second: 11023.4
Result is : VALID
  Min duration satisfied : Yes
Mean latency (ns)               : 2469650
90.00 percentile latency (ns)   : 2469650
99.00 percentile latency (ns)   : 2469650

No warnings encountered during test.

No errors encountered during test.
"""
MLPERF_SINGLE = """Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 4692203
Result is : VALID
Early Stopping Result:
 * Processed at least 64 queries (268).
 * Early stopping 90.0th percentile estimate: 6877020
QPS w/ loadgen overhead         : 529.45
50.00 percentile latency (ns)   : 1107285
90.00 percentile latency (ns)   : 4692203
99.00 percentile latency (ns)   : 8995458

No warnings encountered during test.

No errors encountered during test.
"""
OWN = '{"metrics": {"frames_s": {"value": 812.5, "unit": "frames/s", "better": "higher"}}}'
OUTPUTS = {
    "hyperfine": (Read.HYPERFINE, HYPERFINE, "time", 0.026983604940000003, "s", "lower"),
    "vllm": (Read.VLLM, VLLM, "output_throughput", 1015.9, "tok/s", "higher"),
    "vllm throughput": (Read.VLLM, VLLM_THROUGHPUT, "token_throughput", 7680.0, "tok/s", "higher"),
    "vllm latency": (Read.VLLM, VLLM_LATENCY, "median_latency", 1.25, "s", "lower"),
    "sglang": (Read.VLLM, SGLANG, "output_throughput", 284.8, "tok/s", "higher"),
    "llama": (Read.LLAMA_BENCH, json.dumps(json.loads(LLAMA)[:2], indent=2), "tg128", 118.9, "tok/s", "higher"),
    "nccl text": (Read.NCCL_TESTS, NCCL_TEXT, "bus_bandwidth", 450.985, "GB/s", "higher"),
    "nccl json": (Read.NCCL_TESTS, NCCL_JSON, "bus_bandwidth", 445.8, "GB/s", "higher"),
    "nvbandwidth": (Read.NVBANDWIDTH, NVBANDWIDTH, "host_to_device_memcpy_ce", 55.0, "GB/s", "higher"),
    "trtllm": (Read.TRTLLM, TRTLLM, "output_throughput", 2301.5, "tok/s", "higher"),
    "mlperf": (Read.MLPERF, MLPERF, "p99_latency", 100776895345, "ns", "lower"),
    "mlperf offline": (Read.MLPERF, MLPERF_OFFLINE, "samples_s", 11023.4, "samples/s", "higher"),
    "mlperf single": (Read.MLPERF, MLPERF_SINGLE, "p90_latency", 4692203, "ns", "lower"),
    "own": (Read.JSON, OWN, "frames_s", 812.5, "frames/s", "higher"),
}


@pytest.mark.parametrize(("read", "text", "name", "value", "unit", "better"), OUTPUTS.values(), ids=OUTPUTS)
def test_primary_metric_of_each_program(read, text, name, value, unit, better):
    measured = read_metrics(read, text)
    metric = measured.metrics[measured.primary]
    assert (measured.primary, metric.unit, metric.better) == (name, unit, better)
    assert metric.value == pytest.approx(value)
    assert "hunter2" not in repr(measured)


def damaged(text):
    """The outputs of runs that went wrong, and of files that were cut or written twice."""
    yield from (text[: len(text) * part // 33].rstrip("}]\n ") for part in range(1, 33))
    yield text + text
    numbers = [match.span() for match in re.finditer(r"(?<![\w.])\d+\.\d+(?![\w.])", text)]
    for first, end in numbers:
        for other in ("NaN", "0", "-1.5", "Infinity", "null", '"x"', "1e400"):
            yield text[:first] + other + text[end:]


@pytest.mark.parametrize("key", OUTPUTS)
def test_damaged_output_never_gives_another_number(key):
    read, text, *_ = OUTPUTS[key]
    right = read_metrics(read, text)
    variants = [*damaged(text)]
    assert len(variants) >= 40
    for variant in variants:
        try:
            found = read_metrics(read, variant)
        except NoMetric:
            continue
        # What was damaged is left out by the reader, or is not one of the metrics.
        assert found.primary == right.primary, variant
        assert found.metrics.items() <= right.metrics.items(), variant


@pytest.mark.parametrize(
    ("key", "old", "new", "message"),
    [
        ("vllm", '"failed": 0', '"failed": 3', "3 requests failed"),
        ("vllm", '"completed": 200', '"completed": 199', "199 of 200 requests were completed"),
        ("vllm", '"request_rate": "inf", ', "", "'request_rate' is missing"),
        ("vllm", '"failed": 0', '"errors": ["", "refused"]', "1 requests failed"),
        ("sglang", '"errors": ["", ', '"errors": ["refused", ', "1 requests failed"),
        ("sglang", '"errors"', '"unknown"', "add --output-details"),
        ("vllm", "output_throughput", "tokens_per_s", "found JSON with the keys date, backend, num_prompts"),
        ("vllm throughput", "250", "350", "requests_per_second is not num_requests"),
        ("vllm latency", "1.45", "2.45", "the mean is not that of the samples"),
        (
            "llama",
            '"avg_ts"',
            '"mean_ts"',
            "'avg_ts' is missing from the output of llama-bench: looked for what `-o json`",
        ),
        ("nccl text", "0 OK", "3 FAILED", "values out of bounds: 3 FAILED"),
        ("nccl json", '"okay": "true"', '"okay": "false"', "out of bounds"),
        ("nccl json", '"nwrong": 0.0', '"nwrong": 5.0', "out of bounds"),
        ("nccl json", '"okay": "unchecked"', '"okay": "false"', "below what NCCL_TESTS_MIN_BW demands"),
        ("nccl json", '"bandwidth": 445.8', '"bandwidth": 0.0', "with a single rank nothing is exchanged"),
        ("nccl json", '"bandwidth": 445.8', '"bandwidth": "nan"', "'nan' is not a number above 0"),
        ("nccl text", "450.985", "450.985 FAILED", "below what NCCL_TESTS_MIN_BW demands"),
        ("nccl text", "450.985", "0", "with a single rank nothing is exchanged"),
        ("nccl text", "450.985", "-nan", "nan is not a number above 0"),
        ("hyperfine", "0,\n        0\n", "0,\n        1\n", "exit codes"),
        ("hyperfine", "0.02790635194,\n        0", "1.02790635194,\n        9", "median is not"),
        ("nvbandwidth", '"Passed"', '"Error"', "host_to_device_memcpy_ce: Error"),
        ("nvbandwidth", '"device_to_device_memcpy_read_ce"', '"host_to_device_memcpy_ce"', "two tests"),
        ("nvbandwidth", '"testcases"', '"error": "no GPU", "x"', "nvbandwidth reports: no GPU"),
        ("nvbandwidth", '["N/A", "190.5"], ', "", "5 rows are not three matrices"),
        ("nvbandwidth", '"Passed"', '"Running"', "host_to_device_memcpy_ce: Running"),
        ("mlperf", "PerformanceOnly", "AccuracyOnly", "mode AccuracyOnly"),
        ("mlperf", "constraints satisfied : Yes", "constraints satisfied : NO", "INVALID: Performance constraints"),
        ("mlperf", "queries satisfied : Yes", "queries satisfied : NO", "INVALID: Min queries satisfied: NO"),
        ("mlperf", "No errors encountered", "3 ERRORS encountered", "LoadGen reports 3 ERRORS encountered"),
        ("mlperf", "No errors encountered during test.", "", "the summary is not whole"),
        ("mlperf", "Server", "Unheard", "'Unheard' is missing"),
        ("own", "812.5", "0", "metric frames_s"),
        ("own", ', "better": "higher"', "", "a metric is"),
        ("own", '{"value": 812.5, "unit": "frames/s", "better": "higher"}', "812.5", "a metric is"),
        ("own", "frames_s", "../x", "the name of a metric"),
    ],
)
def test_failed_runs_have_no_metric(key, old, new, message):
    read, text, *_ = OUTPUTS[key]
    assert old in text
    with pytest.raises(NoMetric, match=re.escape(message)):
        read_metrics(read, text.replace(old, new, 1) if old == '"testcases"' else text.replace(old, new))


def test_throughput_at_a_finite_rate_is_no_result():
    finite = VLLM.replace('"request_rate": "inf"', '"request_rate": 4.0')
    ramp = VLLM.replace('"date"', '"ramp_up_strategy": "linear", "date"')
    assert {read_metrics(Read.VLLM, text).primary for text in (finite, ramp)} == {"median_ttft_ms"}


def test_sglang_writes_infinity_and_one_object_a_line():
    text = VLLM.replace('"inf"', "Infinity").replace('"failed": 0, ', "") + "\n"
    assert read_metrics(Read.VLLM, text).primary == "output_throughput"
    with pytest.raises(NoMetric, match="2 results in one file"):
        read_metrics(Read.VLLM, text + text)
    trace = read_metrics(Read.VLLM, SGLANG.replace("Infinity", '"trace"'))
    assert trace.primary == "median_ttft_ms" and trace.metrics["p99_e2e_latency_ms"].value == 600.25


def test_time_that_there_is_not_is_left_out():
    prefill = VLLM.replace("14.2", "0.0").replace("18.8", "0.0")
    assert read_metrics(Read.VLLM, prefill).metrics.keys() == read_metrics(Read.VLLM, VLLM).metrics.keys() - {
        "median_tpot_ms",
        "p99_tpot_ms",
    }
    with pytest.raises(NoMetric, match="metric median_ttft_ms is missing"):
        read_metrics(Read.VLLM, VLLM.replace('"inf"', "4.0").replace("790.1", "0.0"))
    streaming = read_metrics(Read.TRTLLM, TRTLLM.replace("13.4", "0.0")).metrics
    assert "ttft" in streaming and "tpot" not in streaming


def test_embeddings_are_compared_by_their_requests():
    record = {key: value for key, value in json.loads(VLLM).items() if "output" not in key and "tft" not in key}
    assert read_metrics(Read.VLLM, json.dumps(record)).primary == "request_throughput"
    finite = record | {"request_rate": 4.0, "median_e2el_ms": 20.5}
    assert read_metrics(Read.VLLM, json.dumps(finite)).primary == "median_e2el_ms"


def test_rows_of_llama_bench_are_named_by_their_test():
    with pytest.raises(NoMetric, match="name the primary one; there are pp512, tg128, tg128@d512"):
        read_metrics(Read.LLAMA_BENCH, LLAMA)
    chosen = read_metrics(Read.LLAMA_BENCH, LLAMA, primary="tg128@d512")
    assert chosen.metrics[chosen.primary].value == 100.1
    rows = json.loads(LLAMA)
    lines = "".join(f"{json.dumps(row)}\n" for row in rows[:2])
    assert read_metrics(Read.LLAMA_BENCH, lines).primary == "tg128"
    for wrong in (rows[:1] * 2, [rows[1] | {"avg_ts": 300.0}], [rows[1] | {"samples_ts": []}], rows[:1]):
        with pytest.raises(NoMetric):
            read_metrics(Read.LLAMA_BENCH, json.dumps(wrong))


def test_lines_of_launchers_have_a_prefix():
    for prefix in ("[1,0]<stdout>:", "[prterun-host-71@1,0]<stdout>: ", " 0: "):
        tagged = "".join(f"{prefix}{line}\n" for line in NCCL_TEXT.splitlines())
        assert read_metrics(Read.NCCL_TESTS, tagged) == read_metrics(Read.NCCL_TESTS, NCCL_TEXT)


def test_matrix_without_a_pair_is_averaged_over_the_others():
    measured = read_metrics(Read.NVBANDWIDTH, NVBANDWIDTH)
    assert measured.metrics["device_to_device_memcpy_read_ce"].value == pytest.approx(276.0)
    # Of both directions together, not of the three matrices.
    assert measured.metrics["device_to_device_bidirectional_memcpy_read_ce"].value == pytest.approx(382.0)
    latency = measured.metrics["host_device_latency_sm"]
    assert (latency.unit, latency.better) == ("ns", Better.LOWER)
    assert measured.remarks == ["multinode_x was waived"]


def test_offline_scenario_is_its_rate():
    measured = read_metrics(Read.MLPERF, MLPERF_OFFLINE)
    assert measured.metrics["samples_s"].value == 11023.4 and measured.remarks == []
    assert read_metrics(Read.MLPERF, MLPERF).remarks == [
        "LoadGen calls the result INVALID (Min duration satisfied: NO)"
    ]


def test_last_match_of_a_pattern_counts():
    patterns = {"tok_s": (r"throughput: ([\d.,]+)", "tok/s", Better.HIGHER), "ms": (r"(\S+) ms", "ms", Better.LOWER)}
    measured = match_metrics("throughput: 12.5\nthroughput: 1,013.5\n9 ms", patterns)
    assert measured.primary == "tok_s" and measured.metrics["tok_s"].value == 1013.5
    assert match_metrics("throughput: 1\n9 ms", patterns, primary="ms").primary == "ms"
    with pytest.raises(NoMetric, match="metric ms: nothing in the output matches"):
        match_metrics("throughput: 1", patterns)
    assert match_metrics("a1 a2 a", {"a": (r"a(\d)?", "s", Better.LOWER)}).metrics["a"].value == 2
    for value, number in {"1,234,567.5": 1234567.5, "1.5e-3": 0.0015, "1234": 1234}.items():
        assert match_metrics(f"{value} ms", {"ms": patterns["ms"]}).metrics["ms"].value == number
    # A decimal comma is no separator of thousands.
    for text in (
        "throughput: 1\n12,5 ms",
        "throughput: 1\n1.234,5 ms",
        "throughput: 1\nnan ms",
        "throughput: 1\nfast ms",
        "throughput: 0\n1 ms",
        "throughput: 1\ninf ms",
    ):
        with pytest.raises(NoMetric):
            match_metrics(text, patterns)


def test_slowest_of_several_ranks_is_the_metric():
    ranks = "[0] step 9 ms\n[1] step 99 ms\n[0] step 10 ms\n[1] step 10 ms\n[2] step 15 ms\n"
    found = match_metrics(ranks, {"step": (r"\[(?P<rank>\d+)\] step (\d+) ms", "ms", Better.LOWER)})
    assert found.primary == "step" and found.metrics["step"].value == 15
    straggler = found.metrics["step_straggler"]
    assert (straggler.value, straggler.unit, straggler.better) == (1.5, "x", Better.LOWER)
    rates = match_metrics("8 on a\n10 on b\n10 on c", {"rate": (r"(\d+) on (?P<rank>\w)", "1/s", Better.HIGHER)})
    assert rates.metrics["rate"].value == 8 and rates.metrics["rate_straggler"].value == pytest.approx(1.25)
    one = match_metrics("8 on a\n9 on a", {"rate": (r"(\d+) on (?P<rank>\w)", "1/s", Better.HIGHER)})
    assert list(one.metrics) == ["rate"] and one.metrics["rate"].value == 9


def test_file_may_have_a_value_of_each_rank():
    def text(**metric):
        return json.dumps({"metrics": {"step": {"unit": "ms", "better": "lower"} | metric}})

    found = read_metrics(Read.JSON, text(ranks=[10, 12, 10]))
    assert found.primary == "step" and found.metrics["step"].value == 12
    assert found.metrics["step_straggler"].value == pytest.approx(1.2)
    for wrong in ({"ranks": []}, {"ranks": 3}, {"ranks": [1, None]}, {"ranks": [1, -1]}, {"ranks": [1], "value": 1}):
        with pytest.raises(NoMetric, match="metric step"):
            read_metrics(Read.JSON, text(**wrong))


def test_reasons_and_remarks_are_bounded():
    with pytest.raises(NoMetric) as raised:
        read_metrics(Read.VLLM, json.dumps({"failed": "x" * 10**6}))
    assert len(str(raised.value)) < 700
    long = (
        "Scenario : Offline\nMode : PerformanceOnly\nSamples per second: 1\nResult is : "
        + "y" * 10**6
        + "\nNo errors encountered\n"
    )
    assert len(read_metrics(Read.MLPERF, long).remarks[0]) < 700


def test_wall_time_is_measured_not_read():
    assert wall_metric(1.5).metrics["time"].better is Better.LOWER
    with pytest.raises(NoMetric):
        read_metrics(Read.WALL, "")


@pytest.mark.parametrize("read", list(Read))
@pytest.mark.parametrize("text", ["", "\n", "null", "[]", "{}", "[[]]", '"x"', "1", "{" * 10_000, "[" * 100_000, "\0"])
def test_other_texts_have_no_metric(read, text):
    with pytest.raises(NoMetric):
        read_metrics(read, text)
