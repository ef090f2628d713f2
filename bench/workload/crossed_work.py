"""What the sides of a crossing compute: forward passes, slots and weights, shared where their settings are equal.

What is shared is no difference between sides: weights by those of one type, slots by those of one type and batch size
(fewer buffers are the first of more), a forward pass by those that execute it alike.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from bench.records.study import Cell
from bench.workload.devices import Device
from bench.workload.execution import make_call, make_forward, make_slots
from bench.workload.failures import RunFailure, failure_of_side
from bench.workload.pipeline import Forward, Work
from bench.workload.progress import PhaseTimes
from bench.workload.subject import Batch, Call, Subject, build_subject

Made = TypeVar("Made")


def crossed_work(cells: Sequence[Cell], device: Device, phases: PhaseTimes) -> list[Work | RunFailure]:
    """The work of each cell, its forward pass compiled or captured and called until it is warm; or why it has none.

    Cells that compute alike have the same object. Raise what torch raises of a GPU that failed.
    """
    works = _Works(cells, device, phases)
    found = [works.of(cell) for cell in cells]
    phases.mark("model")
    return found


class _Works:
    """Each part is made once, or has failed once."""

    def __init__(self, cells: Sequence[Cell], device: Device, phases: PhaseTimes) -> None:
        self.cells, self.device, self.phases = cells, device, phases
        self.made: dict[Hashable, Any] = {}

    def of(self, cell: Cell) -> Work | RunFailure:
        def make() -> Work:
            subject, slots = self._once(_batches(cell), lambda: self._slots(cell))
            forward, compile_s = self._once(_execution(cell), lambda: self._forward(cell, subject, slots))
            own = slots[: cell.buffers]
            return Work(subject, own, forward, list(own), compile_s)

        try:
            return self._once((cell.buffers, *_execution(cell)), make)
        except RunFailure as failure:
            return failure

    def _slots(self, cell: Cell) -> tuple[Subject, list[Batch]]:
        """As many as the side with most buffers has, filled if any side copies nothing in: it computes what is there,
        the values of other sides."""
        same = [one for one in self.cells if _batches(one) == _batches(cell)]
        # One that cannot be copied by sample fails the sides that ask for it, and no other.
        plain = replace(cell, copy_granularity="batch")
        like = self.made.get(("weights", cell.dtype))
        subject = build_subject(plain, self.device.torch_device, like)
        self.made.setdefault(("weights", cell.dtype), subject)
        filled = next((one for one in same if not one.copies_in), plain)
        return subject, make_slots(replace(filled, buffers=max(one.buffers for one in same)), self.device, subject)

    def _forward(self, cell: Cell, subject: Subject, slots: list[Batch]) -> tuple[Forward | None, float]:
        """Also the seconds that compiling its call took."""
        # Compiled once: with and without a CUDA graph it is the same code, of which a second one would not be made.
        call, compile_s = self._once((cell.compile_model, *_batches(cell)), lambda: self._call(cell, subject, slots))
        return make_forward(cell, self.device, subject, slots, call), compile_s

    def _call(self, cell: Cell, subject: Subject, slots: list[Batch]) -> tuple[Call | None, float]:
        self.phases.mark("model")
        call = make_call(cell, self.device, subject, slots)
        self.device.synchronize()
        if call is None or cell.compile_model == "off":
            return call, 0.0
        before_s = self.phases.seconds["compile"]
        self.phases.mark("compile")
        return call, self.phases.seconds["compile"] - before_s

    def _once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Raise RunFailure, again wherever the part is asked for again."""
        if key not in self.made:
            try:
                self.made[key] = make()
            except Exception as error:
                self.made[key] = failure_of_side(error)
                # Raises where the device cannot go on: then no side has a failure of its own.
                self.device.synchronize()
        found: Made | RunFailure = self.made[key]
        if isinstance(found, RunFailure):
            raise found
        return found


def _batches(cell: Cell) -> tuple[Hashable, ...]:
    """What slots depend on, beside their number."""
    return cell.dtype, cell.batch_size


def _execution(cell: Cell) -> tuple[Hashable, ...]:
    return cell.dtype, cell.batch_size, cell.cuda_graph, cell.compile_model
