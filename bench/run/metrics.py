"""The numbers in what a command wrote: one pure function for each program whose format is known.

A number is returned only where the output is whole and says that it is valid. Else NoMetric says why: a direction or a
value is never guessed.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from bench.records.base import DamagedRecord, convert
from bench.records.metric import RANK, Better, Measured, Metric, Read, slowest_over_median, straggler_of

_LOWER, _HIGHER = Better.LOWER, Better.HIGHER
# SGLang calls the last one e2e_latency.
_LATENCIES_OF = ("ttft", "tpot", "itl", "e2el", "e2e_latency")
_VLLM_LATENCIES = [f"{statistic}_{of}_ms" for of in _LATENCIES_OF for statistic in ("median", "p99")]
# Sums and means of several samples as the programs print them.
_ROUNDING = 0.01
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_LONGEST_TEXT = 600
_LONGEST_SHOWN = 60


class NoMetric(Exception):
    """The output has no number that can be trusted; the message is the reason, of bounded length."""

    def __init__(self, reason: str) -> None:
        super().__init__(_bounded(reason))


def read_metrics(read: Read, text: str, primary: str | None = None) -> Measured:
    """The metrics in an output. primary: replaces the one that the format suggests. Raise NoMetric."""
    try:
        found = _READERS[read](text)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        missing = f"{error.args[0]!r} is missing from the output" if isinstance(error, KeyError) else "not an output"
        raise NoMetric(f"{missing} of {read}: looked for {_WANTED[read]}, found {_summary(text)}") from None
    return _measured(*found, primary=primary)


def _summary(text: str) -> str:
    """What an output is that could not be read, in a few words."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        line = next((line for line in map(str.strip, text.splitlines()) if line), "")
        return f"a text that begins with {line[:_LONGEST_SHOWN]!r}" if line else "nothing"
    if not isinstance(record, dict):
        return f"JSON, {f'a list of {len(record)}' if isinstance(record, list) else repr(record)[:_LONGEST_SHOWN]}"
    return f"JSON with the keys {', '.join(record) or 'none'}"


_WANTED = {
    Read.JSON: 'an object with the key "metrics"',
    Read.VLLM: "what `bench serve --save-result --result-filename {result}` writes, or `bench throughput` and `bench "
    "latency` with `--output-json {result}`, or SGLang's bench_serving with `--output-file {result}`",
    Read.LLAMA_BENCH: "what `-o json` or `-o jsonl` prints",
    Read.NCCL_TESTS: "what `-J {result}` writes, or the lines that it prints",
    Read.HYPERFINE: "what `--export-json {result}` writes, of one command",
    Read.NVBANDWIDTH: "what `-j` prints",
    Read.TRTLLM: "what `--report_json {result}` writes",
    Read.MLPERF: "the lines of mlperf_log_summary.txt",
    Read.WALL: "nothing",
}


def wall_metric(seconds: float) -> Measured:
    """The time that a command took."""
    return _measured({"time": _metric(seconds, "s", _LOWER)}, "time", [])


def match_metrics(text: str, patterns: Mapping[str, tuple[str, str, Better]], primary: str | None = None) -> Measured:
    """Metrics by regular expressions: (pattern with one group, unit, direction) by name. The last match counts.

    With a further group, of the name `rank`, that of each rank counts. The first metric is primary unless another is
    named. Raise NoMetric.
    """
    metrics: dict[str, Metric] = {}
    for name, (pattern, unit, better) in patterns.items():
        regex = re.compile(pattern, re.MULTILINE)
        rank = regex.groupindex.get(RANK)
        number = 2 if rank == 1 else 1
        # A group that may be left out has no number then.
        found = {
            match[rank or 0] if rank else "": match[number]
            for match in regex.finditer(text)
            if match[number] is not None
        }
        if not found:
            raise NoMetric(f"metric {name}: nothing in the output matches {pattern!r}")
        values = [_metric(_number(value, name), unit, better, name) for value in found.values()]
        metrics |= _of_ranks(name, values)
    return _measured(metrics, next(iter(metrics), None), [], primary)


def _of_ranks(name: str, ranks: Sequence[Metric]) -> dict[str, Metric]:
    """The metric of the slowest rank; beside it, where there are several, how long it takes against the median one."""
    slowest = min(ranks, key=lambda metric: metric.rate)
    if len(ranks) == 1:
        return {name: slowest}
    straggler = slowest_over_median([1 / metric.rate for metric in ranks])
    return {name: slowest, straggler_of(name): Metric(value=straggler, unit="x", better=_LOWER)}


_Found = tuple[dict[str, Metric], str | None, list[str]]


def _own(text: str) -> _Found:
    record = _json(text)
    named = record["metrics"]
    metrics: dict[str, Metric] = {}
    for name, metric in named.items():
        metrics |= _of_ranks(name, _ranks(name, metric))
    return metrics, record.get("primary") or (next(iter(named)) if len(named) == 1 else None), []


def _ranks(name: str, metric: Any) -> list[Metric]:
    """One, or those of its list `ranks`, which is in place of `value`."""
    if not isinstance(metric, dict) or "ranks" not in metric:
        return [_converted(name, metric)]
    values = metric.pop("ranks")
    if "value" in metric or not isinstance(values, list) or not values:
        raise NoMetric(f"metric {name}: ranks is a list of values, in place of value")
    return [_converted(name, metric | {"value": value}) for value in values]


def _converted(name: str, metric: Any) -> Metric:
    try:
        return convert(metric, Metric)
    except DamagedRecord as error:
        what = 'a metric is {"value": above 0, "unit": text, "better": "higher" or "lower"}'
        raise NoMetric(f"metric {name}: {error}; {what}") from None


def _vllm(text: str) -> _Found:
    records = _one_a_line(text)
    if len(records) != 1:
        raise NoMetric(f"{len(records)} results in one file, not one: without --append-result, in a new file each time")
    (record,) = records
    if "elapsed_time" in record:
        return _vllm_throughput(record)
    if "avg_latency" in record:
        return _vllm_latency(record)
    failed = record.get("failed") or sum(map(bool, record.get("errors") or ()))
    if failed:
        raise NoMetric(f"{failed} requests failed")
    if not {"failed", "errors", "num_prompts"} & record.keys():
        raise NoMetric("it does not say whether requests failed: add --output-details")
    if record["completed"] < record.get("num_prompts", 1):
        raise NoMetric(f"{record['completed']} of {record.get('num_prompts')} requests were completed")
    embeds = not any(key.startswith("total_output") for key in record)
    metrics = {} if embeds else {"output_throughput": _metric(record["output_throughput"], "tok/s", _HIGHER)}
    metrics["request_throughput"] = _metric(record["request_throughput"], "req/s", _HIGHER)
    # Of a single token, or of an answer that comes as a whole, there is no time between tokens.
    metrics |= {name: _metric(record[name], "ms", _LOWER) for name in _VLLM_LATENCIES if record.get(name)}
    # At a finite rate, or that of a trace, the throughput is what the client asked for, and no result.
    if str(record["request_rate"]) == "inf" and not record.get("ramp_up_strategy"):
        return metrics, next(iter(metrics)), []
    return metrics, "median_e2el_ms" if embeds else "median_ttft_ms", []


def _vllm_throughput(record: dict[str, Any]) -> _Found:
    """Of `vllm bench throughput --output-json`, which has no server."""
    rate = record["requests_per_second"]
    if not math.isclose(rate * record["elapsed_time"], record["num_requests"], rel_tol=_ROUNDING):
        raise NoMetric("requests_per_second is not num_requests in elapsed_time")
    metrics = {
        "token_throughput": _metric(record["tokens_per_second"], "tok/s", _HIGHER),
        "request_throughput": _metric(rate, "req/s", _HIGHER),
    }
    return metrics, "token_throughput", []


def _vllm_latency(record: dict[str, Any]) -> _Found:
    """Of `vllm bench latency --output-json`: the time of one batch."""
    times = record["latencies"]
    _check_mean("avg_latency", record["avg_latency"], times)
    metrics = {"median_latency": _metric(median(times), "s", _LOWER), "avg_latency": _metric(fmean(times), "s", _LOWER)}
    return metrics, "median_latency", []


def _llama_bench(text: str) -> _Found:
    rows = _json(text) if text.lstrip().startswith("[") else _one_a_line(text)
    metrics = {}
    for row in rows:
        parts = [f"{key}{row[count]}" for key, count in (("pp", "n_prompt"), ("tg", "n_gen")) if row[count]]
        name = "+".join(parts) + (f"@d{row['n_depth']}" if row.get("n_depth") else "")
        if name in metrics:
            raise NoMetric(f"two rows of {name}: run one configuration at a time")
        metrics[name] = _metric(row["avg_ts"], "tok/s", _HIGHER)
        _check_mean(name, row["avg_ts"], row["samples_ts"])
    generated = [name for name in metrics if name.startswith("tg")]
    return metrics, generated[0] if len(generated) == 1 else None, []


def _nccl_tests(text: str) -> _Found:
    if text.lstrip().startswith("{"):
        record = _json(text)
        valid = str(record["out_of_bounds"]["okay"]).lower() == "true"
        # A replay of a trace has no out_of_place; unchecked values have no nwrong.
        parts = [one[place] for one in record["results"] for place in ("out_of_place", "in_place") if one.get(place)]
        wrong = [part.get("nwrong") for part in parts]
        average, tests = record["average_bus_bandwidth"], len(record["results"])
        if not valid or not tests or any(int(count) for count in wrong if count not in (None, "N/A")):
            raise NoMetric("values are out of bounds, or there is no result")
        return _bus_bandwidth(average["bandwidth"], average.get("okay") == "false")
    # Launchers as mpirun and srun may write a prefix before each line.
    lines = _whole_lines(text)
    bounds = _only(lines, r"# Out of bounds values\s*: (\d+ \w+)")
    if bounds != "0 OK":
        raise NoMetric(f"values out of bounds: {bounds}")
    value, *checked = _only(lines, r"# Avg bus bandwidth\s*: (.+)").split()
    return _bus_bandwidth(_number(value, "bus_bandwidth"), "FAILED" in checked)


def _bus_bandwidth(value: Any, too_low: bool) -> _Found:
    if too_low:
        raise NoMetric(f"the bandwidth {value} is below what NCCL_TESTS_MIN_BW demands")
    if value == 0:
        raise NoMetric("the bus bandwidth is 0: with a single rank nothing is exchanged")
    return {"bus_bandwidth": _metric(value, "GB/s", _HIGHER)}, "bus_bandwidth", []


def _hyperfine(text: str) -> _Found:
    (result,) = _json(text)["results"]
    times = result["times"]
    if any(code != 0 for code in result["exit_codes"]) or len(result["exit_codes"]) != len(times):
        raise NoMetric(f"exit codes {sorted(set(map(str, result['exit_codes'])))}")
    if not math.isclose(result["median"], median(times), rel_tol=_ROUNDING):
        raise NoMetric("the median is not that of the times")
    metrics = {"time": _metric(result["median"], "s", _LOWER), "mean": _metric(result["mean"], "s", _LOWER)}
    return metrics, "time", []


def _nvbandwidth(text: str) -> _Found:
    metrics, remarks = {}, []
    record = _json(text)["nvbandwidth"]
    if "error" in record:
        raise NoMetric(f"nvbandwidth reports: {record['error']}")
    for case in record["testcases"]:
        name, status = case["name"], case["status"]
        if status == "Waived":
            remarks.append(f"{name} was waived")
            continue
        if status != "Passed" or name in metrics:
            raise NoMetric(f"{name}: {status}" if status != "Passed" else f"two tests {name}")
        # Values are texts. The sum that the program adds counts pairs without a value as 0.
        rows = case["bandwidth_matrix"]
        if "Total" in case.get("bandwidth_description", ""):
            # Tests in both directions write three matrices below each other: one of each direction, and their total.
            if len(rows) % 3:
                raise NoMetric(f"{name}: {len(rows)} rows are not three matrices")
            rows = rows[-len(rows) // 3 :]
        cells = [float(cell) for row in rows for cell in row if cell != "N/A"]
        if not cells or not all(math.isfinite(cell) and cell > 0 for cell in cells):
            raise NoMetric(f"{name}: no value, or one that is not above 0")
        latency = "latency" in name
        metrics[name] = _metric(fmean(cells), "ns" if latency else "GB/s", _LOWER if latency else _HIGHER)
    return metrics, next(iter(metrics), None), remarks


def _trtllm(text: str) -> _Found:
    record = _json(text)
    performance, streaming = record["performance"], record.get("streaming_metrics") or {}
    metrics = {
        "output_throughput": _metric(performance["system_output_throughput_tok_s"], "tok/s", _HIGHER),
        "request_throughput": _metric(performance["request_throughput_req_s"], "req/s", _HIGHER),
        "request_latency": _metric(performance["avg_request_latency_ms"], "ms", _LOWER),
        # Of one token there is no time between tokens.
        **{
            name: _metric(value, "ms", _LOWER)
            for name in ("ttft", "tpot")
            if (value := streaming.get(f"avg_{name}_ms"))
        },
    }
    return metrics, "output_throughput", []


# What each scenario of LoadGen measures; the rate of Server's queries is an input.
_MLPERF = {
    "Offline": ("Samples per second", "samples_s", "samples/s", _HIGHER),
    "Server": ("99.00 percentile latency (ns)", "p99_latency", "ns", _LOWER),
    "SingleStream": ("90.00 percentile latency (ns)", "p90_latency", "ns", _LOWER),
    "MultiStream": ("99.00 percentile latency (ns)", "p99_latency", "ns", _LOWER),
}


def _mlperf(text: str) -> _Found:
    pairs = [line.partition(":") for line in _whole_lines(text) if ":" in line]
    keys = [key.strip() for key, _, _ in pairs]
    values = {key: value.strip() for key, (_, _, value) in zip(keys, pairs, strict=True)}
    label, name, unit, better = _MLPERF[values["Scenario"]]
    repeated = {key for key in ("Scenario", "Mode", label, "Result is") if keys.count(key) > 1}
    if repeated:
        raise NoMetric(f"several summaries: {', '.join(sorted(repeated))} is there more than once")
    if not values["Mode"].startswith("Performance"):
        raise NoMetric(f"mode {values['Mode']}")
    if not re.search(r"^No errors encountered", text, re.MULTILINE):
        errors = re.search(r"^\d+ ERRORS? encountered", text, re.MULTILINE)
        raise NoMetric(
            f"LoadGen reports {errors[0]}" if errors else "the summary is not whole: its last line is missing"
        )
    unmet = [key for key, value in values.items() if key.endswith(" satisfied") and value == "NO"]
    # A run that is shorter than a submission's has measured what it did; one that broke off has not, and where the
    # queries come faster than they are answered a latency grows with the length of the run.
    if failed := [key for key in unmet if key.startswith(("Performance constraints", "Min queries"))]:
        raise NoMetric(f"LoadGen calls the result {values['Result is']}: {failed[0]}: NO")
    remarks = []
    if values["Result is"] != "VALID":
        remarks = [f"LoadGen calls the result {values['Result is']} ({', '.join(unmet)}: NO)"]
    return {name: _metric(_number(values[label], name), unit, better)}, name, remarks


def _wall(text: str) -> _Found:
    raise NoMetric("the time of the command is measured, not read")


_READERS: dict[Read, Callable[[str], _Found]] = {
    Read.JSON: _own,
    Read.VLLM: _vllm,
    Read.LLAMA_BENCH: _llama_bench,
    Read.NCCL_TESTS: _nccl_tests,
    Read.HYPERFINE: _hyperfine,
    Read.NVBANDWIDTH: _nvbandwidth,
    Read.TRTLLM: _trtllm,
    Read.MLPERF: _mlperf,
    Read.WALL: _wall,
}


def _measured(
    metrics: dict[str, Metric], suggested: str | None, remarks: list[str], primary: str | None = None
) -> Measured:
    if not metrics:
        raise NoMetric("the output has no metric")
    chosen = primary or suggested
    if chosen not in metrics:
        what = f"metric {chosen} is missing" if chosen else "several metrics could be compared: name the primary one"
        raise NoMetric(f"{what}; there are {', '.join(metrics)}")
    try:
        return convert({"metrics": metrics, "primary": chosen, "remarks": [*map(_bounded, remarks)]}, Measured)
    except DamagedRecord as error:
        raise NoMetric(f"the name of a metric: {error}") from None


def _metric(value: Any, unit: str, better: Better, name: str = "") -> Metric:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e18:
        raise NoMetric(f"{f'metric {name}: ' if name else ''}{value!r} is not a number above 0")
    return Metric(value=float(value), unit=unit, better=better)


def _number(text: str, name: str) -> float:
    """A comma separates thousands; one elsewhere may be a decimal comma, and is refused."""
    try:
        return float(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text)
    except ValueError:
        raise NoMetric(f"metric {name}: {text!r} is not a number") from None


def _bounded(text: str) -> str:
    """Parts of an output of any length end up in records and on pages."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def _check_mean(name: str, mean: float, samples: list[float]) -> None:
    if not samples or not math.isclose(mean, fmean(samples), rel_tol=_ROUNDING):
        raise NoMetric(f"{name}: the mean is not that of the samples")


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _one_a_line(text: str) -> list[dict[str, Any]]:
    """The object in JSON of each line, or the only one, on several lines."""
    try:
        found = [_json(text)]
    except ValueError:
        found = [_json(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(record, dict) for record in found):
        raise ValueError("no object")
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise NoMetric(f"a key is there twice, of {', '.join(record)}")
    return record


def _whole_lines(text: str) -> list[str]:
    """Lines with their end: a number in the last one may have been cut."""
    return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]


def _only(lines: Iterable[str], pattern: str) -> str:
    found = [match[1] for line in lines if (match := re.search(pattern, line))]
    if len(found) != 1:
        raise NoMetric(f"{len(found)} lines match {pattern!r}, not one")
    return found[0]
