"""Measured locality of each GPU."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.host.cpulist import format_cpulist, parse_cpulist
from bench.host.gpus import Gpu
from bench.host.topology import Node, Topology, read_topology
from bench.storage import write_json

# --- probe
# Measured locality: which node is near each GPU, and whether one reported node hides two.
#
# On a host with several nodes with CPUs, latencies are compared by node; where one node is reported, by CPU.

CPUS_PER_NODE = 8
PER_CPU_S = 0.010
SCANS_S = 3.0
"""What two scans may take; with many CPUs each gets less than PER_CPU_S. Where two groups are seen two more follow."""
NEARER_BY = 0.03
CHILD_TIMEOUT_S = 120

Measure = Callable[[dict[str, Any]], dict[str, Any]]


class ProbeError(StudyError):
    """Locality cannot be measured here."""


def probe(topology: Topology, seed: int = 0, measure: Measure | None = None) -> dict[str, Any]:
    """Measure every GPU from every node (or CPU). Raise ProbeError without a GPU.

    measure: what runs a request of bench.host.small_copy; by default a child process.
    """
    if not topology.gpus:
        why = topology.nvml_error or "the driver offers none"
        raise ProbeError(f"no GPU to probe: {why}", "numastudy probe", "on a host without a GPU: --device cpu")
    measure = measure or run_small_copy
    began = time.monotonic()
    with_cpus = [node for node in topology.nodes if node.allowed_cpus]
    cpus = chosen_cpus(with_cpus)
    bus_ids = [gpu.pci_bus_id for gpu in topology.gpus if not gpu.mig]
    request = {
        "bus_ids": bus_ids,
        "cpus": cpus,
        "per_cpu_s": min(PER_CPU_S, SCANS_S / (2 * len(cpus) * max(len(bus_ids), 1))),
        "scans": 2,
        "context_cpu": cpus[0],
        "seed": seed,
    }
    measured = measure(request)

    @cache
    def from_other_side() -> dict[str, Any]:
        # Groups are groups of CPUs: looking once more, with the context on a slow one, serves all GPUs.
        return measure(request | {"context_cpu": slow_cpus[0], "seed": seed + 7})

    slow_cpus: list[int] = []
    gpus = []
    for gpu in topology.gpus:
        scans = [{int(cpu): value for cpu, value in scan.get(gpu.pci_bus_id, {}).items()} for scan in measured["scans"]]
        record = {"index": gpu.index, "pci_bus_id": gpu.pci_bus_id, "uuid": gpu.uuid}
        record |= {"reported_node": gpu.node, "reported_by": gpu.explanation}
        if gpu.mig:
            record |= {"measured_node": None, "text": f"GPU {gpu.index} is split by MIG and was not probed"}
        elif len(with_cpus) > 1:
            record |= judge_nodes(gpu.index, gpu.node, scans, with_cpus)
        else:
            record |= judge_hidden(gpu, scans, measured["tick_us"], slow_cpus, from_other_side)
        gpus.append(record | {"scans_us": scans})
    return {
        "device": "cuda",
        "nodes": [node.id for node in with_cpus],
        "cpus": format_cpulist(cpus),
        "per_cpu_s": request["per_cpu_s"],
        "gpus": gpus,
        "can_hold": None if len(with_cpus) > 1 else all(gpu.get("holds") is not False for gpu in gpus),
        "duration_s": round(time.monotonic() - began, 2),
    }


def chosen_cpus(nodes: list[Node]) -> list[int]:
    """All CPUs of a single node; of several nodes some of each, evenly spaced."""
    if len(nodes) == 1:
        return list(nodes[0].allowed_cpus)
    chosen: list[int] = []
    for node in nodes:
        chosen += node.allowed_cpus[:: max(1, len(node.allowed_cpus) // CPUS_PER_NODE)][:CPUS_PER_NODE]
    return chosen


def judge_nodes(gpu: int, reported: int | None, scans: list[dict[int, float]], nodes: list[Node]) -> dict[str, Any]:
    """The nearest node: lowest median latency in both scans, by NEARER_BY at least; compared with the reported."""
    by_node = [
        {node.id: statistics.median(scan[cpu] for cpu in node.allowed_cpus if cpu in scan) for node in nodes}
        for scan in scans
    ]
    fastest = [min(medians, key=medians.__getitem__) for medians in by_node]
    margins = []
    for medians, best in zip(by_node, fastest, strict=True):
        second = min(value for node, value in medians.items() if node != best)
        margins.append(second / medians[best] - 1)
    sure = len(set(fastest)) == 1 and min(margins) >= NEARER_BY
    measured = fastest[0] if sure else None
    texts = ", ".join(f"node {node} {value:.2f} us" for node, value in by_node[0].items())
    if measured is None:
        agreement, text = "unknown", f"GPU {gpu}: no node is nearer by measurement ({texts})"
    elif reported is None:
        agreement, text = "unknown", f"GPU {gpu}: node {measured} is nearest by measurement ({texts})"
    else:
        agreement = "agreed" if measured == reported else "disagreed"
        text = f"GPU {gpu}: node {measured} by measurement, node {reported} as reported: {agreement} ({texts})"
    return {
        "measured_node": measured,
        "agreement": agreement,
        "latency_us_by_node": {str(node): round(value, 3) for node, value in by_node[0].items()},
        "text": text,
    }


def judge_hidden(
    gpu: Gpu,
    scans: list[dict[int, float]],
    tick_us: float,
    slow_cpus: list[int],
    from_other_side: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """On a host that reports one node: two groups of CPUs, whether they hold, and what their distance is to."""
    # numpy only where there is something to compute: the command line stays quick.
    from bench.host.latency_groups import compare_scans, what_was_seen

    verdict = compare_scans(scans[0], scans[1], tick_us)
    record: dict[str, Any] = {"measured_node": None, "agreement": "unknown", "hidden_groups": None}
    if verdict.groups is None:
        middle = statistics.median(scans[0].values())
        return record | {"text": f"GPU {gpu.index}: {middle:.2f} us, no hidden nodes seen: {verdict.reason}"}
    slow_cpus += verdict.groups.slow
    again = from_other_side()
    turned = [{int(cpu): us for cpu, us in scan[gpu.pci_bus_id].items()} for scan in again["scans"]]
    repeated = compare_scans(turned[0], turned[1], tick_us).groups
    seen = what_was_seen(verdict.groups, repeated) if repeated else "not clear: no groups from the other side"
    holds = f"they hold (adjusted Rand index {verdict.rand_index:.2f})"
    if not verdict.holds:
        holds = (
            f"they do not hold (adjusted Rand index {verdict.rand_index:.2f}): the virtual CPUs move, "
            "and placement cannot be held on this machine"
        )
    return record | {
        "hidden_groups": {
            "fast": format_cpulist(verdict.groups.fast),
            "slow": format_cpulist(verdict.groups.slow),
            "centres_us": [round(value, 3) for value in verdict.groups.centres_us],
        },
        "holds": verdict.holds,
        "rand_index": verdict.rand_index,
        "seen": seen,
        "text": f"GPU {gpu.index}: one node is reported and two are seen: {verdict.reason}; {holds}; {seen}",
    }


def run_small_copy(request: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.host.small_copy", json.dumps(request)]
    try:
        return json.loads(said := run_child(command))
    except ValueError:
        raise ProbeError(f"the probe said {said!r:.80}", " ".join(command[:3]), "run `numastudy doctor`") from None


def probe_cpu(topology: Topology) -> dict[str, Any]:
    """Copy bandwidth by CPU node and memory node: the locality that the cpu device measures."""
    began = time.monotonic()
    rows: dict[str, dict[str, float | None]] = {}
    texts = []
    for node in (node for node in topology.nodes if node.allowed_cpus):
        row: dict[str, float | None] = {}
        for memory in (memory for memory in topology.nodes if memory.memory_bytes and memory.memory_allowed):
            command = [sys.executable, "-m", "bench.host.node_copy", format_cpulist(node.allowed_cpus)]
            try:
                row[str(memory.id)] = round(float(run_child([*command, str(memory.id)])), 2)
            except ProbeError:
                row[str(memory.id)] = None
        rows[str(node.id)] = row
        shown = ", ".join(f"node {memory} {speed or 'refused'}" for memory, speed in row.items())
        texts.append(f"CPUs of node {node.id}, copies within the memory of (GB/s): {shown}")
    return {"device": "cpu", "copy_gb_s": rows, "texts": texts, "duration_s": round(time.monotonic() - began, 2)}


def run_child(command: list[str]) -> str:
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ProbeError("the probe did not end", " ".join(command[:4]), "see whether the GPU hangs") from None
    except OSError as error:
        raise ProbeError(f"the probe did not start: {error.strerror}", " ".join(command[:4]), "try again") from None
    if child.returncode:
        last = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        raise ProbeError(f"the probe failed: {last[0]}", " ".join(command[:4]), "run `numastudy doctor`")
    return child.stdout


def still_holds(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What changed between the probes at the start and the end of a study, for the report; empty if nothing."""
    from bench.host.latency_groups import HOLD_AT, adjusted_rand_index

    changes = []
    later = {gpu.get("pci_bus_id"): gpu for gpu in after["gpus"]}
    for old in before["gpus"]:
        name, bus_id = f"GPU {old['index']}", old.get("pci_bus_id")
        new = later.pop(bus_id, None)
        if new is None:
            changes.append(f"{name} ({bus_id}) was there at the start only")
            continue
        nodes = old.get("measured_node"), new.get("measured_node")
        if nodes[0] != nodes[1]:
            changes.append(f"{name}: nearest node by measurement {nodes[0]}, then {nodes[1]}")
        groups = old.get("hidden_groups"), new.get("hidden_groups")
        if bool(groups[0]) != bool(groups[1]):
            changes.append(f"{name}: hidden groups were seen at {'the start' if groups[0] else 'the end'} only")
        elif groups[0]:
            slow = [set(parse_cpulist(group["slow"])) for group in groups]
            cpus = sorted({*parse_cpulist(groups[0]["fast"]), *slow[0]})
            index = adjusted_rand_index(*([cpu in members for cpu in cpus] for members in slow))
            if index < HOLD_AT:
                changes.append(f"{name}: CPUs changed groups during the study (adjusted Rand index {index:.2f})")
    return changes + [f"the GPU at {bus_id} was there at the end only" for bus_id in later]


def probe_command(as_json: bool, device: str = "cuda", output: Path | None = None) -> str:
    """Probe this host and return what to print; also write it to a file. Raise ProbeError."""
    topology = read_topology()
    found = probe(topology) if device == "cuda" else probe_cpu(topology)
    if output is not None:
        write_json(output, found)
    if as_json:
        return json.dumps(found, indent=1)
    texts = found.get("texts") or [gpu["text"] for gpu in found["gpus"]]
    return "\n".join([*texts, f"probed in {found['duration_s']} s"])


# --- locality
# The probe as a study uses it: never fatal, and silent where there is nothing to find out.

def measured_locality(device: str) -> dict[str, Any] | None:
    """What the probe found, {"error": text} if it failed, None on the cpu device: there is no GPU to be near to."""
    if device != "cuda":
        return None
    try:
        return probe(read_topology())
    except ProbeError as error:
        return {"error": str(error)}
