"""Where a command is while it runs, observed from outside, and whether that is the placement of its cell."""

import time
from collections.abc import Iterable, Mapping, Sequence

from bench.command.files import Files
from bench.host.gpus import gpu_users, query_nvml
from bench.records.command import Command
from bench.records.host import Topology, format_cpulist
from bench.records.run import Certificate, Doubt, DoubtKind, PlacementVerdict, ThreadGroup, ThreadsObserved
from bench.records.study import Cell
from bench.records.where import Part, Problem, ProcessPlace, ProcessThreads
from bench.study.command import why_elsewhere
from bench.units import byte_size, duration
from bench.where.judge import memory_problems, near_of, thread_problems
from bench.where.look import Stat, ancestors, group_threads, look, members, node_cpus, process_table, stat, threads_of
from bench.where.text import KINDS, printable

FIRST_S = 1.0
"""When a command is looked at first. Later looks at its pages follow at twice the time of the one before: the last one
is in the second half of its life. Looks at its threads alone are cheap, and are made every second."""
THREADS_EVERY_S = 1.0
FILES_EVERY_S = 0.5
# Bindings that do not say where memory is.
_WITHOUT_MEMORY = ("cpus", "preferred", "interleave")


class Looks:
    """Observes the processes that `guard` has started. All times from its construction on.

    They belong on the nodes of the cell. Of a command that binds itself and sees all GPUs, each rank belongs on the
    nodes nearest to the GPUs that it uses.
    """

    def __init__(self, cell: Cell, command: Command, host: Topology) -> None:
        self._cell, self._host = cell, host
        self._elsewhere = why_elsewhere(command)
        self._ranks: dict[int, set[int]] | None = {} if command.gpus == "all" and cell.binding == "self" else None
        self._nodes = node_cpus({node.id: node.cpus for node in host.nodes})
        self._began = time.monotonic()
        self._next_pages, self._next_threads, self._next_files = FIRST_S, FIRST_S, 0.0
        self._cost_s = 0.0
        self._doubts: dict[str, Doubt] = {}
        self._gaps: dict[str, Doubt] = {}
        self.processes: tuple[ProcessPlace, ...] = ()
        self.files = Files(command)
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
        table = process_table()
        pids = self._members(guard, table)
        found, _ = look(pids, self._nodes, sampled=sampled)
        self.files.see(pids)
        if self._ranks is not None:
            self._ranks |= nodes_of_ranks(self._host, pids, table)
        self._cost_s += time.perf_counter() - began
        if found:
            self.processes, self.page_looks = tuple(found), self.page_looks + 1
            for place in found:
                self._judge_threads(place)
                near = self._near(place.pid, self._cell.mem_node)
                if near and self._cell.binding not in _WITHOUT_MEMORY:
                    self._add(DoubtKind.PAGES, place, memory_problems(place, near), near)
                self._add_gaps(place)

    def at_start(self, guard: int) -> None:
        """To be called often while a server starts: it reads files that it closes before it is ready."""
        if self.age_s >= self._next_files:
            self._next_files = self.age_s + FILES_EVERY_S
            self.files.see(self._members(guard, process_table()))

    def _at_threads(self, guard: int) -> None:
        began = time.perf_counter()
        for pid in self._members(guard, process_table()):
            known = stat(f"/proc/{pid}")
            groups = group_threads([threads_of(pid)], self._nodes)
            if known and groups:
                self.glances += 1
                place = ProcessPlace(pid=pid, start_ticks=known.start_ticks, name=known.name, threads=groups)
                self._judge_threads(place)
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

    def _members(self, guard: int, table: Mapping[int, Stat]) -> list[int]:
        return [pid for pid in members([guard], table) if pid != guard]

    def _near(self, pid: int, node: int) -> set[int]:
        """The nodes that a process belongs on; none if they are unknown. node: of the cell."""
        return {node} if self._ranks is None else self._ranks.get(pid, set())

    def _judge_threads(self, place: ProcessPlace) -> None:
        if near := self._near(place.pid, self._cell.cpu_node):
            self._add(DoubtKind.THREADS, place, thread_problems(place, near, self._nodes), near)

    def _add(self, kind: DoubtKind, place: ProcessPlace, problems: Iterable[Problem], near: set[int]) -> None:
        for problem in problems:
            text = f"{printable(place.name)} ({place.pid}): {_problem_text(problem, format_cpulist(near))}"
            # The same again at a later look is no further doubt.
            self._doubts.setdefault(f"{kind} {place.pid} {problem.kind}", Doubt(kind=kind, text=text))

    def _add_gaps(self, place: ProcessPlace) -> None:
        if not self._near(place.pid, self._cell.mem_node):
            text = f"{printable(place.name)} ({place.pid}): the node nearest to its GPU is unknown"
            self._gaps.setdefault(f"{place.pid}", Doubt(kind=DoubtKind.NOT_OBSERVED, text=text))
        for gap in place.unobserved:
            if gap.part is not Part.POLICIES:
                text = f"{printable(place.name)} ({place.pid}): {gap.part}: {gap.error}"
                self._gaps.setdefault(f"{place.pid} {gap.part}", Doubt(kind=DoubtKind.PAGES_UNKNOWN, text=text))

    def _verdict(self, lived_s: float) -> tuple[PlacementVerdict, list[Doubt]]:
        binding = self._cell.binding
        if binding == "none":
            text = "nothing was bound (binding none)"
            return PlacementVerdict.NOT_BOUND, [Doubt(kind=DoubtKind.NOT_BOUND, text=text)]
        if self._elsewhere:
            text = f"{self._elsewhere}, where looks from this process see nothing"
            return PlacementVerdict.UNPROVED, [Doubt(kind=DoubtKind.NOT_OBSERVED, text=text)]
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


def nodes_of_ranks(host: Topology, pids: Iterable[int], table: Mapping[int, Stat]) -> dict[int, set[int]]:
    """The nodes nearest to the GPUs that each process uses, or its nearest ancestor with any; else those of all."""
    pids = [*pids]
    users = gpu_users(query_nvml(), pids)
    near = {gpu.index: set(near_of(gpu).nodes) for gpu in host.gpus}
    of_all = {index for used in users.values() for index in used}
    used_by = {pid: next((users[one] for one in ancestors(pid, table) if one in users), ()) or of_all for pid in pids}
    nodes = {pid: [near.get(index, set()) for index in used] for pid, used in used_by.items()}
    return {pid: set.union(*sets) if sets and all(sets) else set() for pid, sets in nodes.items()}


def _problem_text(problem: Problem, near: str) -> str:
    if problem.kind is None:
        names = ", ".join(map(printable, problem.examples))
        what = f"{problem.threads} thread(s) ({names}) may run on CPUs {problem.allowed_cpus}"
        return f"{what}, not only on node {near}"
    away = ", ".join(f"{byte_size(size)} on node {node}" for node, size in problem.bytes_by_node.items())
    return f"{KINDS[problem.kind]} {away}, not {near}"
