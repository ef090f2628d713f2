"""The double-buffered loop: copy in, forward pass, copy out, on three streams ordered by events.

Slots. `buffers` input slots on the device, and as many references to outputs. For batch i in slot s = i % n:

* copy in waits until the slot is free: until the compute that last read inputs[s] is done;
* compute waits for that copy, and until the last output of slot s has been copied out;
* copy out waits for the compute.

The host only issues: it never waits inside a window, and the driver's queue is the only brake.

Why freed outputs cannot be overwritten too early. An eager forward pass allocates its output from torch's
caching allocator on the compute stream, and the copy stream reads it without the allocator's knowledge (no
record_stream). The old output of slot s loses its last reference when outputs[s] is assigned, after the call
of the new forward pass; its block then goes back to the compute stream's pool, and only work issued later on
that same stream can be given it. The compute stream has waited for returned[s], the end of the copy that
read the block, before that forward pass: everything later on the stream comes after the copy. Outputs of a
CUDA graph are static and are protected by the same wait. Input slots and rings live as long as the pipeline,
which is drained before it is dropped.

With no compute the output is the input slot itself: the slot is held until its copy out ends.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

import torch

from bench.workload.devices import Device, Event
from bench.workload.rings import Rings

Forward = Callable[[int], torch.Tensor]
Stage = Callable[..., None]


class Pipeline:
    """`forward(slot)` runs the forward pass on a slot's input and returns its output; None: no compute."""

    def __init__(
        self, device: Device, rings: Rings, slots: list[torch.Tensor], forward: Forward | None
    ) -> None:
        self.device = device
        self.rings = rings
        self.slots = slots
        self.forward = forward
        self.outputs: list[Any] = list(slots) if forward is None else [None] * len(slots)
        self.h2d_stream, self.compute_stream, self.d2h_stream = (device.stream() for _ in range(3))
        self.next_batch = 0
        self.h2d, self.compute, self.d2h = self._stages()
        self.host_in = list(rings.inputs)
        self.host_out = list(rings.outputs)

    @property
    def layout(self) -> str:
        """`separate` input and output buffers, or one slot `held` until its copy out ends."""
        return "held" if self.forward is None else "separate"

    def step(self, index: int, start: Event | None = None, end: Event | None = None) -> None:
        """Issue batch `index`; `start` and `end` are recorded around it, on the copy streams."""
        slot = index % len(self.slots)
        self.h2d(slot, self.host_in[index % len(self.host_in)], start)
        self.compute(slot)
        self.d2h(slot, self.host_out[index % len(self.host_out)], end)

    def run(
        self,
        count: int,
        beat: Callable[[], None],
        step: Stage | None = None,
        starts: Iterable[Event | None] | None = None,
        ends: Iterable[Event | None] | None = None,
    ) -> None:
        """Issue the next `count` batches and return; `beat` is called after each. Nothing is waited for."""
        issue = step or self.step
        first = self.next_batch
        indices = range(first, first + count)
        none: Iterator[None] = repeat(None)
        for index, start, end in zip(indices, starts or none, ends or none, strict=False):
            issue(index, start, end)
            beat()
        self.next_batch = first + count

    def drain(self) -> None:
        self.device.synchronize()

    def output_of(self, index: int) -> torch.Tensor:
        """The host batch that batch `index` was copied to; valid after drain()."""
        return self.host_out[index % len(self.host_out)]

    def _stages(self) -> tuple[Stage, Stage, Stage]:
        device, inputs, outputs, forward = self.device, self.slots, self.outputs, self.forward
        h2d_stream, compute_stream, d2h_stream = self.h2d_stream, self.compute_stream, self.d2h_stream
        on_h2d, on_compute, on_d2h = map(device.selector, (h2d_stream, compute_stream, d2h_stream))
        arrived, computed, returned = (
            [device.event(timing=False) for _ in inputs] for _ in ("h2d", "compute", "d2h")
        )
        # Without compute the copies wait for each other directly: a detour over an idle compute stream
        # would cost a hand-over per batch.
        free, ready = (returned, arrived) if forward is None else (computed, computed)

        def h2d(slot: int, source: torch.Tensor, start: Event | None) -> None:
            on_h2d()
            free[slot].wait(h2d_stream)
            if start is not None:
                start.record(h2d_stream)
            inputs[slot].copy_(source, non_blocking=True)
            arrived[slot].record(h2d_stream)

        def compute(slot: int) -> None:
            on_compute()
            arrived[slot].wait(compute_stream)
            returned[slot].wait(compute_stream)
            outputs[slot] = forward(slot)
            computed[slot].record(compute_stream)

        def no_compute(slot: int) -> None:
            pass

        def d2h(slot: int, target: torch.Tensor, end: Event | None) -> None:
            on_d2h()
            ready[slot].wait(d2h_stream)
            target.copy_(outputs[slot], non_blocking=True)
            returned[slot].record(d2h_stream)
            if end is not None:
                end.record(d2h_stream)

        return h2d, no_compute if forward is None else compute, d2h


def no_beat() -> None:
    pass
