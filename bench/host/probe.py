"""Measured locality: which node is near each GPU, and whether one reported node hides two.

On a host with several nodes with CPUs, latencies are compared by node; where one node is reported, by CPU.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec.structs import replace

from bench.errors import StudyError
from bench.host.processes import python_module, without_relative_paths
from bench.host.timed_copies import NodeCopies, NodeCopyRequest, Request, SmallCopies, SmallCopyRequest
from bench.host.topology import read_topology
from bench.records.base import DamagedRecord, decode
from bench.records.host import (
    Agreement,
    Distance,
    Gpu,
    HiddenGroups,
    HiddenNodes,
    LocalityChange,
    LocalityChangeKind,
    Node,
    Probe,
    Probed,
    Topology,
    format_cpulist,
    parse_cpulist,
)

if TYPE_CHECKING:
    from bench.host.latency_groups import Comparison

CPUS_PER_NODE = 16
PER_CPU_S = 0.010
SCANS_S = 3.0
"""Limit for the scans of one context; with many CPUs each gets less than PER_CPU_S."""
SCANS_OF_NODES = 4
"""By CPU the lowest counts; see bench.host.nearest."""
CHILD_TIMEOUT_S = 120

Measure = Callable[[SmallCopyRequest], SmallCopies]
Answer = TypeVar("Answer")


class ProbeError(StudyError):
    """Locality cannot be measured here."""


def measured_locality(device: str) -> Probe:
    """The probe as a study uses it, never fatal. On the cpu device it is empty: there is no GPU to be near to."""
    if device != "cuda":
        return Probe(device=device)
    try:
        return probe(read_topology())
    except ProbeError as error:
        return Probe(error=str(error))


def probe(topology: Topology, seed: int = 0, measure: Measure | None = None) -> Probe:
    """Measure every GPU from every node (or CPU). Raise ProbeError without a GPU.

    measure: runs a request of bench.host.timed_copies; by default in a child process.
    """
    if not topology.visible_gpus:
        hidden = "CUDA_VISIBLE_DEVICES excludes all GPUs" if topology.gpus else "the driver offers none"
        why = topology.nvml_error or hidden
        raise ProbeError(f"no GPU to probe: {why}", "numastudy probe", "on a host without a GPU: --device cpu")
    measure = measure or measure_small_copies
    began = time.monotonic()
    with_cpus = [node for node in topology.nodes if node.allowed_cpu_ids]
    several = len(with_cpus) > 1
    cpus = chosen_cpus(with_cpus, topology.core_kinds)
    scans = SCANS_OF_NODES if several else 2
    bus_ids = tuple(gpu.pci_bus_id for gpu in topology.visible_gpus if not gpu.mig)
    request = SmallCopyRequest(
        bus_ids=bus_ids,
        cpus=tuple(cpus),
        per_cpu_s=min(PER_CPU_S, SCANS_S / (scans * len(cpus) * max(len(bus_ids), 1))),
        scans=scans,
        context_cpu=cpus[0],
        seed=seed,
    )
    # On several nodes a context is created on each, in a process of its own: its memory lies there, and attracts.
    starts = [next(cpu for cpu in cpus if cpu in node.allowed_cpu_ids) for node in with_cpus] if several else cpus[:1]
    copies = [
        measure(replace(request, context_cpu=cpu, seed=seed + number * scans)) for number, cpu in enumerate(starts)
    ]

    turned: SmallCopies | None = None
    gpus: list[Probed] = []
    for gpu in topology.visible_gpus:
        probed = Probed(
            index=gpu.index,
            pci_bus_id=gpu.pci_bus_id,
            uuid=gpu.uuid,
            reported_node=gpu.node,
            answers=gpu.answers,
            hidden_nodes=HiddenNodes.NOT_PROBED,
            scans_us=tuple(scan for of_birth in copies for scan in _scans(of_birth, gpu)),
        )
        if gpu.mig:
            gpus.append(probed)
        elif several:
            births = [_scans(of_birth, gpu) for of_birth in copies]
            gpus.append(judge_nodes(probed, births, with_cpus, len(bus_ids)))
        else:
            # numpy only where there is something to compute: the command line stays quick.
            from bench.host.latency_groups import compare_scans

            (only,) = copies
            scanned, again = compare_scans(*_two_scans(only, gpu), only.tick_us), None
            if scanned.groups:
                # Groups are groups of CPUs: scanning once more, with the context on a slow one, serves all GPUs.
                turned = turned or measure(replace(request, context_cpu=scanned.groups.slow[0], seed=seed + 7))
                again = compare_scans(*_two_scans(turned, gpu), only.tick_us)
            gpus.append(judge_hidden(probed, scanned, again))
    return Probe(
        device="cuda",
        nodes=tuple(node.id for node in with_cpus),
        cpus=format_cpulist(cpus),
        per_cpu_s=request.per_cpu_s,
        gpus=tuple(gpus),
        can_hold=None if several else all(gpu.hidden_groups is None or gpu.hidden_groups.holds for gpu in gpus),
        duration_s=round(time.monotonic() - began, 2),
    )


def _two_scans(copies: SmallCopies, gpu: Gpu) -> tuple[dict[int, float], dict[int, float]]:
    first, second = _scans(copies, gpu)
    return first, second


def _scans(copies: SmallCopies, gpu: Gpu) -> list[dict[int, float]]:
    return [scan.get(gpu.pci_bus_id, {}) for scan in copies.scans]


def chosen_cpus(nodes: Sequence[Node], core_kinds: Sequence[str] = ()) -> list[int]:
    """All CPUs of a single node; of several nodes some of each, evenly spaced.

    Of several kinds of cores only the fastest: slower ones would look like CPUs that are far from the GPU.
    """
    fastest = {cpu for kind in core_kinds[:1] for cpu in parse_cpulist(kind)}
    chosen: list[int] = []
    for node in nodes:
        cpus = [cpu for cpu in node.allowed_cpu_ids if cpu in fastest] or list(node.allowed_cpu_ids)
        if len(nodes) == 1:
            return cpus
        chosen += cpus[:: max(1, len(cpus) // CPUS_PER_NODE)][:CPUS_PER_NODE]
    return chosen


def judge_nodes(
    probed: Probed, births: Sequence[Sequence[Mapping[int, float]]], nodes: Sequence[Node], gpus: int
) -> Probed:
    """The near nodes, compared with the reported one. births: the scans with the context on each node."""
    from bench.host.nearest import latency_us, near_nodes

    cpus_of = {node.id: [cpu for cpu in node.allowed_cpu_ids if cpu in births[0][0]] for node in nodes}
    near = near_nodes(births, cpus_of, gpus)
    agreement = Agreement.UNKNOWN
    if near and probed.reported_node is not None:
        agreement = Agreement.AGREED if probed.reported_node in near else Agreement.DISAGREED
    return replace(
        probed,
        measured_node=near[0] if len(near) == 1 else None,
        near_nodes=near,
        agreement=agreement,
        hidden_nodes=HiddenNodes.SEVERAL_REPORTED,
        latency_us_by_node={node: round(latency_us(births, cpus), 3) for node, cpus in cpus_of.items()},
    )


def judge_hidden(probed: Probed, scans: "Comparison", turned: "Comparison | None") -> Probed:
    """On a host that reports one node: two groups of CPUs, whether they hold, and what their latency follows.

    turned: the comparison with the CUDA context on a CPU of the slow group.
    """
    from bench.host.latency_groups import distance_of

    groups = None
    if scans.groups and scans.rand_index is not None:
        near, far = scans.groups.centres_us
        groups = HiddenGroups(
            fast=format_cpulist(scans.groups.fast),
            slow=format_cpulist(scans.groups.slow),
            centres_us=(round(near, 3), round(far, 3)),
            rand_index=scans.rand_index,
            holds=bool(scans.holds),
            distance=distance_of(scans.groups, turned.groups) if turned and turned.groups else Distance.NO_GROUPS,
        )
    return replace(
        probed,
        latency_us=statistics.median(probed.scans_us[0].values()),
        hidden_nodes=scans.state,
        evidence=scans.evidence,
        hidden_groups=groups,
    )


def measure_small_copies(request: SmallCopyRequest) -> SmallCopies:
    """Raise ProbeError."""
    return _run_child(request, SmallCopies)


def probe_cpu(topology: Topology) -> Probe:
    """Copy bandwidth by CPU node and memory node: the locality that the cpu device measures."""
    began = time.monotonic()
    memories = [node for node in topology.nodes if node.memory_bytes and node.memory_allowed]
    rates: dict[int, dict[int, float | None]] = {}
    for node in topology.nodes:
        if node.allowed_cpu_ids:
            rates[node.id] = {memory.id: _copy_gb_s(node, memory) for memory in memories}
    return Probe(device="cpu", copy_gb_s=rates, duration_s=round(time.monotonic() - began, 2))


def _copy_gb_s(node: Node, memory: Node) -> float | None:
    """None where the kernel refuses."""
    try:
        copies = _run_child(NodeCopyRequest(cpus=node.allowed_cpus, mem_node=memory.id), NodeCopies)
    except ProbeError:
        return None
    return round(copies.copy_gb_s, 2)


def _run_child(request: SmallCopyRequest | NodeCopyRequest, answer: type[Answer]) -> Answer:
    command = python_module("bench.host.timed_copies", msgspec.json.encode(Request(copies=request)).decode())
    printed = run_child(command)
    try:
        return decode(printed.encode(), answer)
    except DamagedRecord:
        what = f"the probe printed {printed!r:.80}"
        raise ProbeError(what, " ".join(command[:4]), "run `numastudy doctor`") from None


def run_child(command: list[str]) -> str:
    """What the command prints. Raise ProbeError."""
    where = " ".join(command[:4])
    try:
        # GPUs are named by their PCI ids, and those of other users are excluded already.
        own = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        environment = without_relative_paths(own)
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ProbeError(
            f"the probe did not end within {CHILD_TIMEOUT_S} s", where, "check whether the GPU hangs (nvidia-smi)"
        ) from None
    except OSError as error:
        raise ProbeError(f"the probe did not start: {error.strerror}", where, "try again") from None
    if child.returncode:
        last = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        raise ProbeError(f"the probe failed: {last[0]}", where, "run `numastudy doctor`")
    return child.stdout


def locality_changes(before: Probe, after: Probe) -> tuple[LocalityChange, ...]:
    """What changed between the probes at the start and the end of a study; empty if nothing did."""
    changes = []
    later = {gpu.pci_bus_id: gpu for gpu in after.gpus}
    for old in before.gpus:
        new = later.pop(old.pci_bus_id, None)
        if new is None:
            changes.append(_change(LocalityChangeKind.GPU_GONE, old))
            continue
        if old.measured_node != new.measured_node:
            nodes = old.measured_node, new.measured_node
            changes.append(replace(_change(LocalityChangeKind.NEAREST_NODE, old), nodes=nodes))
        if old.hidden_groups and not new.hidden_groups:
            changes.append(_change(LocalityChangeKind.GROUPS_VANISHED, old))
        elif new.hidden_groups and not old.hidden_groups:
            changes.append(_change(LocalityChangeKind.GROUPS_APPEARED, old))
        elif old.hidden_groups and new.hidden_groups:
            from bench.host.latency_groups import HOLD_AT

            index = _rand_index(old.hidden_groups, new.hidden_groups)
            if index < HOLD_AT:
                changes.append(replace(_change(LocalityChangeKind.CPUS_CHANGED_GROUPS, old), rand_index=index))
    return (*changes, *(_change(LocalityChangeKind.GPU_NEW, gpu) for gpu in later.values()))


def _change(kind: LocalityChangeKind, gpu: Probed) -> LocalityChange:
    return LocalityChange(kind=kind, gpu=gpu.index, pci_bus_id=gpu.pci_bus_id)


def _rand_index(before: HiddenGroups, after: HiddenGroups) -> float:
    from bench.host.latency_groups import adjusted_rand_index

    slow = [set(parse_cpulist(groups.slow)) for groups in (before, after)]
    cpus = sorted({*parse_cpulist(before.fast), *slow[0]})
    first, second = ([cpu in members for cpu in cpus] for members in slow)
    return adjusted_rand_index(first, second)
