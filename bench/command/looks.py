"""Where a command is while it runs, observed from outside, and whether that is the placement of its cell."""

import time
from collections.abc import Iterable, Sequence

from bench.records.host import Topology, format_cpulist
from bench.records.run import Certificate, Doubt, DoubtKind, PlacementVerdict, ThreadGroup, ThreadsObserved
from bench.records.study import Cell
from bench.records.where import Part, Problem, ProcessPlace, ProcessThreads
from bench.units import byte_size, duration
from bench.where.judge import memory_problems, thread_problems
from bench.where.look import group_threads, look, members, node_cpus, process_table, stat, threads_of
from bench.where.text import KINDS, printable

FIRST_S = 1.0
"""When a command is looked at first. Later looks at its pages follow at twice the time of the one before: the last one
is in the second half of its life. Looks at its threads alone are cheap, and are made every second."""
THREADS_EVERY_S = 1.0
# Bindings that do not say where memory is.
_WITHOUT_MEMORY = ("cpus", "preferred", "interleave")


class Looks:
    """Observes the processes that `guard` has started. All times from its construction on."""

    def __init__(self, cell: Cell, host: Topology) -> None:
        self._cell = cell
        self._nodes = node_cpus({node.id: node.cpus for node in host.nodes})
        self._began = time.monotonic()
        self._next_pages, self._next_threads = FIRST_S, FIRST_S
        self._cost_s = 0.0
        self._doubts: dict[str, Doubt] = {}
        self._gaps: dict[str, Doubt] = {}
        self.processes: tuple[ProcessPlace, ...] = ()
        self.page_looks, self.glances = 0, 0

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began

    def due(self, guard: int) -> None:
        """To be called often: makes the look that is due, if any. guard: the process id."""
        now = time.monotonic() - self._began
        if now >= self._next_pages:
            self._next_pages = max(2 * self._next_pages, now)
            self.at_pages(guard, sampled=True)
            self._next_threads = now + THREADS_EVERY_S
        elif now >= self._next_threads:
            self._next_threads = now + THREADS_EVERY_S
            self._at_threads(guard)

    def at_pages(self, guard: int, sampled: bool = False) -> None:
        """Threads, policies and pages of all processes; all pages unless sampled, which disturbs them less."""
        began = time.perf_counter()
        found, _ = look(self._members(guard), self._nodes, sampled=sampled)
        self._cost_s += time.perf_counter() - began
        if found:
            self.processes, self.page_looks = tuple(found), self.page_looks + 1
            for place in found:
                self._judge_threads(place.name, place.pid, place)
                if self._cell.binding not in _WITHOUT_MEMORY:
                    self._add(DoubtKind.PAGES, place.name, place.pid, memory_problems(place, {self._cell.mem_node}))
                self._add_gaps(place)

    def _at_threads(self, guard: int) -> None:
        began = time.perf_counter()
        for pid in self._members(guard):
            known = stat(f"/proc/{pid}")
            groups = group_threads([threads_of(pid)], self._nodes)
            if known and groups:
                self.glances += 1
                place = ProcessPlace(pid=pid, start_ticks=known.start_ticks, name=known.name, threads=groups)
                self._judge_threads(known.name, pid, place)
        self._cost_s += time.perf_counter() - began

    def certificate(self, lived_s: float) -> Certificate:
        """lived_s: how long the process was there to be looked at."""
        verdict, reasons = self._verdict(lived_s)
        groups = [_group(group) for place in self.processes for group in place.threads]
        node = self._nodes.get(self._cell.cpu_node)
        return Certificate(
            verdict=verdict,
            reasons=reasons,
            binding=self._cell.binding,
            cpu_node=self._cell.cpu_node,
            mem_node=self._cell.mem_node,
            node_cpus=None if node is None else format_cpulist(node),
            threads=ThreadsObserved(end=groups or None),
            glances=self.glances,
            cost_ms=round(1e3 * self._cost_s, 2),
        )

    def _members(self, guard: int) -> list[int]:
        table = process_table()
        return [pid for pid in members([guard], table) if pid != guard]

    def _judge_threads(self, name: str, pid: int, place: ProcessPlace) -> None:
        self._add(DoubtKind.THREADS, name, pid, thread_problems(place, {self._cell.cpu_node}, self._nodes))

    def _add(self, kind: DoubtKind, name: str, pid: int, problems: Iterable[Problem]) -> None:
        for problem in problems:
            text = f"{printable(name)} ({pid}): {self._problem_text(problem)}"
            # The same again at a later look is no further doubt.
            self._doubts.setdefault(f"{kind} {pid} {problem.kind}", Doubt(kind=kind, text=text))

    def _problem_text(self, problem: Problem) -> str:
        if problem.kind is None:
            names = ", ".join(map(printable, problem.examples))
            return (
                f"{problem.threads} thread(s) ({names}) may run on CPUs {problem.allowed_cpus}, "
                f"not only on node {self._cell.cpu_node}"
            )
        away = ", ".join(f"{byte_size(size)} on node {node}" for node, size in problem.bytes_by_node.items())
        return f"{KINDS[problem.kind]} {away}, not {self._cell.mem_node}"

    def _add_gaps(self, place: ProcessPlace) -> None:
        for gap in place.unobserved:
            if gap.part is not Part.POLICIES:
                text = f"{printable(place.name)} ({place.pid}): {gap.part}: {gap.error}"
                self._gaps.setdefault(f"{place.pid} {gap.part}", Doubt(kind=DoubtKind.PAGES_UNKNOWN, text=text))

    def _verdict(self, lived_s: float) -> tuple[PlacementVerdict, list[Doubt]]:
        binding = self._cell.binding
        if binding == "none":
            text = "nothing was bound (binding none)"
            return PlacementVerdict.NOT_BOUND, [Doubt(kind=DoubtKind.NOT_BOUND, text=text)]
        if self._doubts:
            return PlacementVerdict.MISPLACED, [*self._doubts.values()]
        if not self.page_looks:
            bound = "" if binding == "self" else "; numactl had bound it"
            text = f"ended after {duration(lived_s)}, before it could be looked at{bound}"
            return PlacementVerdict.UNPROVED, [Doubt(kind=DoubtKind.NOT_OBSERVED, text=text)]
        gaps: Sequence[Doubt] = [*self._gaps.values()]
        return (PlacementVerdict.UNPROVED, [*gaps]) if gaps else (PlacementVerdict.PROVED, [])


def _group(group: ProcessThreads) -> ThreadGroup:
    return ThreadGroup(allowed_cpus=group.allowed_cpus, threads=group.threads, examples=[*group.examples])
