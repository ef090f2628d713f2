"""CUDA events against the trace of the same process: single copies, trains of copies, batches of the pipeline.

An event pair around one copy also times the way from one event to the next, a few microseconds whatever the size. It
is in a train of copies once, so that a train less a single copy is free of it (control_page.by_difference).
"""

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import bench.workload.run as workload
from bench.records import base
from bench.records.study import Cell
from bench.trace.metrics import latencies
from bench.trace.reader import read_trace
from bench.trace.torch_trace import Event, convert, read_chrome_trace
from bench.workload.devices import open_device
from bench.workload.host_memory import MIB
from bench.workload.pipeline import Pipeline, no_beat
from bench.workload.profiling import WINDOW_PREFIX, annotated_step, make_capture, make_ranges, named
from bench.workload.progress import PhaseTimes
from tests.validation.control_plan import CLOCK_COPIES as COPIES

SIZES_BYTES = (1 * MIB, 2 * MIB, 4 * MIB, 6_021_120, 16 * MIB, 64 * MIB)
HOLD_S = 0.01
Record = dict[str, Any]


def compare_clocks(raw: Record) -> Record:
    """On a GPU. `copies`: by size and direction; `pipeline`: latency of the batches of one pass of the cell."""
    cell = base.convert(raw, Cell)
    found: Record = {}
    with torch.inference_mode():
        device = open_device(cell)
        found["empty_pair_us"] = _empty_pair_us()
        found["copies"] = _copies(cell)
        found["pipeline"] = _latencies(cell, workload.build_pipeline(cell, device, PhaseTimes()))
    return found


def _empty_pair_us() -> float:
    stream = torch.cuda.Stream()
    pairs = [_pair() for _ in range(COPIES)]
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        for start, end in pairs:
            start.record()
            end.record()
    torch.cuda.synchronize()
    return median(1e3 * start.elapsed_time(end) for start, end in pairs)


def _pair() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def _copies(cell: Cell) -> list[Record]:
    host = torch.zeros(SIZES_BYTES[-1], dtype=torch.uint8, pin_memory=True)
    there = torch.zeros(SIZES_BYTES[-1], dtype=torch.uint8, device="cuda")
    stream, plan = torch.cuda.Stream(), [(size, way) for size in SIZES_BYTES for way in ("h2d", "d2h")]
    torch.cuda.synchronize()
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copies.json"
        with make_capture(cell, path), torch.cuda.stream(stream):
            for size, way in plan:
                target, source = (there, host) if way == "h2d" else (host, there)
                measured.append(_measured(target[:size], source[:size]))
        events = read_chrome_trace(path).events
    traced = sorted((event for event in events if event.category == "gpu_memcpy"), key=lambda event: event.start)
    # In the order of the plan on one stream: COPIES single ones, then as many in one train.
    if len(traced) != 2 * COPIES * len(plan):
        raise ValueError(f"the trace has {len(traced)} copies, {2 * COPIES * len(plan)} were made")
    rows = []
    for index, ((size, way), (singles_us, train_us)) in enumerate(zip(plan, measured, strict=True)):
        mine = traced[2 * COPIES * index : 2 * COPIES * (index + 1)]
        rows.append({"way": way, "bytes": size} | _row(size, mine, singles_us, train_us))
    return rows


def _measured(target: torch.Tensor, source: torch.Tensor) -> tuple[list[float], float]:
    """us of each single copy, us of the train of copies, by events; issued while the stream is held back."""
    pairs, (first, last) = [_pair() for _ in range(COPIES)], _pair()
    torch.cuda._sleep(int(HOLD_S * 2e9))
    for start, end in pairs:
        start.record()
        target.copy_(source, non_blocking=True)
        end.record()
    first.record()
    for _ in range(COPIES):
        target.copy_(source, non_blocking=True)
    last.record()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in pairs], 1e3 * first.elapsed_time(last)


def _row(size: int, traced: list[Event], singles_us: list[float], train_us: float) -> Record:
    sizes = {int(event.args["bytes"]) for event in traced}
    if sizes != {size}:
        raise ValueError(f"copies of {size} bytes are {sizes} in the trace")
    single_us = [(event.end - event.start) / 1e3 for event in traced[:COPIES]]
    train = traced[COPIES:]
    span_us = (train[-1].end - train[0].start) / 1e3
    return {
        "event_us": median(singles_us), "trace_us": median(single_us),
        "event_over_trace": median(event / trace for event, trace in zip(singles_us, single_us, strict=True)),
        "train_event_us": train_us, "train_trace_us": span_us, "train_event_over_trace": train_us / span_us,
    }  # fmt: skip


def _latencies(cell: Cell, pipeline: Pipeline) -> Record:
    """First start of the copy in to last end of the copy out: by events and by the trace, batch by batch."""
    count = cell.batches_per_pass
    marks = [_pair() for _ in range(count)]
    for start, end in marks:
        start.record()
        end.record()
    pipeline.run(200, no_beat)
    pipeline.drain()
    ranges = make_ranges(cell)
    step = annotated_step(pipeline, ranges, WINDOW_PREFIX, count)
    with tempfile.TemporaryDirectory() as folder:
        path, export = Path(folder) / "trace.json", Path(folder) / "trace.sqlite"
        with make_capture(cell, path), named(ranges, f"{WINDOW_PREFIX}double_buffer"):
            pipeline.run(count, no_beat, step, [start for start, _ in marks], [end for _, end in marks])
            pipeline.drain()
        convert(path, export)
        traced_us = latencies(read_trace(export, cell.name)) / 1e3
    event_us = np.array([1e3 * start.elapsed_time(end) for start, end in marks])
    return {
        "model": cell.model.name, "batches": count,
        "event_us": float(np.median(event_us)), "trace_us": float(np.median(traced_us)),
        "event_over_trace": float(np.median(event_us / traced_us)),
    }  # fmt: skip
