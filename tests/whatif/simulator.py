"""Programs with a known answer: threads, streams, events and copy engines, simulated, and exported as nsys would.

A program is a list of steps of one thread. It can be run again with slower copies or a slower CPU: that is the truth a
replay of the first run is compared with. It tests the graph, not the hardware: lags and engines are as the model has
them (docs/whatif.md).
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench.trace.export import EVENT, KERNEL, MEMCPY, RUNTIME, SYNCHRONIZATION, global_tid, write_export

PID, TID = 4242, 4243
US = 1000.0
LAUNCH_LAG, STREAM_LAG, EVENT_LAG, SYNC_LAG = 2500.0, 900.0, 1300.0, 4000.0
BETWEEN_CALLS = 300.0
NAMES = {
    "k": "cudaLaunchKernel_v7000",
    "h": "cudaMemcpyAsync_v3020",
    "d": "cudaMemcpyAsync_v3020",
    "block_h": "cudaMemcpy_v3020",
    "block_d": "cudaMemcpy_v3020",
    "record": "cudaEventRecord_v3020",
    "wait": "cudaStreamWaitEvent_v3020",
    "event_sync": "cudaEventSynchronize_v3020",
    "stream_sync": "cudaStreamSynchronize_v3020",
    "device_sync": "cudaDeviceSynchronize_v3020",
}
KINDS = ("ring", "serial", "prefetch", "random")


@dataclass(frozen=True)
class Step:
    """what: "think" (work between calls), or a call of NAMES. cost: ns of the CPU. length: ns of the GPU's work."""

    what: str
    cost: float
    stream: int = 0
    length: float = 0.0
    event: tuple[str, int] = ("", 0)


@dataclass
class Work:
    stream: int
    engine: str
    length: float
    seen: float
    correlation: int
    before: "Work | None"
    after: list["Work"]
    start: float | None = None
    end: float | None = None


@dataclass
class Call:
    what: str
    begin: float
    end: float
    stream: int
    event: tuple[str, int]
    correlation: int


@dataclass
class Run:
    calls: list[Call] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)

    @property
    def span(self) -> float:
        return max(one.end for one in self.work) - min(one.start for one in self.work)


def program(kind: str, seed: int) -> list[Step]:
    chance = random.Random(f"{kind}{seed}")
    think, call = chance.choice([0.5, 2, 8, 30]) * US, chance.choice([2, 4, 8]) * US
    return {"ring": _ring, "serial": _serial, "prefetch": _prefetch, "random": _random}[kind](chance, think, call)


def _ring(chance: random.Random, think: float, call: float, batches: int = 120) -> list[Step]:
    """Copies in, kernels, copies out on three streams, with two or three buffers."""
    buffers, kernels = chance.choice([2, 3]), chance.choice([0, 1, 5, 20])
    h2d, d2h, kernel = chance.uniform(20, 200) * US, chance.uniform(5, 200) * US, chance.uniform(5, 60) * US
    steps = []
    for batch in range(batches):
        slot, reused = batch % buffers, batch >= buffers
        if reused:
            steps.append(Step("wait", call, 0, event=("c" if kernels else "d", slot)))
        steps += [Step("h", call, 0, h2d), Step("record", call, 0, event=("h", slot))]
        steps.append(Step("wait", call, 1, event=("h", slot)))
        if reused:
            steps.append(Step("wait", call, 1, event=("d", slot)))
        steps += [Step("think", think), Step("k", call, 1, kernel)] * kernels
        steps += [Step("record", call, 1, event=("c", slot)), Step("wait", call, 2, event=("c", slot))]
        steps += [Step("d", call, 2, d2h), Step("record", call, 2, event=("d", slot))]
    return [*steps, Step("device_sync", call)]


def _serial(chance: random.Random, think: float, call: float, batches: int = 120) -> list[Step]:
    """One stream, synchronized after each step, or with blocking copies."""
    h2d, d2h = chance.uniform(5, 200) * US, chance.uniform(2, 50) * US
    kernels, kernel, blocking = chance.choice([1, 5, 20]), chance.uniform(3, 60) * US, chance.random() < 0.5
    copy = "block_" if blocking else ""
    steps = []
    for _ in range(batches):
        steps.append(Step(f"{copy}h", call, 0, h2d))
        steps += [Step("think", think), Step("k", call, 0, kernel)] * kernels
        steps.append(Step(f"{copy}d", call, 0, d2h))
        if not blocking:
            steps.append(Step("stream_sync", call, 0))
    return steps


def _prefetch(chance: random.Random, think: float, call: float, batches: int = 360) -> list[Step]:
    """Offload: the weights of the next layer are copied while this one computes."""
    layers = chance.choice([4, 12])
    h2d, kernel = chance.uniform(30, 300) * US, chance.uniform(30, 300) * US
    steps = []
    for batch in range(batches // layers):
        for layer in range(layers):
            slot = layer % 2
            if layer >= 2 or batch:
                steps.append(Step("wait", call, 0, event=("c", slot)))
            steps += [Step("h", call, 0, h2d), Step("record", call, 0, event=("h", slot))]
            steps.append(Step("wait", call, 1, event=("h", slot)))
            steps += [Step("think", think), Step("k", call, 1, kernel / 3)] * 3
            steps.append(Step("record", call, 1, event=("c", slot)))
        steps.append(Step("event_sync", call, event=("c", (layers - 1) % 2)))
    return steps


def _random(chance: random.Random, think: float, call: float, length: int = 720) -> list[Step]:
    """Work, events and synchronizations on four streams without a plan."""
    steps = []
    for _ in range(length):
        stream, dice = chance.randrange(4), chance.random()
        event = ("e", chance.randrange(6))
        if dice < 0.45:
            steps.append(Step("k", call, stream, chance.uniform(2, 80) * US))
        elif dice < 0.6:
            steps.append(Step("h", call, stream, chance.uniform(2, 120) * US))
        elif dice < 0.7:
            steps.append(Step("d", call, stream, chance.uniform(2, 80) * US))
        elif dice < 0.8:
            steps.append(Step("record", call, stream, event=event))
        elif dice < 0.93:
            steps.append(Step("wait", call, stream, event=event))
        elif dice < 0.98:
            steps.append(Step("think", 5 * think))
        else:
            steps.append(Step("stream_sync", call, stream))
    return [*steps, Step("device_sync", call)]


class _Machine:
    """Engines serve what was ready first: one for each direction of copies, one for kernels."""

    def __init__(self) -> None:
        self.free = {"h": 0.0, "d": 0.0, "k": 0.0}
        self.queues: dict[int, list[Work]] = defaultdict(list)

    def _ready(self, one: Work) -> float | None:
        times = [one.seen + LAUNCH_LAG]
        if one.before is not None:
            if one.before.end is None:
                return None
            times.append(one.before.end + STREAM_LAG)
        for other in one.after:
            if other.end is None:
                return None
            times.append(other.end + EVENT_LAG)
        return max(times)

    def finish(self, wanted: Work) -> float:
        while wanted.end is None:
            heads = [(self._ready(queue[0]), queue) for queue in self.queues.values() if queue]
            ready = [(at, queue) for at, queue in heads if at is not None]
            at, queue = min(ready, key=lambda one: (one[0], max(one[0], self.free[one[1][0].engine])))
            one = queue.pop(0)
            free = self.free[one.engine]
            one.start = max(at, free + EVENT_LAG if free else 0.0)
            one.end = self.free[one.engine] = one.start + one.length
        return wanted.end


def execute(
    steps: list[Step], seed: int, *, copies: float = 1.0, cpu: float = 1.0, traced: bool = False, noise: float = 0.03
) -> Run:
    """cpu: factor on calls and on what is between them. traced: a profiler that slows the CPU is watching."""
    chance = random.Random(seed)
    jitter = [max(0.5, chance.gauss(1, noise)) for _ in range(2 * len(steps))]
    machine, run, ids = _Machine(), Run(), count(1)
    last: dict[int, Work] = {}
    pending: dict[int, list[Work]] = defaultdict(list)
    recorded: dict[tuple[str, int], list[Work]] = {}
    now = 10 * US

    def tail(stream: int) -> list[Work]:
        return ([last[stream]] if stream in last else []) + pending[stream]

    for place, step in enumerate(steps):
        cost = step.cost * jitter[place] * cpu
        if traced:
            cost = 1.6 * cost if step.what == "think" else cost + 3 * US
        if step.what == "think":
            now += cost
            continue
        now += BETWEEN_CALLS * cpu
        call = Call(step.what, now, now + cost, step.stream, step.event, next(ids))
        engine = step.what.removeprefix("block_")
        awaited: list[Work] = []
        if engine in "khd":
            length = step.length * jitter[place + len(steps)] * (copies if engine in "hd" else 1.0)
            one = Work(
                step.stream,
                engine,
                length,
                call.end,
                call.correlation,
                last.get(step.stream),
                pending.pop(step.stream, []),
            )
            last[step.stream] = one
            run.work.append(one)
            machine.queues[step.stream].append(one)
            awaited = [one] if step.what.startswith("block") else []
        elif step.what == "record":
            recorded[step.event] = tail(step.stream)
        elif step.what == "wait":
            pending[step.stream] = pending[step.stream] + recorded.get(step.event, [])
        elif step.what == "event_sync":
            awaited = recorded.get(step.event, [])
        else:
            streams = [step.stream] if step.what == "stream_sync" else list(last)
            awaited = [one for stream in streams for one in tail(stream)]
        for one in awaited:
            call.end = max(call.end, machine.finish(one) + SYNC_LAG)
        run.calls.append(call)
        now = call.end
    for one in run.work:
        machine.finish(one)
    return run


def write(path: Path, run: Run, events: bool = True, shift: float = 0.0) -> None:
    """events: with records of events and synchronizations. shift: by how much the clock of the GPU is ahead, ns."""
    names = {name: number for number, name in enumerate(dict.fromkeys((*NAMES.values(), "kernel")), 1)}
    process, thread = global_tid(PID, 0), global_tid(PID, TID)
    ids: dict[tuple[str, int], int] = {}
    rows: dict[str, list[tuple[object, ...]]] = {table: [] for table in (RUNTIME, KERNEL, MEMCPY)}
    if events:
        rows |= {EVENT: [], SYNCHRONIZATION: []}
    for call in run.calls:
        rows[RUNTIME].append((int(call.begin), int(call.end), 0, thread, call.correlation, names[NAMES[call.what]], 0))
        place = (1, 10 + call.stream, call.correlation, process)
        event = ids.setdefault(call.event, len(ids) + 1)
        kind = {"event_sync": 1, "wait": 2, "stream_sync": 3, "device_sync": 4}.get(call.what)
        if events and call.what == "record":
            rows[EVENT].append((*place, event))
        if events and kind:
            rows[SYNCHRONIZATION].append((*place, kind, event))
    for one in run.work:
        head = (int(one.start + shift), int(one.end + shift), 0, 1, 10 + one.stream, one.correlation, process)
        if one.engine == "k":
            rows[KERNEL].append((*head, names["kernel"]))
        else:
            rows[MEMCPY].append((*head, int(one.length * 50), *((1, 1, 2) if one.engine == "h" else (2, 2, 1))))
    write_export(path, {**rows, "StringIds": [(number, name) for name, number in names.items()]})
