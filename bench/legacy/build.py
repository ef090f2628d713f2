"""Build results and write every format."""

import functools
import platform
from datetime import UTC, datetime
from typing import Any

from bench.host.probe import locality_changes
from bench.legacy.aggregate import cell_entry, link_entries
from bench.legacy.axes import comparisons
from bench.legacy.contention import contention
from bench.legacy.fastest import fastest
from bench.legacy.load import Stored
from bench.legacy.noise_floor import recall
from bench.legacy.penalties import penalties
from bench.legacy.predictions import hidden_copies, predictions
from bench.legacy.statistics import Run, drift
from bench.legacy.trust import busy_s, count, duration_s, trust, windows_s
from bench.legacy.verdicts import rules_of
from bench.records.base import convert, plain
from bench.records.host import Probe
from bench.report.text.host import locality_change_text, probed_text
from bench.study.directory import RunDirectory

# --- results
# results.json: every cell with its outcome, the penalties, and what they rest on.

SCHEMA = 1
Record = dict[str, Any]


def build_results(stored: Stored, invocation: str) -> Record:
    """Fold a run directory into the results; pure but for the clock of created_at and the noise floor kept beside.

    Keys beyond the ones of the contract: busy_s, windows_s, trust, damaged (records that could not be read), topology,
    locality (of the probes), preflight (the doctor's checks at the start), predictions (of penalties),
    hidden_copies, comparisons (along swept axes), fastest (way to run each model), contention, links (microbenchmarks),
    drift.
    """
    repeats = int(stored.study.get("repeats") or 1)
    cells = [
        cell_entry(
            cell,
            stored.runs_of(cell["name"]),
            stored.exports.get(cell["name"]),
            stored.metrics.get(cell["name"]),
            repeats,
        )
        for cell in stored.cells
    ]
    runs = list(stored.runs.values())
    topology = _with_measured_nodes(_topology(stored.topology), stored.probes.get("before", {}))
    rules, facts = rules_of(stored.study), stored.topology.get("fingerprint") or _first(runs, "fingerprint") or {}
    compared, along = penalties(cells, topology, rules), comparisons(cells, stored.study, rules)
    results = {
        "schema": SCHEMA,
        "study": stored.study,
        "study_name": stored.study.get("name", "study"),
        "run_directory": str(stored.path),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "invocation": invocation,
        "host": _host(stored.topology, runs),
        "fingerprint": facts,
        "topology": topology,
        "locality": _locality(stored.probes),
        "preflight": list(stored.preflight),
        "device": _device(runs, cells),
        "device_names": _device_names(stored, topology, runs),
        "binding": next((cell["settings"].get("binding") for cell in cells), None),
        "counts": count(cells, sum(max(len(cell["runs"]), repeats + 1) for cell in cells)),
        "duration_s": duration_s(runs),
        "busy_s": busy_s(runs),
        "windows_s": windows_s(runs),
        "trust": trust(runs, cells, facts),
        "damaged": [{"path": damage.path, "what": damage.what} for damage in stored.damaged],
        "cells": cells,
        "penalties": compared,
        "predictions": predictions(compared, cells, rules.margin),
        "hidden_copies": hidden_copies(cells),
        "comparisons": along,
        "fastest": fastest(cells, stored.study, rules, along),
        "contention": contention(cells, along),
        "links": link_entries(stored.links),
        "drift": _drift(cells),
    }
    results["trust"]["noise_floor"] = _noise_floor(results, stored)
    return results


def _noise_floor(results: Record, stored: Stored) -> float | None:
    """What an earlier SelfCheck of this host left beside its studies."""
    try:
        return recall(results, RunDirectory(stored.path).outputs)
    except IndexError:  # moved to where nothing is three folders above it
        return None


def _topology(record: Record) -> Record:
    inner = record.get("topology")
    return inner if isinstance(inner, dict) else {key: value for key, value in record.items() if key != "fingerprint"}


def _with_measured_nodes(topology: Record, probe: Record) -> Record:
    measured = {gpu["index"]: gpu.get("measured_node") for gpu in probe.get("gpus", [])}
    gpus = [gpu | {"measured_node": measured.get(gpu["index"])} for gpu in topology.get("gpus") or []]
    return topology | {"gpus": gpus} if gpus else topology


def _locality(probes: dict[str, Record]) -> Record:
    """What the probe says of each GPU, and what changed between the start and the end of the study."""
    before, after = (convert(probes.get(when, {}), Probe) for when in ("before", "after"))
    both = before.gpus and after.gpus
    kept = ("index", "reported_node", "measured_node", "agreement", "hidden_groups")
    gpus = [
        {key: plain(getattr(gpu, key)) for key in kept} | {"text": f"GPU {gpu.index}: {probed_text(gpu)}"}
        for gpu in before.gpus
    ]
    return {
        "gpus": gpus,
        "texts": [gpu["text"] for gpu in gpus],
        "error": before.error or None,
        "can_hold": before.can_hold,
        "repeated": bool(both),
        "changes": list(map(locality_change_text, locality_changes(before, after))) if both else [],
    }


def _drift(cells: list[Record]) -> Record | None:
    """By position in the order: None where too little was repeated."""
    found = drift(
        [
            Run(cell["name"], cell["noise_class"], float(run["position"]), run["throughput_samples_s"])
            for cell in cells
            for run in cell["runs"]
            if run["repeat"] != "traced" and run["throughput_samples_s"] and run["position"] is not None
        ]
    )
    return found and vars(found) | {"interval": list(found.interval)}


def _host(record: Record, runs: list[Record]) -> Record:
    fingerprint = record.get("fingerprint") or _first(runs, "fingerprint") or {}
    host = record.get("host") or fingerprint.get("host")
    if isinstance(host, dict):
        return host
    return {"name": host or fingerprint.get("hostname") or fingerprint.get("host_name") or platform.node()}


def _device(runs: list[Record], cells: list[Record]) -> str:
    measured = [_of_device(run, "type") for run in runs]
    named = next((kind for kind in measured if kind), None)
    return named or next((cell["settings"].get("device") for cell in cells), None) or "cpu"


def _device_names(stored: Stored, topology: Record, runs: list[Record]) -> dict[str, str]:
    """By GPU index: as the runs saw it, else as the topology names it."""
    names = {str(gpu["index"]): gpu["name"] for gpu in topology.get("gpus", []) if gpu.get("name")}
    gpu_of = {cell["name"]: cell.get("gpu") for cell in stored.cells}
    for run in runs:
        name, gpu = _of_device(run, "name"), gpu_of.get(run["cell"])
        if name and gpu is not None:
            names[str(gpu)] = name
    wanted = {str(gpu) for gpu in gpu_of.values() if gpu is not None}
    return {gpu: name for gpu, name in sorted(names.items()) if gpu in wanted}


def _of_device(run: Record, key: str) -> str | None:
    return functools.reduce(lambda value, step: (value or {}).get(step), ("result", "device", key), run)


def _first(runs: list[Record], key: str) -> Any:
    return next((run[key] for run in runs if run.get(key)), None)
