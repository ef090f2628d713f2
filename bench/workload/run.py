"""One run of a cell, from the device to its result."""

import gc
from pathlib import Path
from typing import Any

import torch

from bench.workload.barrier import Barrier
from bench.workload.cell import Cell, parse_cell
from bench.workload.compilation import compile_facts
from bench.workload.devices import Device, open_device
from bench.workload.execution import make_forward, make_slots
from bench.workload.jobs import Job, load, timed, traced
from bench.workload.measure import first_batch_again
from bench.workload.models import build_model, set_precision
from bench.workload.phases import Phases
from bench.workload.pipeline import Pipeline
from bench.workload.prepared_pipeline import PreparedPipeline
from bench.workload.preparing import Preparer, preparing_cpus
from bench.workload.progress import Progress
from bench.workload.rings import make_rings
from bench.workload.versions import versions


def execute(
    raw: dict[str, Any],
    mode: str,
    progress: Progress,
    phases: Phases,
    trace: Path | None = None,
    meeting: Barrier | None = None,
) -> dict[str, Any]:
    """Run the cell once, timed, traced or as load, and return its result. Raise RunFailure, or what torch raises.

    meeting: where other processes load the host meanwhile.
    """
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
            job = Job(raw, cell, pipeline, progress, phases, meeting)
            if mode == "timed":
                measured = timed(job)
            elif mode == "traced":
                measured = traced(job, trace)
            else:
                measured = load(job)
            checksum = first_batch_again(pipeline)
        finally:
            pipeline.close()
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
        "input_ring_batches": len(pipeline.host_in) if pipeline.copies.into else 0,
        "output_ring_batches": len(pipeline.host_out) if pipeline.copies.back else 0,
        "buffer_layout": pipeline.layout,
        "compile": compile_facts(cell, phases.seconds["compile"]),
        "preprocess": pipeline.preparation,
        "host_memory": pipeline.rings.host_memory,
        **measured,
        "output_checksum": checksum,
        "phases_s": dict(phases.seconds),
    }


def build_pipeline(cell: Cell, device: Device, phases: Phases) -> Pipeline:
    set_precision(cell.dtype)
    model = build_model(cell, device.torch_device)
    slots = make_slots(cell, device)
    phases.mark("model")
    forward = make_forward(cell, device, model, slots)
    device.synchronize()
    phases.mark("compile" if forward and cell.compile_model != "off" else "model")
    rings = make_rings(cell, device)
    parts = device, rings, slots, forward, cell.copy_granularity == "sample"
    if cell.preprocess_queue:
        preparer = Preparer(device, rings.inputs, cell.preprocess_queue, preparing_cpus(cell), cell.seed)
        pipeline: Pipeline = PreparedPipeline(preparer, *parts)
    else:
        pipeline = Pipeline(*parts)
    # Slots and weights were made on other streams than the pipeline's.
    device.synchronize()
    phases.mark("buffers")
    return pipeline
