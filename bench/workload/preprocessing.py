"""A CPU thread that prepares batches ahead of the copies: 8-bit images become normalised floats in the ring.

The thread is at most `preprocess_queue` batches ahead of the batch whose copy is issued next; the pipeline waits for a
batch that is not ready. An entry of the ring is written only after the copy that last read it has ended.

The preprocessing and the issuing thread share the lock of one interpreter. Operations release it while they run, so
the two overlap; between operations one may wait for the other, some microseconds a batch.
"""

import os
import threading
import time
from typing import Any

import torch

from bench.host.certificate import PREPROCESSING_THREAD
from bench.records.host import format_cpulist, parse_cpulist
from bench.records.run import Outcome
from bench.records.study import Cell
from bench.workload.devices import Device, Event
from bench.workload.failures import RunFailure
from bench.workload.host_memory import rotate_into

# ImageNet, as timm normalises (timm.data.IMAGENET_DEFAULT_MEAN, _STD).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Preparer:
    """Prepares the entries of `ring` in turn, from images of its own, on a thread of its own.

    ring: length x batch x 3 x px x px, at least two longer than `ahead`. ahead: batches. cpus: where the thread runs;
    None: where the process does.
    """

    def __init__(self, device: Device, ring: torch.Tensor, ahead: int, cpus: set[int] | None, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.empty(ring.shape, dtype=torch.uint8)
        rotate_into(self.images, torch.randint(0, 256, ring[0].shape, dtype=torch.uint8, generator=generator).view(-1))
        self.ahead, self.cpus = ahead, cpus
        self.waited = self.taken = 0
        self._ring, self._made = ring, 0
        self._sent: list[Event] = [device.event(timing=False) for _ in ring]
        shape = (1, 3, 1, 1)
        self._scale = (1 / (255 * torch.tensor(STD))).view(shape)
        self._shift = (-torch.tensor(MEAN) / torch.tensor(STD)).view(shape)
        # The CPU may read the ring slowly: it only writes there.
        self._scratch = torch.empty(ring.shape[1:])
        for entry in range(len(ring)):
            self._prepare(entry)
        self._changed = threading.Condition()
        self._running = self._busy = self._closed = False
        self._error: BaseException | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._work, name=PREPROCESSING_THREAD, daemon=True)
        threads = torch.get_num_threads()
        self._thread.start()
        self._begun.wait()
        # The thread has set the number for all threads that have not read it yet.
        torch.set_num_threads(threads)

    def resume(self, first: int) -> None:
        """Continue; batch `first` is the next that will be taken."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            if first != self.taken:
                self.taken = self._made = first
            self._running = True
            self._changed.notify_all()

    def pause(self) -> None:
        """Start no further batch, so that a window ends with about as many ready as it began with."""
        with self._changed:
            self._running = False

    def take(self, index: int) -> None:
        """Wait until batch `index` is ready. Raise what the thread raised."""
        with self._changed:
            if self._made <= index:
                self.waited += 1
                self._changed.wait_for(lambda: self._made > index or self._error)
            if self._error:
                raise self._error
            self.taken = index + 1
            self._changed.notify_all()

    def sent(self, index: int, stream: Any) -> None:
        """The copy of batch `index` was issued on the stream."""
        self._sent[index % len(self._sent)].record(stream)

    def fill(self) -> None:
        """Wait until `ahead` batches are ready, then pause. Raise what the thread raised."""
        self.resume(self.taken)
        with self._changed:
            self._changed.wait_for(lambda: self._made == self.taken + self.ahead or self._error)
            self._running = False
            if self._error:
                raise self._error

    def isolated_us(self) -> float:
        """Time to prepare one batch while nothing else runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self._made = self.taken
        start_ns = time.perf_counter_ns()
        self.fill()
        return (time.perf_counter_ns() - start_ns) / 1e3 / self.ahead

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        try:
            try:
                _bind(self.cpus)
                torch.set_num_threads(1)
                # A thread keeps the number that it reads first.
                torch.get_num_threads()
            finally:
                self._begun.set()
            with torch.inference_mode():
                while self._next():
                    entry = self._made % len(self._ring)
                    self._sent[entry].synchronize()
                    self._prepare(entry)
                    self._done()
        except BaseException as error:
            with self._changed:
                self._error, self._busy = error, False
                self._changed.notify_all()

    def _next(self) -> bool:
        """Wait until a batch may be prepared; False if the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._running and self._made < self.taken + self.ahead))
            self._busy = not self._closed
            return self._busy

    def _done(self) -> None:
        with self._changed:
            self._made += 1
            self._busy = False
            self._changed.notify_all()

    def _prepare(self, entry: int) -> None:
        torch.mul(self.images[entry], self._scale, out=self._scratch)
        torch.add(self._scratch, self._shift, out=self._ring[entry])


def preprocess_cpus(cell: Cell) -> set[int] | None:
    """CPUs of the cell's preprocess_node; None: those of the process. Raise RunFailure (not_runnable)."""
    if cell.preprocess_node < 0:
        return None
    try:
        with open(f"/sys/devices/system/node/node{cell.preprocess_node}/cpulist") as file:
            cpus = set(parse_cpulist(file.read()))
    except OSError:
        cpus = set()
    if not cpus:
        what = f"preprocess_node {cell.preprocess_node} is not a node of this host, or has no CPUs"
        raise RunFailure(Outcome.NOT_RUNNABLE, what, "set preprocess_node to a node with CPUs, or to -1")
    return cpus


def _bind(cpus: set[int] | None) -> None:
    thread = threading.get_native_id()
    if cpus is not None:
        try:
            os.sched_setaffinity(thread, cpus)
        except OSError as error:
            what = f"the preprocessing thread may not run on CPUs {format_cpulist(cpus)}: {error.strerror}"
            raise RunFailure(
                Outcome.NOT_RUNNABLE, what, "set preprocess_node to a node inside this process's cpuset"
            ) from None
    with open(f"/proc/self/task/{thread}/comm", "w") as file:
        file.write(PREPROCESSING_THREAD)
