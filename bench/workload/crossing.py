"""One process that measures every side of a group by turns.

A side is a placement and settings: rings of a kind and size on a node, the copies from and to them, and what is
computed of them. Streams are the same for all, and weights, slots and graphs for those that compute alike. So what
differs between two windows is where the process runs, what it copies and what it computes, and nothing that differs
between processes.
"""

import gc
import math
import os
import random
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from msgspec.structs import replace

from bench.host.certificate import Certifier
from bench.host.memory_calls import set_policy
from bench.host.moving import cell_cpus, move_threads, node_cpus
from bench.records.run import CrossedCell, Crossing, Failure, Group, Mode, Outcome, Window
from bench.records.study import Cell
from bench.workload.barrier import Barrier
from bench.workload.crossed_sides import CrossedSide, equip, usable
from bench.workload.devices import open_device
from bench.workload.execution import compilations, refuse_compilations
from bench.workload.failures import RunFailure, failure_of_side
from bench.workload.measure import (
    LatencyMarks,
    WarmupRule,
    latency,
    minor_faults,
    no_latency,
    result_of,
    trace_pass,
    warm_up,
)
from bench.workload.models import set_precision
from bench.workload.pipeline import Work
from bench.workload.profiling import Ranges, make_capture, make_ranges
from bench.workload.progress import Phase, PhaseTimes, Progress
from bench.workload.solo import issue_us, solo_us
from bench.workload.turns import (
    LARGEST_ERROR,
    MOST_EXTENSIONS,
    Turn,
    carry_over,
    half_ratios,
    planned_rounds,
    schedule,
    turn_of,
    yuen_error,
)

_USE_OTHER_NODES = "start numastudy where the cpuset has the node, or leave the node out (--numa-nodes)"
PILOT_ROUNDS = 2
# The first side of a work warms the device and the libraries up; every other one only its own rings and caches. No
# warm-up is waited for until it settles: what is left cancels, because pilot rounds and windows come by turns.
FIRST_WARM_S, WARM_S = 0.3, 0.1
# Batches that support a p99, if they take no longer: they are timed in turns after the rounds. Those of slower models
# are timed inside the windows, where two events are nothing beside a batch.
LATENCY_BATCHES, LATENCY_S = 300, 1.0


def cross(
    group: Group, progress: Progress, phases: PhaseTimes, barrier: Barrier | None = None
) -> tuple[Crossing, list[CrossedCell]]:
    """Measure the cells of a group by turns. Raise RunFailure, or what torch raises, if none can be measured.

    A cell whose rings do not fit on its node, that may not run there, or that cannot compute, fails alone. barrier:
    shared with the processes that load the host from the first warm-up to the last turn.
    """
    with torch.inference_mode():
        return _Crossing(group, progress, phases, barrier=barrier).run()


def trace(
    group: Group, progress: Progress, phases: PhaseTimes, traces: Sequence[Path], barrier: Barrier | None = None
) -> tuple[Crossing, list[CrossedCell]]:
    """Trace the cells of a group, one after the other in its order, each in a capture of its own. Otherwise as cross().

    traces: of torch.profiler, the file of each cell.
    """
    with torch.inference_mode():
        return _Crossing(group, progress, phases, traces, barrier).run()


class _Crossing:
    def __init__(
        self,
        group: Group,
        progress: Progress,
        phases: PhaseTimes,
        traces: Sequence[Path] | None = None,
        barrier: Barrier | None = None,
    ) -> None:
        """traces: None for a process without a profiler."""
        self.group, self.progress, self.phases, self.traces = group, progress, phases, traces
        self.barrier = barrier
        self.seed = f"{group.seed}/{group.crossing.group}/{group.crossing.process}"
        # Which side is allocated first alternates over processes, by another seed than the schedule's.
        order = random.Random(f"allocation/{group.seed}/{group.crossing.group}").sample(group.cells, len(group.cells))
        turned = order if group.crossing.process % 2 else order[::-1]
        # Before this process is bound: what a user or a container allows it to use.
        allowed = os.sched_getaffinity(0)
        birth = group.crossing.birth_cpu_node
        born = next((cell for cell in group.cells if cell.cpu_node == birth), None)
        self.birth_cpus = (cell_cpus(born) if born else node_cpus(birth)) & allowed
        self.sides = [CrossedSide(cell, cell_cpus(cell) & allowed) for cell in turned]
        self.last: CrossedSide | None = None
        self.warm: set[Work] = set()
        self.turns: dict[int, Turn] = {}
        self.timed = [side for side in self.sides if not no_latency(side.cell.direction)]

    def run(self) -> tuple[Crossing, list[CrossedCell]]:
        first, phases = self.group.cells[0], self.phases
        self._be_born()
        device = open_device(first)
        # The same number for all sides: more threads than CPUs of the smallest node would wait for each other.
        torch.set_num_threads(min(len(side.cpus) for side in self.sides if side.cpus))
        phases.mark("device")
        set_precision(first.dtype)
        self.pipeline, self.born_bytes = equip(self.sides, device, phases, self._allocating)
        self.progress.allocate(None)
        if self.barrier:
            # All warm-ups are under the load that the turns have.
            self.barrier.wait()
        gc.collect()
        # No collection inside a window, and none of objects that live as long as the process.
        gc.freeze()
        gc.disable()
        try:
            return self._measure() if self.traces is None else self._trace(self.traces)
        finally:
            gc.enable()
            gc.unfreeze()

    def _measure(self) -> tuple[Crossing, list[CrossedCell]]:
        pace_s = self._warm_up()
        self.phases.mark("warmup")
        usable, planned, compiled = self._usable(), 0, compilations()
        turns = [self.turns[side.cell.batch_size] for side in usable]
        marks = [
            self._marks(turn.batches) if turn.pace_s * LATENCY_BATCHES > LATENCY_S and side in self.timed else None
            for side, turn in zip(usable, turns, strict=True)
        ]
        size = planned_rounds(len(usable), self.group.measure_s, self.round_s)
        for extension in range(MOST_EXTENSIONS):
            orders = schedule(len(usable), size, f"{self.seed}/{extension}")
            self.progress.enter(Phase.MEASURING, len(orders) * 2 * sum(turn.batches for turn in turns))
            for number, order in enumerate(orders):
                for turn, index in enumerate(order):
                    side = usable[index]
                    window = self._window(side, planned + number, turn, turns[index].batches, marks[index])
                    side.windows.append(window)
            planned += len(orders)
            # By the noise alone, never by the size or the sign of an effect.
            if max(self._errors(usable).values(), default=0.0) <= LARGEST_ERROR:
                break
        self.phases.mark("measure")
        self._refuse_compiled(compilations() - compiled)
        self._time_latencies()
        self._end_load()
        for side in self._usable():
            self._finish(side)
        self.progress.enter(Phase.DONE)
        self.phases.mark("finish")
        facts = replace(
            self._facts(),
            rounds=planned,
            batches=self.fastest.batches,
            lead_batches=self.fastest.lead_batches,
            pilot_pace_s=pace_s,
            error={name: error for name, error in self._errors(usable).items() if error < math.inf},
            carry_over={side.cell.name: change for side in usable if (change := carry_over(side.windows)) is not None},
        )
        return facts, self._crossed_cells()

    def _trace(self, traces: Sequence[Path]) -> tuple[Crossing, list[CrossedCell]]:
        by_name = {side.cell.name: side for side in self.sides}
        ranges, captured = make_ranges(self.group.cells[0]), list[str]()
        for cell, file in zip_longest(self.group.cells, traces):
            side = by_name[cell.name]
            if side.failure or not self._warm(side, ranges):
                continue
            self.phases.mark("warmup")
            warmed, certifier = side.warmed, side.certifier
            assert warmed is not None and certifier is not None
            capture = make_capture(cell, file)
            captured.append(cell.name)
            window = trace_pass(self.pipeline, cell.batches_per_pass, ranges, capture, self.progress, certifier.see_cpu)
            certificate = certifier.finish()
            side.result = result_of(
                cell, Mode.TRACED, self.pipeline, warmed, [window], certificate, self.pipeline.work.compile_s
            )
            self.phases.mark("measure")
        self._end_load()
        self._usable()
        return replace(self._facts(), captured=captured), self._crossed_cells()

    def _facts(self) -> Crossing:
        return replace(
            self.group.crossing,
            placements=[side.cell.name for side in self.sides],
            threads=len(os.listdir("/proc/self/task")),
            born_bytes=self.born_bytes,
        )

    def _crossed_cells(self) -> list[CrossedCell]:
        seconds = dict(self.phases.seconds)
        by_name = {
            side.cell.name: CrossedCell(
                cell=side.cell.name,
                result=replace(side.result, phases_s=seconds) if side.result else None,
                failure=side.failure,
            )
            for side in self.sides
        }
        return [by_name[cell.name] for cell in self.group.cells]

    def _be_born(self) -> None:
        """Bind this process to its birth, as a user's numactl would have: what it allocates from here on is there."""
        crossing = self.group.crossing
        try:
            move_threads(self.birth_cpus)
            set_policy("bind", (crossing.birth_mem_node,))
        except OSError as error:
            what = f"cannot start on node {crossing.birth_cpu_node} with memory of {crossing.birth_mem_node}: {error}"
            raise RunFailure(Outcome.BIND_FAILED, what, _USE_OTHER_NODES) from None

    def _allocating(self, cell: Cell) -> None:
        self.progress.allocate([one.name for one in self.group.cells].index(cell.name))

    def _end_load(self) -> None:
        if self.barrier:
            self.barrier.finish()

    def _usable(self) -> list[CrossedSide]:
        return usable(self.sides)

    def _place(self, side: CrossedSide) -> int:
        """Move all threads and later allocations to the side's nodes; copy and compute as it does.

        Return how many threads moved.
        """
        moved = move_threads(side.cpus)
        set_policy("bind", (side.cell.mem_node,))
        if self.last is not side:
            assert side.part is not None
            self.pipeline.use(side.part)
        return moved

    def _warm_up(self) -> float:
        """Warm every side up; return the time per batch of the fastest, from pilot rounds.

        From rounds in which they take turns: the paces of warm-ups that follow each other differ by whatever else
        happened on the host meanwhile, and a side with other batches than the rest would be measured differently.
        """
        for side in self._usable():
            self._warm(side)
        usable = self._usable()
        self._count_batches([(side, side.warmed.batch_s) for side in usable if side.warmed])
        for number in range(PILOT_ROUNDS):
            order = schedule(len(usable), 1, f"{self.seed}/pilot{number}")[0]
            pilots = [
                (side, self._window(side, 0, turn, self.turns[side.cell.batch_size].batches).batch_s)
                for turn, side in enumerate(usable[index] for index in order)
            ]
            self._count_batches(pilots)
        return self.fastest.pace_s

    def _warm(self, side: CrossedSide, ranges: Ranges | None = None) -> bool:
        """False where it cannot be placed or does not run, which is then its failure."""
        try:
            self._place(side)
        except OSError as error:
            side.failure = Failure(status=Outcome.BIND_FAILED, reason=str(error), advice=_USE_OTHER_NODES)
            return False
        cell = side.cell
        assert side.work is not None
        warm_s = WARM_S if side.work in self.warm else FIRST_WARM_S
        self.last = side
        batches = -(-cell.warmup_samples // cell.batch_size)
        rule = WarmupRule(self.group.window_s, batches, min_s=warm_s, max_s=warm_s)
        try:
            side.warmed = warm_up(self.pipeline, rule, self.progress, ranges)
        except Exception as error:
            side.failure = failure_of_side(error).record()
            # Raises where the device cannot go on.
            self.pipeline.drain()
            return False
        self.warm.add(side.work)
        side.certifier = Certifier(cell, self.pipeline.addresses())
        side.certifier.start()
        return True

    def _count_batches(self, paces: Sequence[tuple[CrossedSide, float]]) -> None:
        """By the seconds per batch of each turn of a round: all sides of one batch size have the same batches."""
        by_size: dict[int, float] = {}
        for side, pace_s in paces:
            by_size[side.cell.batch_size] = min(pace_s, by_size.get(side.cell.batch_size, math.inf))
        self.turns = {size: turn_of(pace_s, self.group.window_s, self.group.lead_s) for size, pace_s in by_size.items()}
        self.fastest = min(self.turns.values(), key=lambda turn: turn.pace_s)
        self.round_s = sum(
            (turn.lead_batches + turn.batches) * pace_s
            for side, pace_s in paces
            for turn in [self.turns[side.cell.batch_size]]
        )

    def _refuse_compiled(self, count: int) -> None:
        """The cells that compile fail where anything was compiled inside the windows."""
        try:
            refuse_compilations(count)
        except RunFailure as failure:
            for side in self._usable():
                if side.cell.compile_model != "off":
                    side.failure = failure.record()

    def _time_latencies(self) -> None:
        """The latencies of fast models, by turns too."""
        sides = [side for side in self._usable() if side in self.timed and not side.latencies_us]
        if not sides:
            return
        orders = schedule(len(sides), 1, f"{self.seed}/latencies")
        count = math.ceil(LATENCY_BATCHES / (2 * len(orders)))
        marks = self._marks(count)
        for number, order in enumerate(orders):
            for turn, index in enumerate(order):
                self._window(sides[index], number, turn, count, marks)

    def _marks(self, count: int) -> LatencyMarks:
        marks = LatencyMarks(self.pipeline.device)
        marks.prepare(count)
        return marks

    def _window(
        self, side: CrossedSide, number: int, turn: int, batches: int, marks: LatencyMarks | None = None
    ) -> Window:
        """A turn: place, lead-in where it is another side's, window, look.

        The window begins with the end of the lead-in's last batch and nothing is drained in between: a drained window
        of 20 ms would include filling the pipeline, 0.9 % of the copies of a fast GPU.
        """
        pipeline, certifier = self.pipeline, side.certifier
        assert certifier is not None
        began_ns = time.perf_counter_ns()
        moved = self._place(side)
        move_us = (time.perf_counter_ns() - began_ns) // 1000
        # A latency counts from where all slots are in use.
        stays = len(pipeline.slots) if marks else 1
        lead = stays if self.last is side else max(stays, self.turns[side.cell.batch_size].lead_batches)
        self.last = side
        beat = self.progress.counting(certifier.see_cpu)
        faults, start_ns = minor_faults(), time.perf_counter_ns()
        opened, closed = (pipeline.device.event(timing=True) for _ in range(2))
        marks = marks if side in self.timed else None
        starts, ends = marks.events(batches) if marks else ([None] * batches,) * 2
        pipeline.run(
            lead + batches,
            beat,
            starts=[*[None] * lead, *starts],
            ends=[*[None] * (lead - 1), opened, *ends[:-1], ends[-1] or closed],
        )
        pipeline.drain()
        duration_s = opened.elapsed_time(ends[-1] or closed) / 1e3
        if marks:
            side.latencies_us += marks.read_us()
        certifier.glance()
        return Window(
            batches=batches,
            duration_s=duration_s,
            start_ns=start_ns,
            minor_faults=minor_faults() - faults,
            round=number,
            turn=turn,
            moved=moved,
            move_us=move_us,
            lead_batches=lead,
        )

    def _errors(self, usable: list[CrossedSide]) -> dict[str, float]:
        """By cell, the error of its ratio to the first side."""
        base, *others = usable
        return {other.cell.name: yuen_error(half_ratios(base.windows, other.windows)) for other in others}

    def _finish(self, side: CrossedSide) -> None:
        """Where asked for, the stages in isolation; then the last look, which counts every page."""
        cell, pipeline = side.cell, self.pipeline
        warmed, certifier = side.warmed, side.certifier
        assert warmed is not None and certifier is not None
        self._place(side)
        self.last = side
        certificate = certifier.finish()
        issue = issue_us(pipeline, warmed.batch_s) if self.group.solo else None
        solo = solo_us(pipeline, warmed.batch_s, issue) if issue is not None else None
        result = result_of(cell, Mode.CROSSED, pipeline, warmed, side.windows, certificate, pipeline.work.compile_s)
        latency_us = latency(side.latencies_us, no_latency(cell.direction))
        side.result = replace(result, latency_us=latency_us, issue_us=issue, solo_us=solo)
