"""A stub of a CUDA device that runs nothing until it is drained, then in an order chosen to do harm.

Streams are queues; events and waits have CUDA's meaning (a wait is for the record issued last before it). The
outputs of the forward pass come from a caching allocator like torch's: a block whose tensor died is handed out
again at once, to work issued later on the compute stream, though the device may not have reached either yet.
What is issued in an order that only happens to work will give wrong batches here.
"""

import random
from collections import deque
from collections.abc import Callable

POISON = -1


class LazyStream:
    def __init__(self) -> None:
        self.queue: deque[tuple[Callable[[], bool], Callable[[], None]]] = deque()

    def issue(self, do: Callable[[], None], ready: Callable[[], bool] = lambda: True) -> None:
        self.queue.append((ready, do))


class LazyEvent:
    def __init__(self, heeded: bool = True) -> None:
        self.issued = self.reached = 0
        self.heeded = heeded

    def record(self, stream: LazyStream) -> None:
        self.issued += 1
        generation = self.issued
        stream.issue(lambda: self._reach(generation))

    def wait(self, stream: LazyStream) -> None:
        generation = self.issued
        if self.heeded:
            stream.issue(lambda: None, lambda: self.reached >= generation)

    def _reach(self, generation: int) -> None:
        self.reached = max(self.reached, generation)


class Block:
    def __init__(self, value: int = POISON) -> None:
        self.value = value


class LazyTensor:
    """One number of device or host memory."""

    def __init__(self, device: "LazyDevice", block: Block, pool: list[Block] | None = None) -> None:
        self.device, self.block, self._pool = device, block, pool

    def copy_(self, source: "LazyTensor", non_blocking: bool = False) -> None:
        assert non_blocking
        target, origin = self.block, source.block

        def do() -> None:
            target.value = origin.value

        self.device.current.issue(do)

    def __del__(self) -> None:
        if self._pool is not None:
            self._pool.append(self.block)


class LazyDevice:
    """`deaf`: indices of events, in the order they are made, whose waits are left out."""

    def __init__(self, seed: int, deaf: range = range(0)) -> None:
        self._random = random.Random(seed)
        self._streams: list[LazyStream] = []
        self._events = 0
        self._deaf = deaf
        self._free: list[Block] = []
        self.current = self.stream()

    def stream(self) -> LazyStream:
        self._streams.append(LazyStream())
        return self._streams[-1]

    def selector(self, stream: LazyStream) -> Callable[[], None]:
        def select() -> None:
            self.current = stream

        return select

    def event(self, timing: bool) -> LazyEvent:
        self._events += 1
        return LazyEvent(heeded=self._events - 1 not in self._deaf)

    def memory(self, values: list[int]) -> list[LazyTensor]:
        return [LazyTensor(self, Block(value)) for value in values]

    def allocate(self) -> LazyTensor:
        block = self._free.pop() if self._free else Block()
        return LazyTensor(self, block, self._free)

    def forward(self, source: LazyTensor) -> LazyTensor:
        """10 x + 1, through a scratch tensor that dies on return."""
        scratch, output = self.allocate(), self.allocate()
        first, last, origin = scratch.block, output.block, source.block

        def fill_scratch() -> None:
            first.value = origin.value * 10

        def fill_output() -> None:
            last.value = first.value + 1

        self.current.issue(fill_scratch)
        self.current.issue(fill_output)
        return output

    def synchronize(self) -> None:
        """Run all that was issued: one stream is preferred for a while, then another."""
        favourites: list[LazyStream] = list(self._streams)
        while any(stream.queue for stream in self._streams):
            if self._random.random() < 0.2:
                self._random.shuffle(favourites)
            for stream in favourites:
                if stream.queue and stream.queue[0][0]():
                    stream.queue.popleft()[1]()
                    break
            else:
                raise AssertionError("deadlock: every stream waits for another")
