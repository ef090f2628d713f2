"""Runs, export and metrics of a cell folded into one cell."""

import hashlib
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.legacy.bound import cell_bound
from bench.legacy.pairs import counted
from bench.legacy.verdicts import noise_class
from bench.units import percent, plural

# --- peers
# The processes that kept other GPUs busy while one was measured.

Record = dict[str, Any]
DIRECTIONS = ("h2d", "d2h")


def carried_gb_s(samples_s: float | None, bytes_per_batch: Record | None, batch_size: int) -> dict[str, float | None]:
    """What a pipeline moves in each direction at this pace, GB = 1e9; None where that is not known."""
    if not samples_s or not bytes_per_batch:
        return dict.fromkeys(DIRECTIONS)
    return {way: samples_s / batch_size * bytes_per_batch[way] / 1e9 for way in DIRECTIONS}


def peers_of_run(run: Record, batch_size: int) -> list[Record]:
    """gpu, cpu_node, mem_node (None: not bound), status, throughput_samples_s, h2d_gb_s, d2h_gb_s, placement of each.

    Peers have the batch size of the measured cell.
    """
    return [_peer(peer, batch_size) for peer in run.get("peers") or []]


def peers_of_cell(timed: Iterable[Record], batch_size: int) -> list[Record]:
    """The same over the timed runs of a cell, rates as geometric means of the runs that have one; runs: how many."""
    seen: dict[Any, list[Record]] = {}
    for run in timed:
        for peer in peers_of_run(run, batch_size):
            seen.setdefault(peer["gpu"], []).append(peer)
    return [_over_runs(own) for _, own in sorted(seen.items())]


def _over_runs(peers: list[Record]) -> Record:
    good = [peer for peer in peers if peer["throughput_samples_s"]]
    rates = {
        key: statistics.geometric_mean(known) if (known := [peer[key] for peer in good if peer[key]]) else None
        for key in ("throughput_samples_s", "h2d_gb_s", "d2h_gb_s")
    }
    kept = {key: peers[0][key] for key in ("gpu", "cpu_node", "mem_node")}
    return kept | {"runs": len(good), "failed": len(peers) - len(good)} | rates


def _peer(peer: Record, batch_size: int) -> Record:
    result = peer.get("result") or {}
    samples_s = result.get("throughput_samples_s")
    moved = {"h2d": result.get("bytes_in_per_batch"), "d2h": result.get("bytes_out_per_batch")}
    carried = carried_gb_s(samples_s, None if None in moved.values() else moved, batch_size)
    return {
        **{key: peer.get(key) for key in ("gpu", "cpu_node", "mem_node")},
        "status": peer.get("status") or ("ok" if samples_s else "crashed"),
        "throughput_samples_s": samples_s,
        "h2d_gb_s": carried["h2d"],
        "d2h_gb_s": carried["d2h"],
        "placement": (result.get("certificate") or {}).get("verdict"),
    }


# --- clocks
# Whether three clocks tell the same: the host's timer, CUDA events, and the profiler's trace.

Record = dict[str, Any]
LIMIT = 0.02
PERTURBED = 0.05
"""A profiler that costs more than this made another run of it; latencies of the two are then not compared."""
ENDS_NS = 500_000
"""The host's window also holds the first launch and the closing synchronise: 0.18 to 0.26 ms on one H200."""


def clocks(
    traced: Record | None, metrics: Record | None, latency_us: Record | None, perturbation: float | None
) -> Record:
    """The clocks of one cell against its trace; a ratio is None where one of the two is not known.

    host_over_trace: the traced pass by the host's timer over the window of its trace, the same run.
    events_over_trace: median latency by CUDA events (on the cpu device the host's clock) of the timed runs over
    that of the trace, which is another run; events_comparable: the profiler did not change the pace.
    disagree: sentences, one for each pair that differs by more than LIMIT.
    """
    host_ns = _host_ns(traced)
    trace_ns = (metrics or {}).get("window_ns")
    host = host_ns / trace_ns if host_ns and trace_ns else None
    medians = ((latency_us or {}).get("p50"), ((metrics or {}).get("latency_us") or {}).get("p50"))
    events = medians[0] / medians[1] if all(medians) else None
    comparable = perturbation is not None and abs(perturbation - 1) <= PERTURBED
    disagree = []
    if host and not (host >= 1 - LIMIT and host_ns - trace_ns <= LIMIT * trace_ns + ENDS_NS):
        disagree.append(f"the host's timer gives the traced pass {_differs(host)} than its trace")
    if events and comparable and abs(events - 1) > LIMIT:
        disagree.append(f"the events of the timed runs give the median latency {_differs(events)} than the trace")
    return {
        "host_over_trace": host,
        "events_over_trace": events,
        "events_comparable": comparable,
        "disagree": disagree,
    }


def _differs(ratio: float) -> str:
    return f"{abs(ratio - 1):.1%} {'longer' if ratio > 1 else 'shorter'}".replace("%", " %")


def _host_ns(traced: Record | None) -> float | None:
    windows = ((traced or {}).get("result") or {}).get("windows") or []
    return 1e9 * sum(window["duration_s"] for window in windows) if windows else None


# --- outcomes
# The outcome of a cell in the words of a table: what is only not there yet says how far the cell has come.

Record = dict[str, Any]
MISSING = "missing"
NOT_TRACED, NOT_READ = "not traced", "trace not read"


def told_outcome(cell: Record) -> str:
    """Of a cell of results.json its outcome; where that is only missing "2 runs so far", "not traced" if nothing but
    the traced run is to come, "trace not read" if that is there and its metrics are not."""
    timed = [run for run in cell["runs"] if run["repeat"] != "traced" and run["status"] == "ok"]
    if cell["outcome"] != MISSING or not timed:
        return cell["outcome"]
    if not cell["failed_run"].endswith("_traced"):
        return f"{plural(len(timed), 'run')} so far"
    traced = any(run["repeat"] == "traced" and run["status"] == "ok" for run in cell["runs"])
    return NOT_READ if traced else NOT_TRACED


def is_untraced(cells: Iterable[Record]) -> bool:
    """Whether something was timed, and no trace at all tells anything."""
    cells = list(cells)
    return any(cell["throughput_samples_s"] for cell in cells) and not any(cell["metrics"] for cell in cells)


# --- remarks
# What a reader should know of one cell before believing its numbers.

Record = dict[str, Any]
PENALTY_CLASSES = {"transfer-bound": "memory-bound", "balanced": "balanced", "compute-bound": "compute-bound"}
"""By measured regime. Launch-bound and stalled cells have none: neither copies nor kernels set their pace."""


def penalty_class(regime: str | None) -> str | None:
    return PENALTY_CLASSES.get(regime or "")


def remarks(cell: Record, runs: list[Record]) -> list[str]:
    """Sentences, none if all is well. cell: of results.json, with clocks and bound; runs: its records."""
    said = list((cell["metrics"] or {}).get("remarks") or [])
    said += cell["clocks"]["disagree"]
    if cell["perturbation"] is not None and abs(cell["perturbation"] - 1) > PERTURBED:
        said.append(f"the profiler changed the pace: the traced run made {percent(cell['perturbation'])} of the "
                    "timed throughput, and shares and regime are those of that run")  # fmt: skip
    if (cell["bound"] or {}).get("reason"):
        said.append(f"no efficiency against the bound: {cell['bound']['reason']}")
    return said + _unsettled(runs)


def _unsettled(runs: list[Record]) -> list[str]:
    timed = [run for run in runs if run["repeat"] != "traced" and run["status"] == "ok"]
    warmups = [(run.get("result") or {}).get("warmup") or {} for run in timed]
    spreads = [warmup.get("spread") or 0.0 for warmup in warmups if warmup.get("settled") is False]
    if not spreads:
        return []
    return [f"the warm-up of {len(spreads)} of {len(timed)} timed runs had not settled when its limit came: "
            f"its last windows differed by up to {percent(max(spreads))}"]  # fmt: skip


# --- cells
# One cell's runs, export and metrics folded into its entry in results.json.

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


# --- links
# The links as the microbenchmarks found them: what the report's percentages refer to.

Record = dict[str, Any]
WAYS = ("h2d", "d2h")
_KEPT = (
    *("copies", "nvbandwidth_h2d_gb_s", "nvbandwidth_d2h_gb_s", "nvbandwidth_definition", "small_copy_us"),
    *("launch_us", "reasons"),
)


@dataclass(frozen=True)
class Ceiling:
    """The best that one GPU's link gave in one direction; source says what measured it."""

    gb_s: float
    source: str


def link_entries(records: dict[str, Record]) -> list[Record]:
    """The `links` of results.json, by GPU and placement.

    name, gpu, cpu_node, mem_node, status, reason, device, placement (the certificate's verdict), and of those that are
    ok copies [{direction, bytes, median_gb_s, count}], nvbandwidth_h2d_gb_s, nvbandwidth_d2h_gb_s,
    nvbandwidth_definition, small_copy_us, launch_us, reasons; None where that was not measured.
    """
    found = []
    for name, record in records.items():
        result = record.get("result") or {}
        entry = {"name": name, **{key: record.get(key) for key in ("gpu", "cpu_node", "mem_node", "status", "reason")}}
        measured = result if record["status"] == "ok" else {}
        entry |= {"placement": (measured.get("certificate") or {}).get("verdict")}
        entry |= {"device": (measured.get("device") or {}).get("type")}
        found.append(entry | {key: measured.get(key) for key in _KEPT} | {"copies": measured.get("copies") or []})
    return sorted(found, key=lambda entry: (entry["gpu"], entry["cpu_node"] != entry["mem_node"], entry["mem_node"]))


def ceiling(links: Iterable[Record], cells: Iterable[Record], gpu: int, way: str) -> Ceiling | None:
    """Of a GPU, over all its placements: by nvbandwidth's definition; where that was not measured, the largest
    bandwidth of the microbenchmark's copies; without microbenchmarks the best copy of a batch alone."""
    own = [link for link in links if link["gpu"] == gpu]
    defined = [link[f"nvbandwidth_{way}_gb_s"] for link in own if link[f"nvbandwidth_{way}_gb_s"]]
    if defined:
        return Ceiling(max(defined), "nvbandwidth's definition")
    copies = [copy["median_gb_s"] for link in own for copy in link["copies"] if copy["direction"] == way]
    if copies:
        return Ceiling(max(copies), "the best copy of the microbenchmarks")
    alone = [rate for cell in cells if cell["gpu"] == gpu and (rate := alone_gb_s(cell, way))]
    return Ceiling(max(alone), "the best copy of a batch alone") if alone else None


def alone_gb_s(cell: Record, way: str) -> float | None:
    """Of a copy of the batch's own size with the other stages off."""
    solo_us = (cell.get("solo_us") or {}).get(way)
    moved = (cell.get("bytes_per_batch") or {}).get(way)
    return moved / (1e3 * solo_us) if solo_us and moved else None
