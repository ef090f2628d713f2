"""One cell's runs, export and metrics folded into its entry in results.json."""

import hashlib
import json
import math
import statistics
from collections.abc import Iterable
from typing import Any

from bench.results.bound import cell_bound
from bench.results.clocks import clocks
from bench.results.outcomes import MISSING
from bench.results.pairs import counted
from bench.results.peers import peers_of_cell, peers_of_run
from bench.results.remarks import penalty_class, remarks
from bench.results.verdicts import noise_class

Record = dict[str, Any]
_IDENTITY = ("name", "key", "group", "gpu", "gpu_uuid", "cpu_node", "mem_node", "model", "reason")
_PERCENTILES = ("p50", "p90", "p99")


def cell_entry(cell: Record, runs: list[Record], export: Record | None, metrics: Record | None, repeats: int) -> Record:
    """The entry of a cell in results.json.

    cell: as frozen in grid.json; its reason says why it cannot run here.
    runs: its records, timed ones by repeat, then the traced one.
    repeats: timed runs the study asks for; there may be more, measured on demand.
    A run, export or metrics record that is not there yet has the status "missing". throughput_samples_s is
    the geometric mean over the timed runs that are ok and count (pairs.counted).
    """
    name = cell["name"]
    wanted = [f"{name}_r{repeat}" for repeat in range(1, repeats + 1)] + [f"{name}_traced"]
    by_name = {run["run"]: run for run in runs}
    further = [run["run"] for run in runs if run["run"] not in wanted]
    stages = [by_name.get(run) or _absent(run, cell) for run in [*wanted, *further]]
    measured = [run for run in runs if run["repeat"] != "traced" and run["status"] == "ok" and run.get("result")]
    timed = counted(measured, _was_disturbed)
    traced = by_name.get(f"{name}_traced")
    rates = [run["result"]["throughput_samples_s"] for run in timed]
    throughput = statistics.geometric_mean(rates) if rates else None
    contract = _contract_metrics(metrics)
    failed = _first_failure(stages, export, metrics, name)
    latency = merge_latencies([run["result"].get("latency_us") for run in timed])
    # Traced runs have interpreters of their own: what was forked is not what they are compared with.
    alike = [rate for rate, run in zip(rates, timed, strict=True) if run.get("start", "exec") == "exec"]
    perturbation = _ratio(traced, statistics.geometric_mean(alike) if alike else None)
    entry: Record = {
        **grid_entry(cell),
        "outcome": failed["status"] if failed else "ok",
        "reason": failed.get("reason", "") or "" if failed else "",
        "advice": failed.get("advice", "") or "" if failed else "",
        "log_tail": _log_tail(failed),
        "failed_run": failed.get("run", f"{name}_traced") if failed else None,
        "throughput_samples_s": throughput,
        "throughput_spread": statistics.stdev(rates) / statistics.fmean(rates) if len(rates) > 1 else None,
        "throughput_runs": rates,
        "penalty_class": penalty_class((contract or {}).get("regime")),
        "latency_us": latency,
        "solo_us": _median_of(run["result"].get("solo_us") for run in timed),
        "compile_s": _compile_s(runs),
        "issue_us": _median(run["result"].get("issue_us") for run in timed),
        "buffer_layout": next((run["result"].get("buffer_layout") for run in timed), None) or "separate",
        "bytes_per_batch": _bytes_per_batch(timed),
        "metrics": contract,
        "perturbation": perturbation,
        "clocks": clocks(traced, contract, latency, perturbation),
        "peers": peers_of_cell(timed, cell["batch_size"]),
        "runs": [_run_entry(run, cell["batch_size"]) for run in runs],
    }
    entry["bound"] = cell_bound(entry)
    limits = entry["bound"] or {}
    entry["efficiency_solo"] = limits.get("efficiency")
    entry["noise_class"] = noise_class((contract or {}).get("regime"), limits.get("limit"))
    aside = [f"{len(measured) - len(timed)} of {len(measured)} timed runs were disturbed and are not counted"]
    return entry | {"remarks": remarks(entry, runs) + (aside if len(timed) < len(measured) else [])}


def grid_entry(cell: Record) -> Record:
    """Who a cell of the grid is, and what it is set to."""
    who = {
        "name": cell["name"],
        "key": cell.get("key") or settings_hash(cell),
        "gpu": cell.get("gpu"),
        "gpu_uuid": cell.get("gpu_uuid"),
        "cpu_node": cell.get("cpu_node"),
        "mem_node": cell.get("mem_node"),
        "model": cell["model"],
    }
    return who | {"settings": {key: value for key, value in cell.items() if key not in _IDENTITY}}


def settings_hash(cell: Record) -> str:
    """Known by its settings across studies: host and GPU identity, name and retries left out."""
    kept = {key: value for key, value in cell.items() if key not in ("name", "key", "reason")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def merge_latencies(latencies: Iterable[Record | None]) -> Record | None:
    """Over runs: the median of each percentile (of those runs that support it), the largest maximum."""
    known = [latency for latency in latencies if latency]
    if not known:
        return None
    merged: Record = {"count": sum(latency.get("count") or 0 for latency in known)}
    for key in _PERCENTILES:
        merged[key] = _median(latency.get(key) for latency in known)
    merged["max"] = max((latency["max"] for latency in known if latency.get("max") is not None), default=None)
    curves = [latency["quantiles"] for latency in known if len(latency.get("quantiles") or []) == 101]
    merged["quantiles"] = [_median(values) for values in zip(*curves, strict=True)] if curves else []
    return merged


def _first_failure(stages: list[Record], export: Record | None, metrics: Record | None, name: str) -> Record | None:
    refused = next((run for run in stages if run["status"] == "not_runnable"), None)
    later = [
        record or {"status": MISSING, "reason": "not made yet", "advice": "start the study again"}
        for record in (export, metrics)
    ]
    failed = refused or next((record for record in [*stages, *later] if record["status"] != "ok"), None)
    if failed and "run" not in failed:
        failed = failed | {"run": f"{name}_traced"}
    return failed


def _absent(run: str, cell: Record) -> Record:
    if cell.get("reason"):
        return {"run": run, "status": "not_runnable", "reason": cell["reason"], "advice": ""}
    reason = "the traced run is to come" if run.endswith("_traced") else "not measured yet"
    return {"run": run, "status": MISSING, "reason": reason, "advice": "start the study again"}


def _contract_metrics(record: Record | None) -> Record | None:
    if not record or record["status"] != "ok":
        return None
    return {
        key: value
        for key, value in record.items()
        if key not in ("schema", "status", "reason", "advice", "invocation", "name", "timeline")
    }


def _run_entry(run: Record, batch_size: int) -> Record:
    entry = {
        key: run.get(key) for key in ("run", "repeat", "status", "reason", "block", "position", "attempts", "wall_s")
    }
    result = run.get("result") or {}
    placement = (result.get("certificate") or {}).get("verdict")
    return entry | {
        "throughput_samples_s": result.get("throughput_samples_s"),
        "placement": placement,
        "disturbed": _was_disturbed(run),
        "started_at": run.get("started_at"),
        "peers": peers_of_run(run, batch_size),
    }


def _compile_s(runs: list[Record]) -> Record | None:
    """Least and most over the processes that compiled the model, the traced one too: the most without a cache."""
    facts = [(run.get("result") or {}).get("compile") or {} for run in runs]
    known = [found["compile_s"] for found in facts if found.get("compile_s")]
    return {"least": min(known), "most": max(known)} if known else None


def _was_disturbed(run: Record) -> bool:
    return bool((run.get("monitor") or {}).get("disturbed"))


def _bytes_per_batch(timed: list[Record]) -> dict[str, int] | None:
    """What a batch moves in each direction, as the run counted it."""
    result = timed[0]["result"] if timed else {}
    both = {"h2d": result.get("bytes_in_per_batch"), "d2h": result.get("bytes_out_per_batch")}
    return None if None in both.values() else both


def _log_tail(failed: Record | None) -> list[str]:
    tail = (failed or {}).get("log_tail") or []
    return tail.splitlines() if isinstance(tail, str) else [str(line) for line in tail]


def _ratio(traced: Record | None, throughput: float | None) -> float | None:
    rate = ((traced or {}).get("result") or {}).get("throughput_samples_s")
    return rate / throughput if rate and throughput else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(known) if known else None


def _median_of(records: Iterable[Record | None]) -> Record | None:
    known = [record for record in records if record]
    return {key: _median(record.get(key) for record in known) for key in known[0]} if known else None
