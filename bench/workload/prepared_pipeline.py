"""The pipeline whose batches a thread prepares: it waits for each before it issues it."""

import os
from collections.abc import Callable
from statistics import median
from typing import Any

from bench.host.cpulist import format_cpulist
from bench.workload.devices import Event
from bench.workload.pipeline import Pipeline
from bench.workload.preparing import Preparer
from bench.workload.stages import Stage

ALONE_TIMES = 3
SHARED_LOCK = (
    "the preparing and the issuing thread share one interpreter: each lets go of its lock while an operation runs, "
    "and may wait for it between two"
)


class PreparedPipeline(Pipeline):
    """A pipeline whose batches a Preparer makes."""

    def __init__(self, preparer: Preparer, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.preparer, self.ahead = preparer, preparer.ahead
        cpus = format_cpulist(preparer.cpus or os.sched_getaffinity(0))
        self.preparation = {"queue_batches": preparer.ahead, "threads": 1, "cpus": cpus, "note": SHARED_LOCK}

    def step(self, index: int, start: Event | None = None, end: Event | None = None) -> None:
        self.preparer.take(index)
        super().step(index, start, end)
        self.preparer.sent(index, self.h2d_stream)

    def run(self, count: int, beat: Callable[[], None], step: Stage | None = None, **marks: Any) -> None:
        self.preparer.resume(self.next_batch)
        try:
            super().run(count, beat, step, **marks)
        finally:
            self.preparer.pause()

    def ready(self, index: int) -> None:
        self.preparer.take(index)

    def issued(self, index: int) -> None:
        self.preparer.sent(index, self.h2d_stream)

    def refill(self) -> None:
        self.preparer.fill()

    def prepare_us(self) -> dict[str, float]:
        return {"prepare": median(self.preparer.alone_us() for _ in range(ALONE_TIMES))}

    def addresses(self) -> dict[str, tuple[int, int]]:
        images = self.preparer.images
        return super().addresses() | {"image_ring": (images.data_ptr(), images.nbytes)}

    @property
    def waited(self) -> int:
        return self.preparer.waited

    def close(self) -> None:
        self.preparer.close()
