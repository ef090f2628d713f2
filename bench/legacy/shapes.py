"""The records of a run directory, as far as results and report read them."""

import re

from bench.legacy.record import OK, OUTCOMES
from bench.records.study import TRACED
from bench.shape import ANY, COUNT, FLAG, NAME, NUMBER, PLAIN, POSITIVE, TEXT, TEXTS, Each, Kind, Must, OneOf

__all__ = ["EXPORT", "LINK", "METRICS", "PREFLIGHT", "PROBE", "RESULTS", "RUN", "TOPOLOGY", "wrong_run"]

REPEAT = Kind(f"a repeat or {TRACED!r}", lambda value: value == TRACED or (COUNT.fits(value) and 0 < value < 10**6))
SPREAD = Each(NUMBER)
STAGE = {"status": Must(OneOf(OUTCOMES)), "reason": TEXT, "advice": TEXT, "invocation": TEXT}

LATENCY = {
    "count": COUNT, "p50": NUMBER, "p90": NUMBER, "p99": NUMBER, "max": NUMBER, "reasons": Each(TEXT),
    "quantiles": [NUMBER],
}  # fmt: skip
DEVICE = {"type": TEXT, "name": TEXT, "uuid": TEXT, "pci_bus_id": TEXT}
RESULT = {
    "throughput_samples_s": POSITIVE, "latency_us": LATENCY, "issue_us": NUMBER, "solo_us": SPREAD,
    "buffer_layout": TEXT, "bytes_in_per_batch": COUNT, "bytes_out_per_batch": COUNT, "batches_per_pass": COUNT,
    "input_ring_batches": COUNT, "output_ring_batches": COUNT, "output_checksum": NUMBER,
    "device": DEVICE, "versions": Each(PLAIN), "phases_s": SPREAD,
    "compile": {"mode": TEXT, "compile_s": NUMBER, "reason": TEXT},
    "warmup": {"settled": FLAG, "spread": NUMBER, "batches": NUMBER, "duration_s": NUMBER},
    "windows": [Must({"batches": Must(POSITIVE), "duration_s": Must(POSITIVE), "start_ns": NUMBER})],
    "certificate": {"verdict": TEXT, "reasons": [ANY], "not_covered": [Must(TEXT)], "binding": TEXT,
                    "share_on_node": SPREAD, "cost_ms": NUMBER},
}  # fmt: skip
MONITOR = {
    "samples": NUMBER, "rate_hz": NUMBER, "throttle_known": FLAG, "throttle_reasons": [Must(TEXT)],
    "throttle_shares": SPREAD, "disturbed": [ANY], "foreign_cpus": NUMBER,
    **dict.fromkeys(("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "link_generation", "link_width"),
                    SPREAD),
}  # fmt: skip
PEER = {"gpu": Must(COUNT), "gpu_uuid": TEXT, "cpu_node": COUNT, "mem_node": COUNT, "command": [Must(PLAIN)],
        "exit_code": NUMBER, "status": TEXT, "result": RESULT}  # fmt: skip
RUN = STAGE | {
    "run": Must(NAME), "cell": Must(NAME), "repeat": Must(REPEAT), "result": RESULT, "monitor": MONITOR,
    "fingerprint": Each(PLAIN), "log_tail": TEXTS, "wall_s": NUMBER, "position": NUMBER, "block": COUNT,
    "attempts": COUNT, "started_at": TEXT, "command": [Must(PLAIN)], "exit_code": NUMBER, "group": TEXT,
    "peers": [Must(PEER)],
}  # fmt: skip
WAY = OneOf(("h2d", "d2h", "both"))
COPY = {"direction": Must(WAY), "bytes": Must(COUNT), "median_gb_s": Must(POSITIVE), "count": NUMBER}
LINK = STAGE | {
    "gpu": Must(COUNT), "cpu_node": Must(COUNT), "mem_node": Must(COUNT),
    "result": {
        "copies": [Must(COPY)], "device": DEVICE, "certificate": {"verdict": TEXT}, "small_copy_us": NUMBER,
        "launch_us": NUMBER, "nvbandwidth_h2d_gb_s": POSITIVE, "nvbandwidth_d2h_gb_s": POSITIVE,
        "nvbandwidth_definition": TEXT, "reasons": Each(TEXT),
    },
}  # fmt: skip
EXPORT = STAGE | {"cell": TEXT, "profiler": TEXT, "sqlite": NAME, "sqlite_bytes": COUNT, "wall_s": NUMBER}

COPIES = {"bytes": NUMBER, "copies": NUMBER, "busy_ns": NUMBER, "bandwidth_gb_s": NUMBER, "link_gb_s": NUMBER}
NS = ("overlap_ns", "exposed_h2d_ns", "exposed_d2h_ns", "exposed_copy_ns", "idle_ns")
METRICS = STAGE | {
    "name": TEXT, "batches": COUNT, "window_ns": POSITIVE, "h2d": COPIES, "d2h": COPIES,
    "compute": {"kernels": NUMBER, "busy_ns": NUMBER}, **dict.fromkeys(NS, NUMBER), "pipeline_efficiency": NUMBER,
    "bottleneck": TEXT, "latency_us": LATENCY, "regime": TEXT, "regime_evidence": SPREAD,
    "devices": [Must({"name": TEXT, "uuid": TEXT, "pci_bus_id": TEXT})], "launch_gaps": SPREAD,
    "top_kernels": [Must({"name": Must(TEXT), "calls": Must(NUMBER), "total_ns": Must(NUMBER)})],
}  # fmt: skip

GPU = {
    "index": Must(COUNT), "uuid": TEXT, "name": TEXT, "pci_bus_id": TEXT, "node": COUNT, "verdict": TEXT,
    "explanation": TEXT, "answers": Each([COUNT]), "link_generation": NUMBER, "link_generation_max": NUMBER,
    "link_width": NUMBER, "link_width_max": NUMBER,
}  # fmt: skip
NODE = {
    "id": Must(COUNT), "kind": TEXT, "cpus": TEXT, "allowed_cpus": TEXT, "memory_bytes": NUMBER,
    "memory_allowed": FLAG, "distances": SPREAD,
}  # fmt: skip
HOST = Kind("a name or the facts of a host", lambda value: isinstance(value, str | dict))
TOPOLOGY = {
    "host": HOST, "fingerprint": Each(PLAIN), "nodes": [Must(NODE)], "gpus": [Must(GPU)], "numa": FLAG,
    "driver_version": TEXT, "cuda_driver_version": TEXT, "nvml_error": TEXT, "silent_gpus": [ANY],
}  # fmt: skip
_CPUS = re.compile(r"none|\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")
CPUS = Kind("a list of CPUs", lambda value: isinstance(value, str) and _CPUS.fullmatch(value) is not None)
GROUPS = {"fast": Must(CPUS), "slow": Must(CPUS)}
PROBED = {
    "index": Must(COUNT), "reported_node": COUNT, "reported_by": TEXT, "measured_node": COUNT, "agreement": TEXT,
    "hidden_groups": GROUPS, "uuid": TEXT, "pci_bus_id": TEXT,
}  # fmt: skip
PROBE = {"found": {"gpus": [Must(PROBED)], "can_hold": FLAG, "error": TEXT, "device": TEXT, "nodes": [NUMBER]}}
PREFLIGHT = {"checks": Must([Must({"name": TEXT, "state": TEXT, "fact": TEXT, "remedy": TEXT})])}

# results.json, as far as a comparison reads it.
RESULTS_RUN = {
    "repeat": Must(PLAIN), "status": Must(TEXT), "throughput_samples_s": POSITIVE, "block": COUNT, "position": NUMBER,
}  # fmt: skip
RESULTS_CELL = {
    "name": Must(TEXT), "key": TEXT, "model": Must({"name": TEXT}), "settings": Must(Each(ANY)),
    "runs": Must([Must(RESULTS_RUN)]), "outcome": TEXT, "reason": TEXT, "noise_class": TEXT,
    "throughput_samples_s": POSITIVE, "group": TEXT,
}  # fmt: skip
RESULTS = {
    "cells": Must([Must(RESULTS_CELL)]), "fingerprint": Each(PLAIN), "device": TEXT, "study_name": TEXT,
    "created_at": TEXT, "run_directory": TEXT,
}  # fmt: skip


def wrong_run(record: dict) -> str | None:
    """What a run's record says of itself and does not hold."""
    if record["status"] == OK and not (record.get("result") or {}).get("throughput_samples_s"):
        return "ok, without a throughput"
    label = record["repeat"] if record["repeat"] == TRACED else f"r{record['repeat']}"
    return None if record["run"] == f"{record['cell']}_{label}" else "its run, cell and repeat contradict each other"
