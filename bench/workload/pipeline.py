"""The double-buffered loop: copy in, forward pass, copy out, on three streams ordered by events (stages.py).

The host only issues: it never waits inside a window, and the driver's queue is the only brake. (Pageable memory
and batches that a thread prepares are the exceptions: host_memory.py, preparing.py.)
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

import torch

from bench.workload.devices import Device, Event
from bench.workload.rings import Rings
from bench.workload.stages import Copies, Forward, Stage, Streams, make_stages


class Pipeline:
    """`forward(slot)` runs the forward pass on a slot's input and returns its output; None: no compute.

    Directions without a ring are not copied. by_sample: a copy for each sample.
    """

    ahead: int | None = None
    """Batches that are prepared ahead; None: all are there."""
    preparation: dict[str, Any] | None = None
    """What the result says of how batches are prepared."""
    waited = 0
    """Batches that were not prepared in time."""

    def __init__(
        self,
        device: Device,
        rings: Rings,
        slots: list[torch.Tensor],
        forward: Forward | None,
        by_sample: bool = False,
    ) -> None:
        self.device = device
        self.rings = rings
        self.slots = slots
        self.forward = forward
        self.copies = Copies(rings.inputs is not None, rings.outputs is not None, by_sample)
        self.outputs: list[Any] = list(slots) if forward is None else [None] * len(slots)
        self.h2d_stream, self.compute_stream, self.d2h_stream = (device.stream() for _ in range(3))
        self.next_batch = 0
        self.h2d, self.compute, self.d2h = self._stages()
        self.host_in = _host_batches(rings.inputs, by_sample)
        self.host_out = _host_batches(rings.outputs, by_sample)

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

    def ready(self, index: int) -> None:
        """Wait until the batch may be issued; every batch of this pipeline may."""

    def issued(self, index: int) -> None:
        """Note that the batch was issued."""

    def addresses(self) -> dict[str, tuple[int, int]]:
        """Address and bytes of the host's buffers by name, for the proof of placement."""
        return self.rings.addresses()

    def refill(self) -> None:
        """Wait until `ahead` batches are ready."""

    def prepare_us(self) -> dict[str, float]:
        """{"prepare": time to prepare one batch, nothing else being done}, empty where none is prepared."""
        return {}

    def close(self) -> None:
        """Let go of everything but memory."""

    def output_of(self, index: int) -> torch.Tensor:
        """The output of batch `index` on the host or, where it is not copied, on the device; valid after drain()."""
        if self.rings.outputs is None:
            return self.outputs[index % len(self.slots)]
        return self.rings.outputs[index % len(self.host_out)]

    def _stages(self) -> tuple[Stage, Stage, Stage]:
        streams = Streams(self.h2d_stream, self.compute_stream, self.d2h_stream)
        return make_stages(self.device, streams, self.slots, self.outputs, self.forward, self.copies)


def no_beat() -> None:
    pass


def _host_batches(ring: Any, by_sample: bool) -> list[Any]:
    """What the copies of each batch start from or end in; one None where there are none."""
    if ring is None:
        return [None]
    return [list(batch) for batch in ring] if by_sample else list(ring)
