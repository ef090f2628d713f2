"""Cells that cannot be measured: settings that contradict each other, and what this host does not have."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from bench.errors import StudyError
from bench.host.peers import why_no_peers
from bench.records.command import Command
from bench.records.host import Topology, format_cpulist
from bench.records.study import Model, Placement, Settings, StudySettings
from bench.study.command import why_elsewhere
from bench.study.settings import SETTINGS, SHAPE
from bench.workload.constraints import Constraint, Violation, why_impossible

_NAMED = 8


def violation(model: Model, settings: StudySettings, varied: Collection[str] = ()) -> Violation | None:
    """The first constraint that these settings violate in a study which varies the keys `varied`; None if none."""
    if model.command:
        return _bound_elsewhere(model.command, settings)
    if settings.binding in ("self", "preferred", "interleave"):
        what = f"binding {settings.binding} is of a command: the pipeline's memory is bound to one node, or not at all"
        return Violation(Constraint.BOUND_ELSEWHERE, what, "set binding to numactl, cpus or none", ("binding",))
    studied = _whole_batches(settings), _no_effect(settings, varied), _own_inputs(model, varied)
    first = next(chain(*studied, () if model.source else _pool(settings, varied)), None)
    first = first or why_impossible(model, settings)
    if not first and settings.design == "crossing":
        first = why_not_crossed(settings)
    if first and first.constraint is Constraint.NO_SUCH_MODEL and set(SHAPE) & set(varied):
        # Parts of the shape are varied: they identify the model.
        return replace(first, keys=(*SHAPE, "image_size"))
    return first


def _bound_elsewhere(command: Command, settings: Settings) -> Violation | None:
    why = why_elsewhere(command) if settings.binding not in ("none", "self") else ""
    if not why:
        return None
    return Violation(
        Constraint.BOUND_ELSEWHERE,
        f"{why}: numactl would bind the client only",
        "set binding: self, and let the command bind itself by {cpus} and {mem_node}, "
        "as docker run --cpuset-cpus={cpus} --cpuset-mems={mem_node} does",
        ("binding",),
    )


def _whole_batches(settings: Settings) -> Iterator[Violation]:
    samples, batch = settings.num_samples, settings.batch_size
    if samples % batch:
        yield Violation(
            Constraint.WHOLE_BATCHES,
            f"num_samples {samples} is not a multiple of batch_size {batch}",
            "a pass consists of whole batches: change one of the two",
            ("batch_size", "num_samples"),
        )


def _no_effect(settings: Settings, varied: Collection[str]) -> Iterator[Violation]:
    """A value that has no effect while the setting it needs is off.

    A study that varies what it needs may have it; varied itself it would make two cells of one thing.
    """
    needs = {} if settings.preprocess_queue else {"preprocess_node": "preprocess_queue"}
    if settings.concurrent_gpus == 1:
        needs |= {"concurrent_load": "concurrent_gpus", "concurrent_placement": "concurrent_gpus"}
    for key, needed in needs.items():
        value = getattr(settings, key)
        if value != SETTINGS[key].default and (key in varied or needed not in varied):
            yield Violation(
                Constraint.NO_EFFECT,
                f"{key} {value} has no effect with {needed} {getattr(settings, needed)}",
                f"set {needed} too",
                (key, needed),
            )


def _own_inputs(model: Model, varied: Collection[str]) -> Iterator[Violation]:
    if model.kind in ("python", "pt2") and "image_size" in varied:
        what = f"{model.source} has inputs of its own, which image_size does not change"
        advice = "vary image_size in a study of ViTs and timm models"
        yield Violation(Constraint.NOT_FOR_MODEL, what, advice, ("model", "image_size"))


def _pool(settings: Settings, varied: Collection[str]) -> Iterator[Violation]:
    """A pool is made large enough for the batches in flight (bench.workload.host_memory): as an axis it would be one
    value under several names."""
    if "memory_size_mb" not in varied or settings.direction == "d2h":
        return
    needed_bytes = settings.batches_in_flight * settings.input_bytes
    if settings.memory_size_mb << 20 < needed_bytes:
        queue = ("preprocess_queue", "buffers") if settings.preprocess_queue else ()
        yield Violation(
            Constraint.POOL_TOO_SMALL,
            f"memory_size_mb {settings.memory_size_mb} does not hold the {settings.batches_in_flight} batches in "
            f"flight: it would become {-(-needed_bytes >> 20)}",
            "vary pools that hold them; smaller batches need less",
            ("memory_size_mb", "batch_size", "image_size", "dtype", *queue),
        )


def why_not_crossed(settings: Settings) -> Violation | None:
    """Why a process cannot measure cells with these settings by turns; None if it can.

    A binding of auto is asked about again when the host is known.
    """
    reasons = {
        "preprocess_queue": settings.preprocess_queue and "its thread cannot be moved with the others",
        "compile_model": settings.compile_model == "max-autotune" and "it chooses kernels by timing them on one node",
        "binding": settings.binding in ("cpus", "none") and "each turn binds CPUs and memory to its node",
    }
    for key, reason in reasons.items():
        if reason:
            what = f"{key} {getattr(settings, key)} excludes design crossing: {reason}"
            return Violation(Constraint.NOT_CROSSED, what, f"set design: processes, or change {key}", (key,))
    return None


def why_not_here(topology: Topology, gpu: int, placement: Placement, settings: Settings) -> str:
    """What this host lacks for a cell, or "". On the cpu device the number of a GPU is only a label."""
    cpu_node = placement[0]
    preparing = settings.preprocess_node if settings.preprocess_queue and settings.preprocess_node >= 0 else cpu_node
    return (
        (why_no_gpu(topology, gpu) if settings.device == "cuda" else "")
        or why_no_placement(topology, placement)
        or _cpu_reason(topology, preparing)
        or _unbound_memory_reason(placement, settings)
        or why_no_peers(topology, gpu, settings.concurrent_gpus - 1, settings.concurrent_placement, settings.device)
        or ""
    )


def why_no_placement(topology: Topology, placement: Placement) -> str:
    """Why this host cannot bind a process there, or ""."""
    cpu_node, mem_node = placement
    return _cpu_reason(topology, cpu_node) or _memory_reason(topology, mem_node)


def why_no_gpu(topology: Topology, index: int) -> str:
    gpu = topology.gpu(index)
    if gpu is None:
        if topology.nvml_error:
            return f"no such GPU: {index} (NVML: {topology.nvml_error})"
        return f"no such GPU: {index} (this host has {format_cpulist(gpu.index for gpu in topology.gpus)})"
    if not gpu.visible:
        return f"GPU {index} is not in CUDA_VISIBLE_DEVICES: it is not for this user"
    if gpu.mig:
        return f"GPU {index} ({gpu.pci_bus_id}) is split by MIG: its instances are not measured"
    return ""


def _cpu_reason(topology: Topology, node_id: int) -> str:
    node = topology.node(node_id)
    if node is None:
        return _no_such_node(topology, node_id)
    if not node.cpu_ids:
        return f"node {node_id} has no CPUs: it can only be a memory node"
    if not node.allowed_cpu_ids:
        return f"the CPUs of node {node_id} ({node.cpus}) are outside this process's cpuset"
    return ""


def _memory_reason(topology: Topology, node_id: int) -> str:
    node = topology.node(node_id)
    if node is None:
        return _no_such_node(topology, node_id)
    if not node.memory_bytes:
        return f"node {node_id} has no memory: it can only be a CPU node"
    if not node.memory_allowed:
        return f"the memory of node {node_id} is outside this process's cpuset (Mems_allowed)"
    return ""


def _unbound_memory_reason(placement: Placement, settings: Settings) -> str:
    """Memory without a policy is where the CPU is that touches it first."""
    if settings.binding != "cpus" or placement[0] == placement[1]:
        return ""
    return f"memory cannot be placed on node {placement[1]} from node {placement[0]} with binding cpus"


def _no_such_node(topology: Topology, node_id: int) -> str:
    return f"no such NUMA node: {node_id} (this host has {format_cpulist(node.id for node in topology.nodes)})"


@dataclass(frozen=True)
class Refused:
    """A cell that cannot be measured. values: by key, those of the violation's keys that the study varies.

    added: by include.
    """

    cell: str
    why: Violation
    values: dict[str, Any]
    added: bool


def refuse(cells: Sequence[Refused], count: int, where: str) -> None:
    """Raise StudyError for these of `count` cells, if any, with what to exclude."""
    if not cells:
        return
    first = cells[0].why
    if not cells[0].values:
        raise StudyError(first.what, where, first.advice)
    lines = [f"{one.cell}: {one.why.what}" for one in cells[:_NAMED]]
    if len(cells) > _NAMED:
        lines.append(f"and {len(cells) - _NAMED} more")
    excluded = [one.values for one in cells if one.values and not one.added]
    advice = []
    # If all of them are impossible, excluding them would leave nothing.
    if excluded and len(cells) < count:
        advice.append(f"leave them out with exclude: {json.dumps(_merged(excluded))}")
    if any(one.added for one in cells):
        advice.append("take them out of include, which adds them")
    raise StudyError(
        f"{len(cells)} of {count} combinations are impossible:\n  " + "\n  ".join(lines),
        where,
        "; or ".join([" and ".join(advice), first.advice] if advice else [first.advice]),
    )


def _merged(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct entries; those that differ in their last key only become one with a list."""
    merged: dict[Any, list[Any]] = {}
    for entry in entries:
        *others, (last, value) = entry.items()
        values = merged.setdefault((json.dumps(others), last), [])
        if value not in values:
            values.append(value)
    return [
        {**dict(json.loads(others)), last: values[0] if len(values) == 1 else values}
        for (others, last), values in merged.items()
    ]
