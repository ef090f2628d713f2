"""The three stages of a batch, as functions that only issue: copy in, forward pass, copy out.

Slots. `buffers` input slots on the device, and as many references to outputs. For batch i in slot s = i % n:

* copy in waits until the slot is free: until the compute that last read inputs[s] is done;
* compute waits for that copy, and until the last output of slot s has been copied out;
* copy out waits for the compute.

Why freed outputs cannot be overwritten too early. An eager forward pass allocates its output from torch's
caching allocator on the compute stream, and the copy stream reads it without the allocator's knowledge (no
record_stream). The old output of slot s loses its last reference when outputs[s] is assigned, after the call
of the new forward pass; its block then goes back to the compute stream's pool, and only work issued later on
that same stream can be given it. The compute stream has waited for returned[s], the end of the copy that
read the block, before that forward pass: everything later on the stream comes after the copy. Outputs of a
CUDA graph are static and are protected by the same wait. Input slots and rings live as long as the pipeline,
which is drained before it is dropped.

With no compute the output is the input slot itself: the slot is held until its copy out ends.

Where a direction is not copied its stage does nothing. Its events are never recorded, and to wait for such an
event is not to wait; copies into a slot that nobody reads follow each other on their own stream.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.workload.devices import Device, Event

Forward = Callable[[int], torch.Tensor]
Stage = Callable[..., None]


@dataclass(frozen=True)
class Streams:
    h2d: Any
    compute: Any
    d2h: Any


@dataclass(frozen=True)
class Copies:
    """What is copied: in, out or both ways; batch by batch or, as the original pipeline did, sample by sample."""

    into: bool = True
    back: bool = True
    by_sample: bool = False


def make_stages(
    device: Device,
    streams: Streams,
    slots: list[torch.Tensor],
    outputs: list[Any],
    forward: Forward | None,
    copies: Copies,
) -> tuple[Stage, Stage, Stage]:
    """h2d(slot, source, start), compute(slot), d2h(slot, target, end); `outputs` is filled by compute.

    source and target are a batch, or by sample its samples; start and end are events to record, or None.
    """
    arrived, computed, returned = ([device.event(timing=False) for _ in slots] for _ in ("h2d", "compute", "d2h"))
    # Without compute the copies wait for each other directly: a detour over an idle compute stream
    # would cost a hand-over per batch.
    free, ready = (returned, arrived) if forward is None else (computed, computed)
    h2d_stream, compute_stream, d2h_stream = streams.h2d, streams.compute, streams.d2h
    on_h2d, on_compute, on_d2h = map(device.selector, (h2d_stream, compute_stream, d2h_stream))
    samples = [list(slot) for slot in slots] if copies.by_sample else []

    def h2d(slot: int, source: torch.Tensor, start: Event | None) -> None:
        on_h2d()
        free[slot].wait(h2d_stream)
        if start is not None:
            start.record(h2d_stream)
        slots[slot].copy_(source, non_blocking=True)
        arrived[slot].record(h2d_stream)

    def h2d_by_sample(slot: int, source: list[torch.Tensor], start: Event | None) -> None:
        on_h2d()
        free[slot].wait(h2d_stream)
        if start is not None:
            start.record(h2d_stream)
        for target, sample in zip(samples[slot], source, strict=True):
            target.copy_(sample, non_blocking=True)
        arrived[slot].record(h2d_stream)

    def compute(slot: int) -> None:
        on_compute()
        arrived[slot].wait(compute_stream)
        returned[slot].wait(compute_stream)
        outputs[slot] = forward(slot)
        computed[slot].record(compute_stream)

    def d2h(slot: int, target: torch.Tensor, end: Event | None) -> None:
        on_d2h()
        ready[slot].wait(d2h_stream)
        target.copy_(outputs[slot], non_blocking=True)
        returned[slot].record(d2h_stream)
        if end is not None:
            end.record(d2h_stream)

    def d2h_by_sample(slot: int, target: list[torch.Tensor], end: Event | None) -> None:
        on_d2h()
        ready[slot].wait(d2h_stream)
        for part, sample in zip(target, outputs[slot].unbind(), strict=True):
            part.copy_(sample, non_blocking=True)
        returned[slot].record(d2h_stream)
        if end is not None:
            end.record(d2h_stream)

    into, back = (h2d_by_sample, d2h_by_sample) if copies.by_sample else (h2d, d2h)
    return (
        into if copies.into else _nothing,
        _nothing if forward is None else compute,
        back if copies.back else _nothing,
    )


def _nothing(slot: int, memory: Any = None, event: Event | None = None) -> None:
    pass
