"""The double-buffered loop: copy in, forward pass, copy out, on three streams ordered by events.

The host only issues: it never waits inside a window, and only the driver's queue slows it down. (Pageable memory and
batches that a thread prepares are the exceptions: host_memory.py, preprocessing.py.)

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
event is not to wait; copies into a slot that is never read follow each other on their own stream.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from typing import Any

import torch

from bench.records.host import format_cpulist
from bench.records.run import Preprocessing
from bench.workload.devices import Device, Event
from bench.workload.host_memory import Rings
from bench.workload.preprocessing import Preparer
from bench.workload.subject import Batch, Subject, as_batch

ISOLATED_TIMES = 3

Forward = Callable[[int], Batch]
Stage = Callable[..., None]


@dataclass(frozen=True)
class Streams:
    h2d: Any
    compute: Any
    d2h: Any


@dataclass(frozen=True)
class Copies:
    """into, back: the leaves of a batch that are copied each way; 0: no such copies.

    One leaf is one copy; by_sample: a copy for each of its samples, as the original pipeline did.
    """

    into: int = 1
    back: int = 1
    by_sample: bool = False

    def parts(self, batch: Batch) -> Batch:
        """What is copied at once: the batch, or each part of it."""
        return list(batch) if self.by_sample and isinstance(batch, torch.Tensor) else batch


def make_stages(
    device: Device,
    streams: Streams,
    slots: list[Batch],
    outputs: list[Batch],
    forward: Forward | None,
    copies: Copies,
) -> tuple[Stage, Stage, Stage]:
    """h2d(slot, source, start), compute(slot), d2h(slot, target, end), which only issue; compute fills `outputs`.

    source and target are a batch, or the parts of it that are copied; start and end are events to record, or None.
    """
    arrived, computed, returned = ([device.event(timing=False) for _ in slots] for _ in ("h2d", "compute", "d2h"))
    # Without compute the copies wait for each other directly: a detour over an idle compute stream
    # would cost a hand-over per batch.
    free, ready = (returned, arrived) if forward is None else (computed, computed)
    h2d_stream, compute_stream, d2h_stream = streams.h2d, streams.compute, streams.d2h
    on_h2d, on_compute, on_d2h = map(device.selector, (h2d_stream, compute_stream, d2h_stream))
    inputs: list[Any] = [copies.parts(slot) for slot in slots]
    call = forward or _no_forward

    def h2d(slot: int, source: torch.Tensor, start: Event | None) -> None:
        on_h2d()
        free[slot].wait(h2d_stream)
        if start is not None:
            start.record(h2d_stream)
        inputs[slot].copy_(source, non_blocking=True)
        arrived[slot].record(h2d_stream)

    def h2d_by_part(slot: int, source: list[torch.Tensor], start: Event | None) -> None:
        on_h2d()
        free[slot].wait(h2d_stream)
        if start is not None:
            start.record(h2d_stream)
        for target, part in zip(inputs[slot], source, strict=True):
            target.copy_(part, non_blocking=True)
        arrived[slot].record(h2d_stream)

    def compute(slot: int) -> None:
        on_compute()
        arrived[slot].wait(compute_stream)
        returned[slot].wait(compute_stream)
        outputs[slot] = call(slot)
        computed[slot].record(compute_stream)

    def d2h(slot: int, target: torch.Tensor, end: Event | None) -> None:
        on_d2h()
        ready[slot].wait(d2h_stream)
        output: Any = outputs[slot]
        target.copy_(output, non_blocking=True)
        returned[slot].record(d2h_stream)
        if end is not None:
            end.record(d2h_stream)

    def d2h_by_part(slot: int, target: list[torch.Tensor], end: Event | None) -> None:
        on_d2h()
        ready[slot].wait(d2h_stream)
        for copied, part in zip(target, copies.parts(outputs[slot]), strict=True):
            copied.copy_(part, non_blocking=True)
        returned[slot].record(d2h_stream)
        if end is not None:
            end.record(d2h_stream)

    into = h2d_by_part if copies.by_sample or copies.into > 1 else h2d
    back = d2h_by_part if copies.by_sample or copies.back > 1 else d2h

    def end_only(slot: int, target: None, end: Event | None) -> None:
        """Nothing is copied out: a batch ends with its last stage."""
        if end is not None:
            end.record(h2d_stream if forward is None else compute_stream)

    return (
        into if copies.into else _nothing,
        _nothing if forward is None else compute,
        back if copies.back else end_only,
    )


def _no_forward(slot: int) -> Batch:
    raise AssertionError("this pipeline does not compute")


def _nothing(slot: int, memory: Any = None, event: Event | None = None) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Work:
    """What happens on the device: slots for batches, the forward pass by slot (None: no compute), its last outputs.

    outputs: until a slot has computed, its input is used as its output. compile_s: that compiling it took.
    """

    subject: Subject
    slots: list[Batch]
    forward: Forward | None
    outputs: list[Batch]
    compile_s: float = 0.0


@dataclass(frozen=True)
class Side:
    """What a pipeline copies from and to, what it computes, and the stages of both.

    host_in, host_out: of each batch of the rings.
    """

    work: Work
    rings: Rings
    copies: Copies
    host_in: list[Any]
    host_out: list[Any]
    stages: tuple[Stage, Stage, Stage]


class Pipeline:
    """forward(slot) runs the forward pass on a slot's input and returns its output; None: no compute.

    Directions without rings are not copied. by_sample: a copy for each sample.
    """

    ahead: int | None = None
    """Batches that are prepared ahead; None: all are ready."""
    preprocessing: Preprocessing | None = None
    """How batches are prepared, for the result."""

    def __init__(
        self,
        device: Device,
        subject: Subject,
        rings: Rings,
        slots: list[Batch],
        forward: Forward | None,
        by_sample: bool = False,
    ) -> None:
        self.device = device
        self.h2d_stream, self.compute_stream, self.d2h_stream = (device.stream() for _ in range(3))
        self.next_batch = 0
        self.use(self.side(Work(subject, slots, forward, list(slots)), rings, by_sample))

    def side(self, work: Work, rings: Rings, by_sample: bool = False) -> Side:
        """Another work, other rings to copy from and to, and how; the streams are those of every other side."""
        copies = Copies(len(rings.inputs), len(rings.outputs), by_sample)
        streams = Streams(self.h2d_stream, self.compute_stream, self.d2h_stream)
        stages = make_stages(self.device, streams, work.slots, work.outputs, work.forward, copies)
        into, back = _host_batches(copies, rings.inputs), _host_batches(copies, rings.outputs)
        return Side(work, rings, copies, into, back, stages)

    def use(self, side: Side) -> None:
        """Copy and compute so from the next batch on; drained before, where it used another side."""
        self.work, self.rings, self.copies = side.work, side.rings, side.copies
        self.subject, self.slots, self.forward = side.work.subject, side.work.slots, side.work.forward
        self.host_in, self.host_out = side.host_in, side.host_out
        self.h2d, self.compute, self.d2h = side.stages

    @property
    def layout(self) -> str:
        """separate input and output buffers, or one slot held until its copy out ends."""
        return "held" if self.forward is None else "separate"

    def step(self, index: int, start: Event | None = None, end: Event | None = None) -> None:
        """Issue batch `index`; start and end are recorded around it, on the copy streams."""
        slot = index % len(self.slots)
        self.h2d(slot, self.host_in[index % len(self.host_in)], start)
        self.compute(slot)
        self.d2h(slot, self.host_out[index % len(self.host_out)], end)

    def single_stages(self) -> dict[str, Stage]:
        """By name, a function that issues this stage alone: of batch `index`, with the events start and end."""
        slots, host_in, host_out = len(self.slots), self.host_in, self.host_out

        def h2d(index: int, start: Event | None = None, end: Event | None = None) -> None:
            self.h2d(index % slots, host_in[index % len(host_in)], start)

        def compute(index: int, start: Event | None = None, end: Event | None = None) -> None:
            self.compute(index % slots)

        def d2h(index: int, start: Event | None = None, end: Event | None = None) -> None:
            self.d2h(index % slots, host_out[index % len(host_out)], end)

        return {"h2d": h2d, "compute": compute, "d2h": d2h}

    def run(
        self,
        count: int,
        beat: Callable[[], None],
        step: Stage | None = None,
        starts: Iterable[Event | None] | None = None,
        ends: Iterable[Event | None] | None = None,
    ) -> None:
        """Issue the next `count` batches and return without waiting; `beat` is called after each."""
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
        """Wait until the batch may be issued: at once in this pipeline."""

    def issued(self, index: int) -> None:
        """The batch was issued."""

    def addresses(self) -> dict[str, tuple[int, int]]:
        """Address and bytes of the host's buffers by name, for the placement certificate."""
        return self.rings.addresses()

    def refill(self) -> None:
        """Wait until `ahead` batches are ready."""

    def prepare_us(self) -> float | None:
        """Time to prepare one batch in isolation; None where none is prepared."""
        return None

    @property
    def waited(self) -> int:
        """Batches so far that were not prepared in time."""
        return 0

    def close(self) -> None:
        """Release everything but memory."""

    def output_of(self, index: int) -> Batch:
        """The output of batch `index` on the host or, where it is not copied, on the device; valid after drain()."""
        if not self.rings.outputs:
            return self.work.outputs[index % len(self.slots)]
        return as_batch([ring[index % len(self.host_out)] for ring in self.rings.outputs])


def _host_batches(copies: Copies, rings: Sequence[torch.Tensor]) -> list[Any]:
    """The source or target of each batch's copies; one None where there are no copies."""
    return [copies.parts(as_batch(leaves)) for leaves in zip(*rings, strict=True)] or [None]


def no_beat() -> None:
    pass


class PreparedPipeline(Pipeline):
    """A pipeline whose batches a thread prepares: it waits for each batch before it issues it."""

    def __init__(self, preparer: Preparer, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.preparer, self.ahead = preparer, preparer.ahead
        cpus = format_cpulist(preparer.cpus or os.sched_getaffinity(0))
        self.preprocessing = Preprocessing(queue_batches=preparer.ahead, threads=1, cpus=cpus)

    def step(self, index: int, start: Event | None = None, end: Event | None = None) -> None:
        self.preparer.take(index)
        super().step(index, start, end)
        self.preparer.sent(index, self.h2d_stream)

    def run(
        self,
        count: int,
        beat: Callable[[], None],
        step: Stage | None = None,
        starts: Iterable[Event | None] | None = None,
        ends: Iterable[Event | None] | None = None,
    ) -> None:
        self.preparer.resume(self.next_batch)
        try:
            super().run(count, beat, step, starts, ends)
        finally:
            self.preparer.pause()

    def ready(self, index: int) -> None:
        self.preparer.take(index)

    def issued(self, index: int) -> None:
        self.preparer.sent(index, self.h2d_stream)

    def refill(self) -> None:
        self.preparer.fill()

    def prepare_us(self) -> float:
        return median(self.preparer.isolated_us() for _ in range(ISOLATED_TIMES))

    def addresses(self) -> dict[str, tuple[int, int]]:
        images = self.preparer.images
        return super().addresses() | {"image_ring": (images.data_ptr(), images.nbytes)}

    @property
    def waited(self) -> int:
        return self.preparer.waited

    def close(self) -> None:
        self.preparer.close()
