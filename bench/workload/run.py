"""One run of a cell, from the device to its result."""

import gc
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.host.certificate import Certifier
from bench.workload.capture import make_capture
from bench.workload.cell import Cell, parse_cell
from bench.workload.devices import Device, open_device
from bench.workload.execution import make_forward, make_slots
from bench.workload.latency import LatencyMarks, latency_us
from bench.workload.measure import first_batch_again, measure_windows, trace_pass, warm_up
from bench.workload.models import build_model, set_precision
from bench.workload.phases import Phases
from bench.workload.pipeline import Pipeline
from bench.workload.progress import Progress
from bench.workload.ranges import make_ranges
from bench.workload.rings import make_rings
from bench.workload.solo import issue_us, solo_us
from bench.workload.windows import WarmupRule, throughput_samples_s


def execute(
    raw: dict[str, Any], mode: str, progress: Progress, phases: Phases, trace: Path | None = None
) -> dict[str, Any]:
    """Run the cell once, timed or traced, and return its result. Raise RunFailure, or what torch raises."""
    cell = parse_cell(raw)
    with torch.inference_mode():
        device = open_device(cell)
        phases.mark("device")
        pipeline = build_pipeline(cell, device, phases)
        gc.collect()
        # No collection inside a window, and none over what lives as long as the process.
        gc.freeze()
        gc.disable()
        try:
            measured = _timed(raw, cell, pipeline, progress, phases) if mode == "timed" else _traced(
                raw, cell, pipeline, progress, phases, trace
            )
            checksum = first_batch_again(pipeline)
        finally:
            gc.enable()
            gc.unfreeze()
        phases.mark("finish")
    return {
        "status": "ok",
        "mode": mode,
        "device": device.describe(),
        "versions": versions(),
        "batches_per_pass": cell.batches_per_pass,
        "bytes_in_per_batch": cell.bytes_in_per_batch,
        "bytes_out_per_batch": cell.bytes_out_per_batch,
        "input_ring_batches": len(pipeline.host_in),
        "output_ring_batches": len(pipeline.host_out),
        "buffer_layout": pipeline.layout,
        **measured,
        "output_checksum": checksum,
        "phases_s": dict(phases.seconds),
    }


def build_pipeline(cell: Cell, device: Device, phases: Phases) -> Pipeline:
    set_precision(cell.dtype)
    model = build_model(cell, device.torch_device)
    slots = make_slots(cell, device)
    forward = make_forward(cell, device, model, slots)
    device.synchronize()
    phases.mark("model")
    rings = make_rings(cell, device)
    pipeline = Pipeline(device, rings, slots, forward)
    # Slots and weights were made on other streams than the pipeline's.
    device.synchronize()
    phases.mark("buffers")
    return pipeline


def versions() -> dict[str, str | None]:
    # Asked of the package metadata: a cell without compute does not import timm.
    try:
        timm: str | None = version("timm")
    except PackageNotFoundError:
        timm = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "timm": timm,
    }


def _rule(cell: Cell) -> WarmupRule:
    return WarmupRule(cell.window_s, -(-cell.warmup_samples // cell.batch_size))


def _timed(
    raw: dict[str, Any], cell: Cell, pipeline: Pipeline, progress: Progress, phases: Phases
) -> dict[str, Any]:
    warmup = warm_up(pipeline, _rule(cell), progress)
    phases.mark("warmup")
    device = pipeline.device
    witness = _witness(raw, pipeline)
    allocations = device.allocations()
    measured = measure_windows(
        pipeline, cell.windows, cell.batches_per_pass, cell.window_s, warmup.batch_s, progress,
        LatencyMarks(device), witness.see_cpu,
    )
    allocations = device.allocations() - allocations
    certificate = witness.finish()
    phases.mark("measure")
    issue = issue_us(pipeline, cell.model.depth, warmup.batch_s)
    return {
        "warmup": warmup.as_json(),
        "windows": [window.as_json() for window in measured.windows],
        "throughput_samples_s": throughput_samples_s(measured.windows, cell.batch_size),
        "latency_us": latency_us(measured.latencies_us),
        "issue_us": issue,
        "solo_us": solo_us(pipeline, cell.model.depth, warmup.batch_s, issue),
        "device_allocations_in_windows": allocations,
        "certificate": certificate,
    }


def _traced(
    raw: dict[str, Any],
    cell: Cell,
    pipeline: Pipeline,
    progress: Progress,
    phases: Phases,
    trace: Path | None,
) -> dict[str, Any]:
    ranges = make_ranges(cell)
    capture = make_capture(cell, trace)
    warmup = warm_up(pipeline, _rule(cell), progress, ranges)
    phases.mark("warmup")
    witness = _witness(raw, pipeline)
    window = trace_pass(pipeline, cell.batches_per_pass, ranges, capture, progress, witness.see_cpu)
    certificate = witness.finish()
    phases.mark("measure")
    return {
        "warmup": warmup.as_json(),
        "windows": [window.as_json()],
        "throughput_samples_s": throughput_samples_s([window], cell.batch_size),
        "certificate": certificate,
    }


def _witness(raw: dict[str, Any], pipeline: Pipeline) -> Certifier:
    """The proof of placement around the windows, started."""
    witness = Certifier(raw, pipeline.rings.addresses())
    witness.start()
    return witness
